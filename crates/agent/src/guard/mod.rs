//! The guard: a small process that holds service addresses while, and only while, the lease of the volume they depend
//! on is valid (R11, R12).
//!
//! ```text
//!  volume process ──lease record (tmpfs)──▶ guard ──rtnetlink──▶ kernel: address with a lifetime of 2 s
//!  daemon ──hold/release (Unix socket)────▶   └────packets────▶ neighbours: gratuitous ARP, unsolicited NA
//! ```
//! - A lease that ends takes the address with it, whatever the daemon does.
//! - A guard that is frozen or killed loses the address too: the kernel removes it at the end of its lifetime.
//! - Holds are kept in the run directory, so that a restarted guard renews or drops what the last one added.
//!
//! [`GuardCore`] decides, on times and records that are passed in; [`run`] is the loop around it.

mod client;
mod core;
mod holds;
mod lease;
mod netlink;
mod network;
mod packet;
mod protocol;
mod server;

pub use client::{Client, operate};
pub use core::{Command, GuardCore, LeaseReading, Timing};
pub use protocol::{Event, Happened, Hold, HoldStatus, Reply, Request};

use anshin_base::{Millis, Mono, Problem};
use holds::Holds;
use lease::Leases;
use network::Network;
use protocol::ADDRESS_STAYS;
use rustix::{event::Timespec, time::ClockId};
use server::Server;
use std::path::PathBuf;

/// How often the kernel looks at the lifetimes of addresses.
const KERNEL_LOOKS_S: u32 = 1;
/// How long an address can outlive its lease when the guard is frozen or killed right after renewing it: the kernel's
/// lifetime, and the time until the kernel looks. With a living guard the address is gone before the lease ends.
pub const FROZEN_GUARD_BOUND: Millis = Millis((network::LIFETIME_S + KERNEL_LOOKS_S) as u64 * 1_000);

/// Where the guard's files are.
#[derive(Clone, Debug)]
pub struct Options {
    /// anshin's run directory, where holds are kept.
    pub run_dir: PathBuf,
    /// The socket it serves.
    pub socket: PathBuf,
    /// Its times.
    pub timing: Timing,
    /// Lock memory and ask for priority. False only in tests.
    pub protect: bool,
}

impl Options {
    /// The usual places under `run_dir`.
    #[must_use]
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        let run_dir = run_dir.into();
        Self { socket: run_dir.join("guard.sock"), run_dir, timing: Timing::default(), protect: true }
    }
}

/// Runs the guard until the process is ended. Addresses it holds then go at the end of their kernel lifetime, or stay
/// if a new guard takes them over before.
///
/// # Errors
/// `guard-setup` if the socket, the run directory or the network cannot be used.
pub fn run(options: &Options) -> Result<(), Problem> {
    let setup = |place: &str, error: std::io::Error| {
        Problem::new("guard-setup", format!("the guard cannot run: {place}: {error}"))
    };
    std::fs::create_dir_all(&options.run_dir).map_err(|error| setup("the run directory", error))?;
    let network = Network::open()
        .map_err(|error| setup("the network", error).hint("it needs root or the capability CAP_NET_ADMIN"))?;
    let server = Server::listen(&options.socket).map_err(|error| setup("the socket", error))?;
    let holds = Holds::new(&options.run_dir);
    let mut core = GuardCore::new(options.timing);
    for hold in holds.load().map_err(|error| setup("the kept holds", error))? {
        core.resume(hold);
    }
    if options.protect {
        protect();
    }
    Guard { core, network, server, holds, leases: Leases::default() }.work()
}

struct Guard {
    core: GuardCore,
    network: Network,
    server: Server,
    holds: Holds,
    leases: Leases,
}

impl Guard {
    fn work(mut self) -> Result<(), Problem> {
        loop {
            self.look();
            let wait = self.core.next_look(now()).since(now()).0.max(1);
            let wait = Timespec {
                tv_sec: i64::try_from(wait / 1000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(wait % 1000).unwrap_or_default() * 1_000_000,
            };
            let requests = self.server.wait(&wait);
            for (client, request) in requests {
                let reply = self.serve(client, request);
                self.server.send(client, &reply);
            }
        }
    }

    /// Reads the leases, decides, acts.
    fn look(&mut self) {
        for path in self.core.lease_paths() {
            let reading = self.leases.read(&path);
            self.core.observe(&path, reading);
        }
        // The clock is read after the records: a record that ends meanwhile is seen as ended.
        let commands = self.core.decide(now());
        self.act(commands);
    }

    fn act(&mut self, commands: Vec<Command>) {
        for command in commands {
            let outcome = self.network.execute(&command);
            if let Err(reason) = &outcome {
                tracing::warn!(?command, reason, "not done");
            }
            for event in self.core.done(now(), &command, outcome) {
                tracing::info!(address = %event.address, what = ?event.happened, "address");
                self.server.broadcast(&Reply::Event(event));
            }
        }
    }

    fn serve(&mut self, client: server::ClientId, request: Request) -> Reply {
        match request {
            Request::List => Reply::Holds(self.core.status()),
            Request::Events => {
                self.server.subscribe(client);
                Reply::Done
            }
            Request::Hold(hold) => self.take(hold).map_or_else(Reply::Refused, |()| Reply::Done),
            Request::Release { address } => {
                let commands = self.core.release(address);
                self.act(commands);
                if let Some(why) = self.core.stays(address) {
                    let message = format!("{address} could not be removed: {why}");
                    return Reply::Refused(Problem::new(ADDRESS_STAYS, message));
                }
                // Forgotten only now: a guard that dies in between removes the address when it is back.
                self.keep().map_or_else(Reply::Refused, |()| Reply::Done)
            }
        }
    }

    fn take(&mut self, hold: Hold) -> Result<(), Problem> {
        self.network.check(&hold)?;
        let commands = self.core.hold(hold)?;
        self.act(commands);
        // Kept before the address is added at the next look, so that no guard forgets what it added.
        self.keep()?;
        self.look();
        Ok(())
    }

    fn keep(&self) -> Result<(), Problem> {
        self.holds.save(&self.core.holds()).map_err(|error| {
            Problem::new("guard-holds", format!("the guard's holds cannot be kept: {error}"))
        })
    }
}

/// CLOCK_BOOTTIME, on which leases end.
fn now() -> Mono {
    let at = rustix::time::clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(at.tv_sec).unwrap_or_default();
    Mono(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(at.tv_nsec).unwrap_or_default()))
}

/// Keeps the guard running when memory is short and processors are busy. What is refused is only reported: the
/// kernel's lifetime of the address holds without it.
#[allow(unsafe_code)] // scheduling class and I/O flusher are not covered by rustix
fn protect() {
    use rustix::mm::{MlockAllFlags, mlockall};
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        tracing::warn!(%error, "memory is not locked");
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::warn!(%error, "not exempt from the OOM killer");
    }
    let first = libc::sched_param { sched_priority: 1 };
    /// From the kernel's prctl.h (Linux 5.6); libc does not name it.
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: plain numbers and a pointer to a live structure of the right type.
    let refused = unsafe {
        // Its allocations in the kernel must not wait for the volume that may be waiting for the network (R17).
        libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const first) != 0
    };
    if refused {
        tracing::warn!(error = %std::io::Error::last_os_error(), "no real-time priority");
    }
}
