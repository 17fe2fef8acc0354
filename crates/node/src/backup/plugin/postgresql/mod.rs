//! The built-in plugin for PostgreSQL 12 and later: base backups while it runs, its log as an archive, restore to a point in
//! time.
//!
//! A base backup is the data directory as it is, between the start and the end of a backup as the server knows it, together
//! with the log that was written meanwhile: it can be brought back by itself. Read from a point of the volume the server is in that
//! mode for seconds only. Unchanged files cost nothing, because the executor's files cache knows them.
//!
//! The archive is `pg_receivewal` at a replication slot of the service's own: it needs no restart of the server and no
//! setting, loses nothing while nobody listens, and is behind by less than the piece that is being written.

mod archive;
mod backup;
mod check;
mod cluster;
mod restore;
mod server;
mod sql;

use super::{
    guest::Guest,
    protocol::{Operation, Say},
};
use anshin_base::Problem;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Its name.
pub const NAME: &str = "postgresql";

/// Kept with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// `server_version_num`.
    pub version: u32,
    /// The cluster's system identifier.
    pub system: String,
    /// Its data directory when it runs. Named so for the executor, which puts what is restored there.
    pub place: PathBuf,
    /// First piece of the log that the snapshot has.
    pub wal_first: String,
    /// Last one.
    pub wal_last: String,
    /// Where the backup began.
    pub start: String,
    /// Where the log must have been applied to for the data to be consistent.
    pub stop: String,
    /// Tablespaces outside of the data directory, by oid.
    pub tablespaces: Vec<Tablespace>,
}

/// A tablespace outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its oid, which is its name in `pg_tblspc`.
    pub oid: u32,
    /// Where it is.
    pub location: PathBuf,
}

/// `anshin run plugin postgresql`: does what is asked on standard input.
///
/// # Errors
/// If the executor is gone; what else fails is told to it.
pub fn run() -> Result<(), Problem> {
    let (guest, ask) = Guest::asked()?;
    let done = match ask.operation {
        Operation::Describe => describe(&guest),
        Operation::Backup => backup::backup(&guest, &ask.facts),
        Operation::Archive { spool } => archive::archive(&guest, &ask.service, &ask.facts, &spool),
        Operation::ArchiveEnd { .. } => archive::end(&ask.service, &ask.facts),
        Operation::Restore { about, directory, log, time } => about_of(about).and_then(|about| {
            restore::restore(&guest, &ask.facts, &about, &directory, log.as_deref(), time.as_deref())
        }),
        Operation::Check { about, directory } => {
            about_of(about).and_then(|about| check::check(&guest, &ask.facts, &about, &directory))
        }
    };
    match done {
        Ok(()) => guest.say(&Say::Done),
        Err(problem) => {
            let again = problem.code != "postgresql-setup";
            guest.say(&Say::Failed { reason: problem.message, hint: problem.hint, again })
        }
    }
}

fn describe(guest: &Guest) -> Result<(), Problem> {
    let programs = ["postgresql.service", "postgresql@*.service", "ocf:heartbeat:pgsql"];
    guest.say(&Say::Describe {
        version: env!("CARGO_PKG_VERSION").into(),
        programs: programs.map(str::to_owned).into(),
        archive: true,
        check: true,
    })
}

fn about_of(value: serde_json::Value) -> Result<About, Problem> {
    serde_json::from_value(value).map_err(|error| {
        Problem::new("postgresql", format!("the snapshot's description cannot be read: {error}"))
    })
}

/// Something that the administrator must change first.
fn setup(message: impl Into<String>) -> Problem {
    Problem::new("postgresql-setup", message)
}
