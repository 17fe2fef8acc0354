//! What can be typed about plans and runs.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `anshin plan`
#[derive(Debug, Subcommand)]
pub enum Plan {
    /// Add a plan: what is backed up, when, where to, kept how long
    #[command(after_help = EXAMPLES)]
    Add(Add),
    /// Every plan
    List,
    /// One plan
    Show {
        /// Its name
        name: String,
        /// As TOML that can be edited and given back
        #[arg(long)]
        toml: bool,
    },
    /// Change a plan: by the options given, or in an editor if none is
    #[command(after_help = EXAMPLES)]
    Edit(Edit),
    /// Remove a plan and cancel its open runs; its snapshots stay
    Remove {
        /// Its name
        name: String,
    },
    /// Which snapshots its rules keep, and which will be given up
    Retention {
        /// Its name
        name: String,
    },
    /// Run it now
    Run {
        /// Its name
        name: String,
        /// Of what it backs up only this, for example service/db
        #[arg(long = "target", value_name = "TARGET")]
        targets: Vec<String>,
        /// Wait until it has ended, and show how far it is
        #[arg(long)]
        wait: bool,
    },
}

const EXAMPLES: &str = "\
Examples:\n  \
  anshin plan add nightly --what protected --when 23:00 --keep daily=14 --vault main\n  \
  anshin plan add etc --what files/a:/etc,/root --when \"weekdays 8..18:30\" --keep last=5,within=30d\n  \
  anshin plan add --file plans.toml\n\n\
What: protected (everything), service/NAME, volume/NAME, volume-image/NAME, files/MACHINE:PATH[,PATH…],\n\
image/MACHINE:DEVICE.";

/// `anshin plan add`
#[derive(Debug, Args)]
pub struct Add {
    /// Its name
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub name: Option<String>,
    /// Plans as TOML, as `plan show --toml` prints them; `-` is standard input
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// What the plan is made of
    #[command(flatten)]
    pub fields: Fields,
}

/// `anshin plan edit`
#[derive(Debug, Args)]
pub struct Edit {
    /// Its name
    pub name: String,
    /// The whole plan as TOML; `-` is standard input
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Let its calendar count
    #[arg(long, conflicts_with = "disable")]
    pub enable: bool,
    /// Run it by hand only
    #[arg(long)]
    pub disable: bool,
    /// What is to change
    #[command(flatten)]
    pub fields: Fields,
}

/// What a plan is made of.
#[derive(Debug, Default, Args)]
pub struct Fields {
    /// What is backed up; several times for several things
    #[arg(long)]
    pub what: Vec<String>,
    /// When, for example 23:00, "mon..fri 22:30", hourly, "first sunday 4:00"; several times for a union
    #[arg(long)]
    pub when: Vec<String>,
    /// Time zone of that; this machine's if not given
    #[arg(long)]
    pub zone: Option<String>,
    /// Which snapshots are kept: last=N, hourly=N, daily=N, weekly=N, monthly=N, yearly=N, within=30d
    #[arg(long, value_delimiter = ',', value_name = "RULE")]
    pub keep: Vec<String>,
    /// Where to; the only vault if not given
    #[arg(long)]
    pub vault: Option<String>,
    /// For people
    #[arg(long)]
    pub description: Option<String>,
    /// Spread the starts over this long, for example 10m
    #[arg(long, value_name = "TIME")]
    pub spread: Option<String>,
    /// What becomes of runs missed while everything was off: catch-up, report or ignore
    #[arg(long)]
    pub missed: Option<String>,
    /// Stop an attempt that takes longer, for example 6h
    #[arg(long, value_name = "TIME")]
    pub run_time: Option<String>,
    /// Bytes a second of each run, for example 10M
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<String>,
    /// Attempts of a run altogether
    #[arg(long, value_name = "NUMBER")]
    pub attempts: Option<u32>,
    /// Of several runs that wait, the highest goes first (0 to 255)
    #[arg(long)]
    pub priority: Option<u8>,
}

impl Fields {
    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.what.is_empty()
            && self.when.is_empty()
            && self.keep.is_empty()
            && [&self.zone, &self.vault, &self.description, &self.spread, &self.missed, &self.run_time]
                .into_iter()
                .chain([&self.bandwidth])
                .all(Option::is_none)
            && self.attempts.is_none()
            && self.priority.is_none()
    }
}

/// `anshin runs`
#[derive(Debug, Subcommand)]
pub enum Runs {
    /// Open runs, and those that ended last
    List,
    /// One run
    Show {
        /// Its number
        id: u64,
    },
    /// Go on showing a run until it has ended, or without a number all open ones
    Watch {
        /// Its number
        id: Option<u64>,
    },
    /// End a run that has not ended
    Cancel {
        /// Its number
        id: u64,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a run that waits for its next attempt try again now
    Retry {
        /// Its number
        id: u64,
    },
    /// Runs of the last and the next days
    Calendar,
}

/// `anshin catalog`
#[derive(Debug, Subcommand)]
pub enum Catalog {
    /// Make this node's catalog anew from the ledger and the vaults
    Rebuild,
}
