//! What events and snapshots of a vault write.

use super::Result;
use crate::{
    catalog::{Ended, Fact, Rebuild, VaultSnapshot},
    record::{Drill, Event, EventKind, Outcome, Passed, RunReport, Sealed},
    time::UnixMillis,
    words::{Attempt, PlanName, Position, RunId, SnapshotId, TargetKey, VaultName},
};
use rusqlite::{Connection, params};

pub(super) fn set_position(connection: &Connection, position: Position) -> Result<()> {
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('position', ?1)", [position.0])?;
    Ok(())
}

pub(super) fn rebuild(
    connection: &Connection,
    how: &Rebuild,
    facts: &mut dyn Iterator<Item = Fact>,
) -> Result<u64> {
    if !how.keep {
        for table in ["runs", "snapshots", "holds", "passed", "drills", "indexed", "blocks"] {
            connection.execute(&format!("DELETE FROM {table}"), [])?;
        }
    }
    connection.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS listed (snapshot TEXT PRIMARY KEY); DELETE FROM listed;",
    )?;
    let mut taken = 0;
    let mut newest = UnixMillis::default();
    for fact in facts {
        match fact {
            Fact::Event(fact) => {
                newest = newest.max(fact.at);
                event(connection, &fact)?;
            }
            Fact::Snapshot(fact) => {
                newest = newest.max(fact.at);
                connection.execute("INSERT OR IGNORE INTO listed VALUES (?1)", [&fact.sealed.snapshot.0])?;
                listed(connection, &fact)?;
            }
        }
        taken += 1;
    }
    for vault in &how.complete {
        connection.execute(
            "UPDATE snapshots SET forgotten = ?2 WHERE vault = ?1 AND forgotten IS NULL
             AND snapshot NOT IN (SELECT snapshot FROM listed)",
            params![vault.0, newest.0],
        )?;
    }
    // Listed means not forgotten, in whatever order the facts came.
    connection.execute(
        "UPDATE snapshots SET forgotten = NULL WHERE snapshot IN (SELECT snapshot FROM listed)",
        [],
    )?;
    connection.execute("DELETE FROM listed", [])?;
    set_position(connection, how.position)?;
    Ok(taken)
}

pub(super) fn event(connection: &Connection, event: &Event) -> Result<()> {
    match &event.kind {
        EventKind::Ended(report) => ended(connection, report),
        EventKind::Passed(passed) => write_passed(connection, event.at, passed),
        EventKind::Drilled(drill) => drilled(connection, drill),
        EventKind::Held { snapshot, reason, .. } => {
            connection
                .execute("INSERT OR REPLACE INTO holds VALUES (?1, ?2)", params![snapshot.0, reason])?;
            Ok(())
        }
        EventKind::Released { snapshot, .. } => {
            connection.execute("DELETE FROM holds WHERE snapshot = ?1", [&snapshot.0])?;
            Ok(())
        }
        EventKind::Forgotten { snapshots, .. } => {
            for snapshot in snapshots {
                connection.execute(
                    "UPDATE snapshots SET forgotten = ?2 WHERE snapshot = ?1",
                    params![snapshot.0, event.at.0],
                )?;
            }
            Ok(())
        }
        // What a plan has backed up stays, and stays under its name.
        EventKind::Unplanned { .. } => Ok(()),
    }
}

fn ended(connection: &Connection, report: &RunReport) -> Result<()> {
    let (outcome, reason, sealed) = match &report.outcome {
        Outcome::Sealed(sealed) => (Ended::Sealed, None, Some(sealed)),
        Outcome::Failed(reason) => (Ended::Failed, Some(reason), None),
        Outcome::Cancelled(reason) => (Ended::Cancelled, Some(reason), None),
    };
    connection.execute(
        "INSERT OR REPLACE INTO runs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        params![
            report.run.0,
            report.plan.0,
            report.target.0,
            report.vault.0,
            serde_json::to_string(&report.cause).ok(),
            report.occurrence.map(|at| at.0),
            report.due.0,
            report.begun.map(|at| at.0),
            report.point.map(|at| at.0),
            report.ended.0,
            report.attempt.0,
            report.place.and_then(|place| serde_json::to_string(&place).ok()),
            outcome as u8,
            reason,
            sealed.map(|sealed| &sealed.snapshot.0),
        ],
    )?;
    let Some(sealed) = sealed else { return Ok(()) };
    let row = Row {
        sealed,
        vault: &report.vault,
        plan: &report.plan,
        target: &report.target,
        run: report.run,
        attempt: report.attempt,
        point: report.point,
        at: report.ended,
    };
    row.write(connection)
}

/// A snapshot that a vault lists. What an event said of it is better; what only the vault knows is better than nothing.
fn listed(connection: &Connection, seen: &VaultSnapshot) -> Result<()> {
    let row = Row {
        sealed: &seen.sealed,
        vault: &seen.vault,
        plan: &seen.plan,
        target: &seen.label.target,
        run: seen.label.run,
        attempt: seen.label.attempt,
        point: None,
        at: seen.at,
    };
    row.write_unless_known(connection)?;
    // The vault admits a snapshot only for the present attempt of an open run, so it tells of a run that ended well; of
    // several attempts the last one counts.
    connection.execute(
        "INSERT INTO runs (run, plan, target, vault, ended, attempt, outcome, snapshot) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (run) DO UPDATE SET ended = excluded.ended, attempt = excluded.attempt, snapshot = excluded.snapshot
         WHERE runs.due IS NULL AND runs.attempt < excluded.attempt",
        params![
            seen.label.run.0,
            seen.plan.0,
            seen.label.target.0,
            seen.vault.0,
            seen.at.0,
            seen.label.attempt.0,
            Ended::Sealed as u8,
            seen.sealed.snapshot.0,
        ],
    )?;
    Ok(())
}

struct Row<'a> {
    sealed: &'a Sealed,
    vault: &'a VaultName,
    plan: &'a PlanName,
    target: &'a TargetKey,
    run: RunId,
    attempt: Attempt,
    point: Option<UnixMillis>,
    at: UnixMillis,
}

impl Row<'_> {
    fn write(&self, connection: &Connection) -> Result<()> {
        self.insert(
            connection,
            "ON CONFLICT (snapshot) DO UPDATE SET vault = excluded.vault, plan = excluded.plan, target = excluded.target,
             run = excluded.run, attempt = excluded.attempt, point = excluded.point,
             sealed = min(snapshots.sealed, excluded.sealed),
             files = excluded.files, bytes = excluded.bytes, new_bytes = excluded.new_bytes, warnings = excluded.warnings",
        )
    }

    fn write_unless_known(&self, connection: &Connection) -> Result<()> {
        // The earlier of both: a clock that was ahead must not make it newer than what was made after it.
        let earlier = "ON CONFLICT (snapshot) DO UPDATE SET sealed = min(snapshots.sealed, excluded.sealed)";
        self.insert(connection, earlier)
    }

    fn insert(&self, connection: &Connection, conflict: &str) -> Result<()> {
        let sql = format!(
            "INSERT INTO snapshots VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, NULL) {conflict}"
        );
        connection.execute(
            &sql,
            params![
                self.sealed.snapshot.0,
                self.vault.0,
                self.plan.0,
                self.target.0,
                self.run.0,
                self.attempt.0,
                self.point.map(|at| at.0),
                self.at.0,
                number(self.sealed.files),
                number(self.sealed.bytes),
                number(self.sealed.new_bytes),
                number(self.sealed.warnings),
            ],
        )?;
        Ok(())
    }
}

/// SQLite's integers are signed; no count comes near their end, a hostile one is cut there.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn write_passed(connection: &Connection, at: UnixMillis, passed: &Passed) -> Result<()> {
    connection.execute(
        "INSERT OR REPLACE INTO passed VALUES (?1, ?2, ?3, ?4, ?5, NULL, ?6)",
        params![
            passed.plan.0,
            passed.target.0,
            passed.last.0,
            passed.why as u8,
            at.0,
            serde_json::to_string(passed).unwrap_or_default()
        ],
    )?;
    Ok(())
}

fn drilled(connection: &Connection, drill: &Drill) -> Result<()> {
    connection.execute(
        "INSERT OR REPLACE INTO drills VALUES (?1, ?2, ?3, NULL, NULL, ?4)",
        params![
            drill.target.0,
            drill.at.0,
            drill.kind as u8,
            serde_json::to_string(drill).unwrap_or_default()
        ],
    )?;
    Ok(())
}

/// The snapshot that a run is recorded with.
pub(super) fn recorded(id: Option<String>) -> Option<SnapshotId> {
    id.map(SnapshotId)
}
