//! Which machine holds the service's address, has the volume's device, and has its file system mounted, and when.
//!
//! Looked at from the host every few milliseconds, so that nothing inside a machine is asked or disturbed.

use super::spans::Spans;
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::process::Process;
use crate::sys;
use rustix::fd::AsFd;
use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// What to look for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The service's address.
    pub address: IpAddr,
    /// The volume's name.
    pub volume: String,
    /// Where its file system is mounted.
    pub mount: String,
}

/// What was seen on one machine.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// It held the address.
    pub address: Spans,
    /// The volume's device existed.
    pub device: Spans,
    /// The file system was mounted.
    pub mount: Spans,
}

/// Probers for every machine of a lab.
#[derive(Debug)]
pub struct Watch {
    seen: BTreeMap<String, Arc<Mutex<Seen>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Begins to look.
    pub fn start(lab: &Lab, wanted: &Wanted) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut watch = Self { seen: BTreeMap::new(), stop: Arc::clone(&stop), threads: Vec::new() };
        for node in lab.names()? {
            let seen = Arc::new(Mutex::new(Seen::default()));
            watch.seen.insert(node.clone(), Arc::clone(&seen));
            let (lab, wanted, stop) = (lab.clone(), wanted.clone(), Arc::clone(&stop));
            watch.threads.push(thread::spawn(move || look_until(&lab, &node, &wanted, &seen, &stop)));
        }
        Ok(watch)
    }

    /// What was seen on `node` so far.
    pub fn seen(&self, node: &str) -> Seen {
        self.seen.get(node).map(|seen| lock(seen).clone()).unwrap_or_default()
    }

    /// Pairs of machines that held the address at the same moment, and for how long (I11).
    pub fn double_holders(&self) -> Vec<(String, String, Duration)> {
        let all: Vec<(&String, Seen)> =
            self.seen.iter().map(|(name, seen)| (name, lock(seen).clone())).collect();
        let mut found = Vec::new();
        for (index, (name, seen)) in all.iter().enumerate() {
            for (other, theirs) in all.iter().skip(index + 1) {
                if let Some(time) = seen.address.overlap(&theirs.address) {
                    found.push(((*name).clone(), (*other).clone(), time));
                }
            }
        }
        found
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

fn look_until(lab: &Lab, node: &str, wanted: &Wanted, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut home: Option<Process> = None;
    while !stop.load(Ordering::Relaxed) {
        if !home.is_some_and(Process::alive) {
            home = lab.init(node).ok().filter(|init| enter(*init).is_ok());
        }
        let at = Instant::now();
        // A dead machine has nothing, whatever its namespaces still show.
        let found = home.map(|init| look(init, wanted)).filter(|_| home.is_some_and(Process::alive));
        let (address, device, mount) = found.unwrap_or_default();
        let mut seen = lock(seen);
        seen.address.look(at, address);
        seen.device.look(at, device);
        seen.mount.look(at, mount);
        drop(seen);
        thread::sleep(LOOK);
    }
}

fn enter(init: Process) -> Result<()> {
    sys::enter(init.handle()?.as_fd(), sys::NETWORK)
}

fn look(init: Process, wanted: &Wanted) -> (bool, bool, bool) {
    // Only an address that the machine holds can be bound to: one system call instead of a dump of all addresses.
    let address = UdpSocket::bind((wanted.address, 0)).is_ok();
    let device =
        std::fs::symlink_metadata(format!("/proc/{}/root/dev/anshin/{}", init.pid, wanted.volume)).is_ok();
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", init.pid)).unwrap_or_default();
    let mount = mounts.lines().any(|line| line.split_whitespace().nth(4) == Some(wanted.mount.as_str()));
    (address, device, mount)
}
