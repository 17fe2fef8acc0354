//! Whether a status ever claims more than is true (I17).

use crate::site::{Site, Status};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time between two questions to one node.
const ASK: Duration = Duration::from_millis(150);

/// A status with when it was asked for and when it came.
#[derive(Clone, Debug)]
pub struct Report {
    /// The node that answered.
    pub node: String,
    /// Before the question.
    pub asked: Instant,
    /// After the answer.
    pub answered: Instant,
    /// What it said.
    pub status: Status,
}

/// Asks every node for its status again and again.
#[derive(Debug)]
pub struct Honesty {
    reports: Arc<Mutex<Vec<Report>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Honesty {
    /// Begins to ask.
    pub fn start(site: &Site) -> Self {
        let (reports, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let threads = site.nodes().iter().map(|node| {
            let (site, node) = (site.clone(), node.clone());
            let (reports, stop) = (Arc::clone(&reports), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    // A node that does not answer claims nothing.
                    if let Ok(status) = site.status(&node) {
                        let report = Report { node: node.clone(), asked, answered: Instant::now(), status };
                        reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                    }
                    thread::sleep(ASK);
                }
            })
        });
        let threads = threads.collect();
        Self { reports, stop, threads }
    }

    /// Everything reported so far.
    pub fn reports(&self) -> Vec<Report> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reports that contradict themselves: green although a copy is not known to be whole.
    pub fn contradictions(&self) -> Vec<String> {
        let wrong = |report: &Report| {
            let reason = report.status.doubt()?;
            report.status.green().then(|| format!("{} said green although {reason}", report.node))
        };
        self.reports().iter().filter_map(wrong).collect()
    }

    /// Green reports, asked for after `from` and answered before `to`, while something was known to be broken.
    pub fn green_between(&self, from: Instant, to: Instant) -> Vec<String> {
        let reports = self.reports();
        let within = reports.iter().filter(|report| report.asked >= from && report.answered <= to);
        within
            .filter(|report| report.status.green())
            .map(|report| format!("{} said green {:?} after the fault", report.node, report.asked - from))
            .collect()
    }
}

impl Drop for Honesty {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}
