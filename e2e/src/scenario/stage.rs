//! What every check has at hand: a protected service, clients, probers, and the promises that hold throughout.

use super::Check;
use crate::error::{Context, Result, refuse};
use crate::lab::{Lab, node};
use crate::probe::honesty::Honesty;
use crate::probe::machine::{Wanted, Watch};
use crate::probe::program::Program;
use crate::probe::writer::{self, Acknowledged, Place, Writer};
use crate::report::Report;
use crate::rng::Rng;
use crate::site::{self, Options, Passage, SERVICE_ADDRESS, Site, VOLUME};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long a site may take to take over, to return, or to become protected again.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// At most one row per client in this time: enough to see pauses, little enough to leave the processors to the site.
const PACE: Duration = Duration::from_millis(5);

/// How to run checks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program under test.
    pub program: PathBuf,
    /// A second build of it, with a higher version, for the check of upgrades.
    pub next_program: Option<PathBuf>,
    /// Rounds; the check's own number for quick runs if not given.
    pub rounds: Option<u32>,
    /// What the service runs; the check's own choice if not given.
    pub service: Option<Program>,
    /// Where rows are kept.
    pub rows: Option<PathBuf>,
    /// Where the nodes' logs are kept after a failure.
    pub logs: Option<PathBuf>,
    /// Decides random moments.
    pub seed: u64,
}

/// A running site with a protected service, and everything that watches it.
pub struct Stage {
    /// The machines.
    pub lab: Lab,
    /// The site on them.
    pub site: Site,
    /// What the service runs.
    pub program: Program,
    /// Where results go.
    pub report: Report,
    /// How often to repeat.
    pub rounds: u32,
    /// Random moments.
    pub rng: Rng,
    /// How it was set.
    pub settings: Settings,
    /// Addresses, devices and mounts, from the beginning.
    pub watch: Watch,
    /// Statuses, from the beginning.
    pub honesty: Honesty,
    /// For how long two machines may hold the address because one of them stands still: what the site says itself.
    pub paused_hold: Duration,
    /// Rows of clients that have ended.
    acknowledged: Vec<Acknowledged>,
}

/// The service's address.
pub fn service_address() -> IpAddr {
    SERVICE_ADDRESS.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

impl Stage {
    /// Brings up a site for a check.
    pub fn set(check: &Check, lab: Lab, settings: &Settings) -> Result<Self> {
        let program = settings.service.unwrap_or(check.service);
        if program == Program::Postgres {
            site::postgres_programs()?;
        }
        let nodes = ["a", "b", "c"].map(str::to_owned).to_vec();
        if check.name.ends_with("faultdisk") {
            for name in &nodes {
                super::deaths::mount_fault_disk(&lab, name)?;
            }
        }
        let vault = check.name.starts_with("backup");
        let options = Options {
            program: settings.program.clone(),
            service: program,
            size: match (program, vault) {
                // In place, what is restored lies beside what is there.
                (Program::Postgres, true) => "768M",
                (Program::Postgres, false) => "256M",
                (Program::Demo, true) => "512M",
                (Program::Demo, false) => "64M",
            }
            .to_owned(),
            nodes,
            vault,
            data: None,
            progress: |_| {},
        };
        let start = Instant::now();
        let site = site::bring_up(&lab, &options)?;
        let report = Report::new(check.name, settings.rows.as_deref());
        report.say(&format!(
            "protected after {:.1} s; seed {}",
            start.elapsed().as_secs_f64(),
            settings.seed
        ));
        let wanted =
            Wanted { address: service_address(), volume: VOLUME.to_owned(), mount: site::MOUNT.to_owned() };
        Ok(Self {
            watch: Watch::start(&lab, &wanted)?,
            honesty: Honesty::start(&site),
            lab,
            site,
            program,
            report,
            rounds: settings.rounds.unwrap_or(check.rounds),
            rng: Rng::new(settings.seed),
            settings: settings.clone(),
            paused_hold: Duration::ZERO,
            acknowledged: Vec::new(),
        })
    }

    /// A client of the service's address.
    pub fn client(&self, name: &str) -> Writer {
        Writer::start(&self.lab, name, self.program, Place::Client(service_address()), PACE)
    }

    /// A client inside a machine, that reaches the program there and no other.
    pub fn client_inside(&self, name: &str, node: &str) -> Writer {
        Writer::start(&self.lab, name, self.program, Place::Inside(node.to_owned()), PACE)
    }

    /// Ends a client and remembers what it was promised.
    pub fn done(&mut self, writer: Writer) -> usize {
        let rows = writer.stop();
        let count = rows.len();
        self.acknowledged.extend(rows);
        count
    }

    /// Every row ever acknowledged is there now (I1).
    pub fn rows_are_there(&self) -> Result<usize> {
        let rows = writer::read_all(&self.lab, self.program, service_address(), PATIENCE)?;
        let missing = writer::missing(&self.acknowledged, &rows);
        if missing.is_empty() {
            return Ok(self.acknowledged.len());
        }
        refuse(format!(
            "{} of {} acknowledged rows are lost (I1), the first is {}",
            missing.len(),
            self.acknowledged.len(),
            missing[0]
        ))
    }

    /// Nobody held the address while another did, for longer than the site says that it may happen (I11), and no status contradicted itself (I17).
    pub fn promises_held(&self) -> Result<()> {
        let holders = self.watch.double_holders().into_iter().find(|(_, _, time)| *time > self.paused_hold);
        if let Some((one, other, time)) = holders {
            return refuse(format!("{one} and {other} both held the address for {time:?} (I11)"));
        }
        match self.honesty.contradictions().into_iter().next() {
            Some(contradiction) => refuse(format!("{contradiction} (I17)")),
            None => Ok(()),
        }
    }

    /// For how long a paused machine may hold its address, as every node's status must say (I11).
    pub fn shown_paused_hold(&self) -> Result<Duration> {
        let mut shown = Vec::new();
        for node in self.site.nodes() {
            match self.site.status(node)?.limit_bound("fencing") {
                Some(bound) => shown.push(bound),
                None => return refuse(format!("{node} does not say what a paused machine may do (I11)")),
            }
        }
        shown.into_iter().max().map_or_else(|| refuse("there is no node"), Ok)
    }

    /// The failover from a server that died then, as the program recorded it.
    pub fn failover_since(&self, from: &str, death: SystemTime) -> Result<Passage> {
        let near = |passage: &Passage| {
            // The last sign of life may have come just before the death.
            passage.since(passage.program, death).is_some_and(|since| since > Duration::ZERO)
        };
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let all = self.site.leading_status()?.passages();
            let found = all.into_iter().find(|one| !one.planned && one.from == from && near(one));
            if let Some(found) = found {
                return Ok(found);
            }
            thread::sleep(Duration::from_millis(200));
        }
        refuse(format!("no status tells of the failover from {from}"))
    }

    /// No status that was asked for after the site had `grace` to notice a fault said green until `to`.
    pub fn never_green(&self, fault: Instant, grace: Duration, to: Instant) -> Result<()> {
        match self.honesty.green_between(fault + grace, to).into_iter().next() {
            Some(claim) => refuse(format!("{claim} (I17)")),
            None => Ok(()),
        }
    }

    /// Nothing was acknowledged by `old` after `new` had begun to acknowledge (I2).
    pub fn one_after_the_other(&self, old: &Writer, new: &Writer, from: Instant) -> Result<()> {
        let first = new.first_after(from);
        let last = old.acknowledged().last().map(|row| row.at);
        match (first, last) {
            (Some(first), Some(last)) if last > first => refuse(format!(
                "the old primary acknowledged {:?} after the new one had begun (I2)",
                last - first
            )),
            _ => Ok(()),
        }
    }

    /// Waits until both copies are equal byte for byte, nobody writing (the volume's file system may still be).
    pub fn copies_are_equal(&self) -> Result<()> {
        let active = self.site.active()?;
        let files: Vec<PathBuf> =
            self.site.data_nodes().iter().map(|node| self.site.backing_file(node)).collect();
        let end = Instant::now() + PATIENCE;
        loop {
            node::output(&self.lab, &active, &["sync"])?;
            let compared = Command::new("cmp").args(&files).output().at("cmp")?;
            if compared.status.success() {
                return Ok(());
            }
            if Instant::now() > end {
                return refuse(format!(
                    "the copies differ: {}",
                    String::from_utf8_lossy(&compared.stdout).trim()
                ));
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Sleeps for a random time up to `limit`.
    pub fn pause_up_to(&mut self, limit: Duration) {
        let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).max(1);
        thread::sleep(Duration::from_micros(self.rng.below(limit)));
    }

    /// The last look: promises over the whole check, then the summary.
    pub fn finish(self, result: Result<()>) -> Result<()> {
        result?;
        self.promises_held()?;
        let green = self.honesty.reports().iter().filter(|report| report.status.green()).count();
        self.report.say(&format!(
            "{} rows acknowledged, none lost; {} statuses, {green} green, none false",
            self.acknowledged.len(),
            self.honesty.reports().len()
        ));
        self.report.summary();
        Ok(())
    }
}
