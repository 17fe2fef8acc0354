//! Rows that are asked for.

use super::{CatalogError, Result, facts::recorded};
use crate::{
    catalog::{Ended, Filter, PassedRow, RunRow, SnapshotRow},
    record::{Drill, Sealed},
    retention::{InVault, standing},
    time::UnixMillis,
    words::{Attempt, RunId, SnapshotId},
};
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql};
use serde::de::DeserializeOwned;

const RUN: &str = "SELECT run, plan, target, vault, cause, occurrence, due, begun, point, ended, attempt, place, outcome, \
                   reason, snapshot FROM runs";
const SNAPSHOT: &str = "SELECT snapshots.snapshot, snapshots.vault, snapshots.plan, snapshots.target, snapshots.run, \
                        snapshots.attempt, snapshots.point, snapshots.sealed, snapshots.files, snapshots.bytes, \
                        snapshots.new_bytes, snapshots.warnings, snapshots.forgotten, holds.reason, runs.snapshot \
                        FROM snapshots LEFT JOIN holds ON holds.snapshot = snapshots.snapshot \
                        LEFT JOIN runs ON runs.run = snapshots.run";

/// A condition on one table's columns, with its values.
struct Where {
    conditions: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Where {
    fn new(filter: &Filter, prefix: &str, time: &str) -> Self {
        let mut this = Self { conditions: vec!["TRUE".into()], values: Vec::new() };
        let columns = [
            ("plan", filter.plan.as_ref().map(|name| name.0.clone())),
            ("target", filter.target.as_ref().map(|key| key.0.clone())),
            ("vault", filter.vault.as_ref().map(|name| name.0.clone())),
        ];
        for (column, value) in columns {
            if let Some(value) = value {
                this.add(format!("{prefix}{column} ="), value);
            }
        }
        if let Some(from) = filter.from {
            this.add(format!("{prefix}{time} >="), from.0);
        }
        if let Some(to) = filter.to {
            this.add(format!("{prefix}{time} <"), to.0);
        }
        this
    }

    fn add(&mut self, condition: String, value: impl ToSql + 'static) {
        self.values.push(Box::new(value));
        self.conditions.push(format!("{condition} ?{}", self.values.len()));
    }

    fn rows<T>(
        &self,
        connection: &Connection,
        select: &str,
        order: &str,
        max: Option<usize>,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let max = max.unwrap_or(Filter::ROWS_MAX).min(Filter::ROWS_MAX);
        let sql = format!("{select} WHERE {} ORDER BY {order} LIMIT {max}", self.conditions.join(" AND "));
        let mut statement = connection.prepare_cached(&sql)?;
        let values: Vec<&dyn ToSql> = self.values.iter().map(AsRef::as_ref).collect();
        let rows = statement.query_map(&values[..], |row| read(row))?;
        rows.map(|row| row.map_err(CatalogError::from)).collect()
    }
}

pub(super) fn run(connection: &Connection, run: RunId) -> Result<Option<RunRow>> {
    let sql = format!("{RUN} WHERE run = ?1");
    Ok(connection.query_row(&sql, [run.0], read_run).optional()?)
}

pub(super) fn runs(connection: &Connection, filter: &Filter) -> Result<Vec<RunRow>> {
    Where::new(filter, "", "ended").rows(connection, RUN, "ended DESC, run DESC", filter.max, read_run)
}

pub(super) fn snapshot(connection: &Connection, snapshot: &SnapshotId) -> Result<Option<SnapshotRow>> {
    let sql = format!("{SNAPSHOT} WHERE snapshots.snapshot = ?1");
    Ok(connection.query_row(&sql, [&snapshot.0], read_snapshot).optional()?)
}

pub(super) fn snapshots(connection: &Connection, filter: &Filter) -> Result<Vec<SnapshotRow>> {
    let mut conditions = Where::new(filter, "snapshots.", "sealed");
    if !filter.forgotten {
        conditions.conditions.push("snapshots.forgotten IS NULL".into());
    }
    let order = "snapshots.sealed DESC, snapshots.snapshot DESC";
    conditions.rows(connection, SNAPSHOT, order, filter.max, read_snapshot)
}

pub(super) fn passed(connection: &Connection, filter: &Filter) -> Result<Vec<PassedRow>> {
    // An occurrence has no vault: its plan tells.
    let filter = Filter { vault: None, ..filter.clone() };
    let order = "at DESC, plan, target, last DESC, why";
    let select = "SELECT at, body FROM passed";
    Where::new(&filter, "", "at").rows(connection, select, order, filter.max, |row| {
        Ok(PassedRow { at: UnixMillis(row.get(0)?), passed: json(row, 1)? })
    })
}

pub(super) fn drills(connection: &Connection, filter: &Filter) -> Result<Vec<Drill>> {
    // A drill is of a target, whatever plan backs it up where to.
    let filter = Filter { vault: None, plan: None, ..filter.clone() };
    let select = "SELECT body FROM drills";
    Where::new(&filter, "", "at")
        .rows(connection, select, "at DESC, target, kind", filter.max, |row| json(row, 0))
}

fn json<T: DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    let text: String = row.get(at)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn optional_json<T: DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(at)?;
    if text.is_none() { Ok(None) } else { json(row, at).map(Some) }
}

fn time(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<UnixMillis>> {
    Ok(row.get::<_, Option<i64>>(at)?.map(UnixMillis))
}

fn read_run(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let outcome = match row.get::<_, u8>(12)? {
        0 => Ended::Sealed,
        1 => Ended::Failed,
        2 => Ended::Cancelled,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(12, i64::from(other))),
    };
    Ok(RunRow {
        run: RunId(row.get(0)?),
        plan: row.get::<_, String>(1)?.as_str().into(),
        target: row.get::<_, String>(2)?.as_str().into(),
        vault: row.get::<_, String>(3)?.as_str().into(),
        cause: optional_json(row, 4)?,
        occurrence: time(row, 5)?,
        due: time(row, 6)?,
        begun: time(row, 7)?,
        point: time(row, 8)?,
        ended: UnixMillis(row.get(9)?),
        attempt: Attempt(row.get(10)?),
        place: optional_json(row, 11)?,
        outcome,
        reason: row.get(13)?,
        snapshot: recorded(row.get(14)?),
    })
}

fn read_snapshot(row: &Row<'_>) -> rusqlite::Result<SnapshotRow> {
    let sealed = Sealed {
        snapshot: SnapshotId(row.get(0)?),
        files: row.get(8)?,
        bytes: row.get(9)?,
        new_bytes: row.get(10)?,
        warnings: row.get(11)?,
    };
    let seen = InVault { run: RunId(row.get(4)?), attempt: Attempt(row.get(5)?), sealed };
    let standing = standing(&seen, recorded(row.get(14)?).as_ref());
    Ok(SnapshotRow {
        snapshot: seen.sealed.snapshot,
        vault: row.get::<_, String>(1)?.as_str().into(),
        plan: row.get::<_, String>(2)?.as_str().into(),
        target: row.get::<_, String>(3)?.as_str().into(),
        run: seen.run,
        attempt: seen.attempt,
        point: time(row, 6)?,
        sealed: UnixMillis(row.get(7)?),
        files: seen.sealed.files,
        bytes: seen.sealed.bytes,
        new_bytes: seen.sealed.new_bytes,
        warnings: seen.sealed.warnings,
        standing,
        held: row.get(13)?,
        forgotten: time(row, 12)?,
    })
}
