//! What the guard decides, without clock, file or network: now + lease records + holds → commands.

use super::protocol::{Event, Happened, Hold, HoldStatus};
use crate::address::ServiceAddress;
use anshin_base::{Millis, Mono, Problem, lease::LeaseRecord};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Most addresses held at once.
const HOLDS_MAX: usize = 256;

/// The guard's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often the lease records are read.
    pub look: Millis,
    /// How long before the lease's end the address is dropped: one look, and time for the kernel to do it.
    pub margin: Millis,
    /// How often the kernel's lifetime of the address is renewed.
    pub renew: Millis,
    /// How soon something that failed is tried again.
    pub retry: Millis,
}

impl Default for Timing {
    fn default() -> Self {
        Self { look: Millis(20), margin: Millis(50), renew: Millis(300), retry: Millis(200) }
    }
}

/// When neighbours are told of a new address, after it was added. Several times because such packets may be lost, and
/// a switch may still be learning.
const ANNOUNCEMENTS: [Millis; 6] =
    [Millis(0), Millis(50), Millis(150), Millis(350), Millis(700), Millis(1_000)];

/// What a look at a lease record found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseReading {
    /// There is no record: there is no lease.
    Missing,
    /// Half written or damaged: nothing new is known, and what was known holds until its end.
    Unreadable,
    /// The record.
    Record(LeaseRecord),
}

/// What is to be done, and told to [`GuardCore::done`] afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Add the address with the kernel's lifetime.
    Add(Hold),
    /// Renew the kernel's lifetime.
    Renew(Hold),
    /// Remove the address now. Not there is as good as removed.
    Remove(Hold, Gone),
    /// Tell the neighbours where the address is.
    Announce(Hold),
}

/// Why an address is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The lease does not allow it.
    LeaseEnded,
    /// The hold is no more.
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Absent,
    Present,
    /// Kept from an earlier guard, or a command failed: it may be there.
    Unknown,
}

#[derive(Debug)]
struct Held {
    hold: Hold,
    presence: Presence,
    /// The lease's end as last read.
    until: Mono,
    renew_at: Mono,
    retry_at: Mono,
    added_at: Mono,
    /// How many of [`ANNOUNCEMENTS`] were made.
    announced: usize,
    failure: Option<String>,
    /// No longer wanted, but not yet known to be gone.
    released: bool,
}

/// All holds and how they stand.
#[derive(Debug)]
pub struct GuardCore {
    timing: Timing,
    holds: BTreeMap<IpAddr, Held>,
}

impl GuardCore {
    /// Holds nothing.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        Self { timing, holds: BTreeMap::new() }
    }

    /// Takes over a hold that an earlier guard kept. Its address may be there.
    pub fn resume(&mut self, hold: Hold) {
        self.holds.insert(hold.address.address(), Held::new(hold, Presence::Unknown));
    }

    /// Holds an address from now on, instead of an earlier hold of it.
    ///
    /// # Errors
    /// `too-many-addresses`.
    pub fn hold(&mut self, hold: Hold) -> Result<Vec<Command>, Problem> {
        let key = hold.address.address();
        if !self.holds.contains_key(&key) && self.holds.len() >= HOLDS_MAX {
            let message = format!("the guard holds {HOLDS_MAX} addresses already");
            return Err(Problem::new("too-many-addresses", message));
        }
        let mut commands = Vec::new();
        match self.holds.get_mut(&key) {
            // The same place: the address need not go for a moment.
            Some(held) if held.hold.address == hold.address && held.hold.interface == hold.interface => {
                if held.hold.lease != hold.lease {
                    held.until = Mono(0);
                }
                held.hold = hold;
                held.released = false;
            }
            Some(held) => {
                if held.presence != Presence::Absent {
                    commands.push(Command::Remove(held.hold.clone(), Gone::Released));
                }
                *held = Held::new(hold, Presence::Absent);
            }
            None => {
                self.holds.insert(key, Held::new(hold, Presence::Absent));
            }
        }
        Ok(commands)
    }

    /// Holds an address no more. Without a hold it is removed all the same: the asker wants it gone.
    pub fn release(&mut self, address: ServiceAddress) -> Vec<Command> {
        let Some(held) = self.holds.get_mut(&address.address()) else { return Vec::new() };
        held.released = true;
        held.retry_at = Mono(0);
        vec![Command::Remove(held.hold.clone(), Gone::Released)]
    }

    /// Why an address is still there, or may be, although it was released; it is tried again.
    #[must_use]
    pub fn stays(&self, address: ServiceAddress) -> Option<&str> {
        let held = self.holds.get(&address.address()).filter(|held| held.released)?;
        Some(held.failure.as_deref().unwrap_or("it is not known why"))
    }

    /// The lease records that matter.
    #[must_use]
    pub fn lease_paths(&self) -> BTreeSet<PathBuf> {
        self.holds.values().map(|held| held.hold.lease.clone()).collect()
    }

    /// Takes note of what a look at a lease record found.
    pub fn observe(&mut self, lease: &Path, reading: LeaseReading) {
        let until = match reading {
            LeaseReading::Missing => Mono(0),
            LeaseReading::Record(record) => record.until,
            LeaseReading::Unreadable => return,
        };
        for held in self.holds.values_mut().filter(|held| held.hold.lease == lease) {
            held.until = until;
        }
    }

    /// What is to be done now. What must go comes before what may come.
    pub fn decide(&mut self, now: Mono) -> Vec<Command> {
        let timing = self.timing;
        let mut commands: Vec<Command> =
            self.holds.values_mut().filter_map(|held| held.decide(now, timing)).collect();
        commands.sort_by_key(|command| match command {
            Command::Remove(..) => 0,
            Command::Renew(_) => 1,
            Command::Add(_) => 2,
            Command::Announce(_) => 3,
        });
        commands
    }

    /// Takes note of what became of a command, and tells what is worth telling.
    pub fn done(&mut self, now: Mono, command: &Command, outcome: Result<(), String>) -> Vec<Event> {
        let (Command::Add(hold) | Command::Renew(hold) | Command::Remove(hold, _) | Command::Announce(hold)) =
            command;
        let key = hold.address.address();
        let event = |happened| vec![Event { at: now, address: hold.address, happened }];
        let replaced = |held: &&mut Held| held.hold.interface == hold.interface;
        let Some(held) = self.holds.get_mut(&key).filter(replaced) else {
            // The former place of a hold that was replaced.
            return event(outcome.map_or_else(Happened::Failed, |()| Happened::Released));
        };
        if let (Err(reason), false) = (&outcome, matches!(command, Command::Announce(_))) {
            let news = held.failure.as_ref() != Some(reason);
            held.presence = Presence::Unknown;
            held.retry_at = now.after(self.timing.retry);
            held.failure = Some(reason.clone());
            return if news { event(Happened::Failed(reason.clone())) } else { Vec::new() };
        }
        match command {
            Command::Announce(_) => Vec::new(),
            Command::Renew(_) => {
                held.renew_at = now.after(self.timing.renew);
                Vec::new()
            }
            Command::Add(_) => {
                held.presence = Presence::Present;
                (held.added_at, held.announced) = (now, 0);
                held.renew_at = now.after(self.timing.renew);
                held.failure = None;
                event(Happened::Held)
            }
            Command::Remove(_, gone) => {
                held.presence = Presence::Absent;
                held.failure = None;
                if held.released {
                    self.holds.remove(&key);
                }
                event(match gone {
                    Gone::LeaseEnded => Happened::LeaseEnded,
                    Gone::Released => Happened::Released,
                })
            }
        }
    }

    /// When to look again at the latest.
    #[must_use]
    pub fn next_look(&self, now: Mono) -> Mono {
        let next = now.after(self.timing.look);
        let ends = self.holds.values().filter(|held| held.presence != Presence::Absent);
        let ends = ends.map(|held| held.drop_at(self.timing)).filter(|end| *end > now);
        ends.fold(next, Mono::min)
    }

    /// All holds that are wanted.
    #[must_use]
    pub fn holds(&self) -> Vec<Hold> {
        self.holds.values().filter(|held| !held.released).map(|held| held.hold.clone()).collect()
    }

    /// All holds and how they stand.
    #[must_use]
    pub fn status(&self) -> Vec<HoldStatus> {
        let status = |held: &Held| HoldStatus {
            hold: held.hold.clone(),
            held: held.presence == Presence::Present,
            lease_until: held.until,
            failure: held.failure.clone(),
        };
        self.holds.values().map(status).collect()
    }
}

impl Held {
    fn new(hold: Hold, presence: Presence) -> Self {
        Self {
            hold,
            presence,
            until: Mono(0),
            renew_at: Mono(0),
            retry_at: Mono(0),
            added_at: Mono(0),
            announced: 0,
            failure: None,
            released: false,
        }
    }

    /// From this time on the address must be gone.
    fn drop_at(&self, timing: Timing) -> Mono {
        Mono(self.until.0.saturating_sub(timing.margin.0 * 1_000_000))
    }

    fn decide(&mut self, now: Mono, timing: Timing) -> Option<Command> {
        let allowed = !self.released && now < self.drop_at(timing);
        let waiting = now < self.retry_at;
        match self.presence {
            Presence::Present if !allowed => Some(self.remove()),
            Presence::Unknown if !allowed && !waiting => Some(self.remove()),
            Presence::Present if now >= self.renew_at => Some(Command::Renew(self.hold.clone())),
            Presence::Present => self.announce(now),
            Presence::Absent | Presence::Unknown if allowed && !waiting && self.may_begin(now) => {
                Some(Command::Add(self.hold.clone()))
            }
            Presence::Absent | Presence::Unknown => None,
        }
    }

    fn may_begin(&self, now: Mono) -> bool {
        self.hold.not_before.is_none_or(|begin| now >= begin)
    }

    fn remove(&self) -> Command {
        let gone = if self.released { Gone::Released } else { Gone::LeaseEnded };
        Command::Remove(self.hold.clone(), gone)
    }

    fn announce(&mut self, now: Mono) -> Option<Command> {
        let due = ANNOUNCEMENTS.get(self.announced).is_some_and(|after| now >= self.added_at.after(*after));
        self.announced += usize::from(due);
        due.then(|| Command::Announce(self.hold.clone()))
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
