//! The schema and its migrations. `PRAGMA user_version` is the number of migrations applied.

use super::Result;
use rusqlite::Connection;

/// Each is applied once, in order, never changed after release.
const MIGRATIONS: [&str; 1] = ["
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, plan TEXT NOT NULL, target TEXT NOT NULL, vault TEXT NOT NULL, cause TEXT,
    occurrence INTEGER, due INTEGER, begun INTEGER, point INTEGER, ended INTEGER NOT NULL, attempt INTEGER NOT NULL,
    place TEXT, outcome INTEGER NOT NULL, reason TEXT, snapshot TEXT);
CREATE INDEX runs_ended ON runs (ended);
CREATE INDEX runs_target ON runs (target, ended);
CREATE TABLE snapshots (
    snapshot TEXT PRIMARY KEY, vault TEXT NOT NULL, plan TEXT NOT NULL, target TEXT NOT NULL, run INTEGER NOT NULL,
    attempt INTEGER NOT NULL, point INTEGER, sealed INTEGER NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
    new_bytes INTEGER NOT NULL, warnings INTEGER NOT NULL, forgotten INTEGER) WITHOUT ROWID;
CREATE INDEX snapshots_sealed ON snapshots (sealed);
CREATE INDEX snapshots_target ON snapshots (target, sealed);
CREATE INDEX snapshots_run ON snapshots (run);
CREATE TABLE holds (snapshot TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE passed (
    plan TEXT NOT NULL, target TEXT NOT NULL, last INTEGER NOT NULL, why INTEGER NOT NULL, at INTEGER NOT NULL,
    vault TEXT, body TEXT NOT NULL, PRIMARY KEY (plan, target, last, why)) WITHOUT ROWID;
CREATE INDEX passed_at ON passed (at);
CREATE TABLE drills (
    target TEXT NOT NULL, at INTEGER NOT NULL, kind INTEGER NOT NULL, plan TEXT, vault TEXT, body TEXT NOT NULL,
    PRIMARY KEY (target, at, kind)) WITHOUT ROWID;
CREATE INDEX drills_at ON drills (at);
CREATE TABLE indexed (
    target TEXT NOT NULL, ordinal INTEGER NOT NULL, snapshot TEXT NOT NULL UNIQUE, PRIMARY KEY (target, ordinal)) WITHOUT ROWID;
CREATE TABLE blocks (
    target TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, block INTEGER NOT NULL,
    payload BLOB NOT NULL, PRIMARY KEY (target, first, last, block)) WITHOUT ROWID;
"];

/// The version this build writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// The file's version.
pub(super) fn version(connection: &Connection) -> Result<usize> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))? as usize)
}

/// Brings an older file to this version.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let from = version(connection)?;
    for (at, migration) in MIGRATIONS.iter().enumerate().skip(from) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", at as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
