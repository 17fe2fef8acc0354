//! A client that appends without pause, reconnects when it must, and remembers every acknowledged row.

use super::program::{Program, Session};
use crate::error::{Context, Result, refuse};
use crate::lab::Lab;
use crate::lab::process::Process;
use crate::sys;
use rustix::fd::AsFd;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long the client waits for a connection or an answer before it tries anew. Short, so that the measured pause is
/// the site's and not the client's.
const PATIENCE: Duration = Duration::from_millis(250);
/// Pause after a failed attempt.
const RETRY: Duration = Duration::from_millis(5);

/// From where a client writes.
#[derive(Clone, Debug)]
pub enum Place {
    /// From the client's place, to an address.
    Client(IpAddr),
    /// From inside a machine, to its own loopback: reaches a program that everybody else is cut off from.
    Inside(String),
}

/// An acknowledged row.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// The row.
    pub row: String,
    /// When the acknowledgement arrived.
    pub at: Instant,
    /// When the connection that it came over was asked for.
    pub connecting: Instant,
}

#[derive(Debug, Default)]
struct Seen {
    acknowledged: Vec<Acknowledged>,
    connections: u64,
    last_error: String,
}

/// A running client.
#[derive(Debug)]
pub struct Writer {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    /// Starts a client whose rows begin with `name`. It writes at most one row per `pace`.
    pub fn start(lab: &Lab, name: &str, program: Program, place: Place, pace: Duration) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let task =
            Task { lab: lab.clone(), name: name.to_owned(), program, place, pace, seen: Arc::clone(&seen) };
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || task.run(&stopped));
        Self { seen, stop, thread: Some(thread) }
    }

    /// Every row acknowledged so far.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        lock(&self.seen).acknowledged.clone()
    }

    /// The moment of the first acknowledgement after `from`.
    pub fn first_after(&self, from: Instant) -> Option<Instant> {
        lock(&self.seen).acknowledged.iter().map(|row| row.at).find(|at| *at > from)
    }

    /// Waits for an acknowledgement of a row after `from`.
    pub fn wait_after(&self, from: Instant, limit: Duration) -> Result<Instant> {
        self.wait(limit, |row| row.at > from)
    }

    /// Waits for an acknowledgement over a connection that was asked for after `from`: one that was on its way when its
    /// server died may still arrive and says nothing of the successor.
    pub fn wait_reconnected(&self, from: Instant, limit: Duration) -> Result<Instant> {
        self.wait(limit, |row| row.connecting > from)
    }

    fn wait(&self, limit: Duration, wanted: impl Fn(&Acknowledged) -> bool) -> Result<Instant> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(row) = lock(&self.seen).acknowledged.iter().find(|row| wanted(row)) {
                return Ok(row.at);
            }
            thread::sleep(RETRY);
        }
        let error = lock(&self.seen).last_error.clone();
        refuse(format!("no row was acknowledged within {limit:?}; the last attempt said: {error}"))
    }

    /// Longest time between two acknowledgements that follow each other, of which the second came after `from`.
    pub fn longest_pause(&self, from: Instant) -> Duration {
        longest_pause(&lock(&self.seen).acknowledged, from)
    }

    /// How often it had to connect.
    pub fn connections(&self) -> u64 {
        lock(&self.seen).connections
    }

    /// Ends the client; what it was told.
    pub fn stop(mut self) -> Vec<Acknowledged> {
        self.halt();
        self.acknowledged()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A prober that panicked shows as missing acknowledgements.
            let _panicked = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.halt();
    }
}

struct Task {
    lab: Lab,
    name: String,
    program: Program,
    place: Place,
    pace: Duration,
    seen: Arc<Mutex<Seen>>,
}

impl Task {
    fn run(&self, stop: &AtomicBool) {
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let failed = match self.attempt(&mut number, stop) {
                Ok(()) => return,
                Err(error) => error.to_string(),
            };
            lock(&self.seen).last_error = failed;
            thread::sleep(RETRY);
        }
    }

    /// Enters the place, connects and writes until something fails or it is time to stop.
    fn attempt(&self, number: &mut u64, stop: &AtomicBool) -> Result<()> {
        let home = self.home()?;
        sys::enter(home.handle()?.as_fd(), sys::NETWORK)?;
        let address = match &self.place {
            Place::Client(address) => *address,
            Place::Inside(_) => Ipv4Addr::LOCALHOST.into(),
        };
        let connecting = Instant::now();
        let mut session = self.program.connect(address, PATIENCE).at("connecting")?;
        lock(&self.seen).connections += 1;
        while !stop.load(Ordering::Relaxed) && home.alive() {
            self.one(&mut session, number, connecting)?;
            thread::sleep(self.pace);
        }
        if stop.load(Ordering::Relaxed) { Ok(()) } else { refuse("the machine died") }
    }

    fn home(&self) -> Result<Process> {
        match &self.place {
            Place::Inside(node) => self.lab.init(node),
            Place::Client(_) => match self.lab.load()?.client {
                Some(client) => Ok(client),
                None => refuse("the client's place is not up"),
            },
        }
    }

    fn one(&self, session: &mut Session, number: &mut u64, connecting: Instant) -> Result<()> {
        // A row whose answer never came may be there or not; its number is not used again.
        *number += 1;
        let row = format!("{}-{number}", self.name);
        session.append(&row).at("appending")?;
        lock(&self.seen).acknowledged.push(Acknowledged { row, at: Instant::now(), connecting });
        Ok(())
    }
}

fn longest_pause(acknowledged: &[Acknowledged], from: Instant) -> Duration {
    let pairs = acknowledged.windows(2).filter(|pair| pair[1].at > from);
    pairs.map(|pair| pair[1].at - pair[0].at).max().unwrap_or_default()
}

/// Every row that the program has, read from the client's place.
pub fn read_all(lab: &Lab, program: Program, address: IpAddr, limit: Duration) -> Result<Vec<String>> {
    let Some(client) = lab.load()?.client else { return refuse("the client's place is not up") };
    let end = Instant::now() + limit;
    loop {
        let listed = sys::in_network(client.pid, move || {
            let mut session = program.connect(address, PATIENCE)?;
            session.patience(Duration::from_secs(30))?;
            session.list()
        })?;
        match listed {
            Ok(rows) => return Ok(rows),
            Err(source) if Instant::now() > end => return Err(source).at("reading all rows"),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Acknowledged rows that are not among those present (I1).
pub fn missing(acknowledged: &[Acknowledged], present: &[String]) -> Vec<String> {
    let present: BTreeSet<&str> = present.iter().map(String::as_str).collect();
    acknowledged.iter().map(|row| row.row.clone()).filter(|row| !present.contains(row.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_began_before_the_fault_counts_whole() {
        let start = Instant::now();
        let row = |after| Acknowledged {
            row: String::new(),
            at: start + Duration::from_millis(after),
            connecting: start,
        };
        let rows = [row(0), row(300), row(310), row(900), row(905)];
        let from = |after| longest_pause(&rows, start + Duration::from_millis(after));
        assert_eq!(from(320), Duration::from_millis(590));
        assert_eq!(from(902), Duration::from_millis(5), "what ended before does not count");
    }
}
