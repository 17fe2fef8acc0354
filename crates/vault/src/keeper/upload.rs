//! Threads that store packs, so that those who fill packs need not wait for the storage.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads. Who hands over a job while all are busy waits: that bounds the memory packs take.
pub(crate) struct Uploader {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Uploader {
    pub(crate) fn new(threads: usize) -> Self {
        let (jobs, receiver) = sync_channel::<Job>(0);
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = (0..threads)
            .filter_map(|_| {
                let receiver = receiver.clone();
                std::thread::Builder::new().name("vault-upload".into()).spawn(move || work(&receiver)).ok()
            })
            .collect();
        Self { jobs: Some(jobs), threads }
    }

    /// How many jobs it has room for at once.
    pub(crate) fn limit(&self) -> usize {
        self.threads.len().max(1)
    }

    /// Runs the job on one of the threads, or here if there are none.
    pub(crate) fn run(&self, job: Job) {
        let unsent = match &self.jobs {
            Some(jobs) if !self.threads.is_empty() => jobs.send(job).err().map(|error| error.0),
            _ => Some(job),
        };
        if let Some(job) = unsent {
            job();
        }
    }
}

fn work(receiver: &Mutex<Receiver<Job>>) {
    loop {
        let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        job();
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // The last owner may be a job on one of these threads.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
