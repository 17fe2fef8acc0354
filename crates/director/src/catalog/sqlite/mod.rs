//! [`SqliteCatalog`]: the embedded catalog.

mod facts;
mod index;
mod open;
mod query;
mod schema;

#[cfg(test)]
mod tests;

pub use open::Opened;

use super::{
    Catalog, CatalogError, Fact, Filter, FindQuery, Found, PassedRow, PathChange, Rebuild, Result, RunRow,
    SnapshotRow,
};
use crate::{
    record::{Drill, Event},
    words::{Position, RunId, SnapshotId, TargetKey},
};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _};

/// The catalog in one SQLite file.
#[derive(Debug)]
pub struct SqliteCatalog {
    connection: Connection,
}

impl From<rusqlite::Error> for CatalogError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            _ => match error {
                // A value that we did not write.
                rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::FromSqlConversionFailure(..) => Self::Damaged(error.to_string()),
                error => Self::Store(error.to_string()),
            },
        }
    }
}

fn position(connection: &Connection) -> Result<Position> {
    let number: Option<u64> = connection
        .query_row("SELECT value FROM meta WHERE key = 'position'", [], |row| row.get(0))
        .optional()?;
    Ok(Position(number.unwrap_or(0)))
}

impl Catalog for SqliteCatalog {
    fn position(&self) -> Result<Position> {
        position(&self.connection)
    }

    fn apply(&mut self, event: &Event) -> Result<bool> {
        let transaction = self.connection.transaction()?;
        let have = position(&transaction)?;
        if event.position <= have {
            return Ok(false);
        }
        if event.position.0 != have.0 + 1 {
            return Err(CatalogError::Gap { have, got: event.position });
        }
        facts::event(&transaction, event)?;
        facts::set_position(&transaction, event.position)?;
        transaction.commit()?;
        Ok(true)
    }

    fn rebuild(&mut self, how: &Rebuild, facts: &mut dyn Iterator<Item = Fact>) -> Result<u64> {
        let transaction = self.connection.transaction()?;
        let taken = facts::rebuild(&transaction, how, facts)?;
        transaction.commit()?;
        Ok(taken)
    }

    fn run(&self, run: RunId) -> Result<Option<RunRow>> {
        query::run(&self.connection, run)
    }

    fn runs(&self, filter: &Filter) -> Result<Vec<RunRow>> {
        query::runs(&self.connection, filter)
    }

    fn snapshot(&self, snapshot: &SnapshotId) -> Result<Option<SnapshotRow>> {
        query::snapshot(&self.connection, snapshot)
    }

    fn snapshots(&self, filter: &Filter) -> Result<Vec<SnapshotRow>> {
        query::snapshots(&self.connection, filter)
    }

    fn passed(&self, filter: &Filter) -> Result<Vec<PassedRow>> {
        query::passed(&self.connection, filter)
    }

    fn drills(&self, filter: &Filter) -> Result<Vec<Drill>> {
        query::drills(&self.connection, filter)
    }

    fn unindexed(&self, max: usize) -> Result<Vec<SnapshotId>> {
        index::unindexed(&self.connection, None, max)
    }

    fn index_base(&self, target: &TargetKey) -> Result<Option<SnapshotId>> {
        index::base(&self.connection, target)
    }

    fn index(
        &mut self,
        snapshot: &SnapshotId,
        base: Option<&SnapshotId>,
        changes: &mut dyn Iterator<Item = PathChange>,
    ) -> Result<u64> {
        let transaction = self.connection.transaction()?;
        let left_out = index::index(&transaction, snapshot, base, changes)?;
        transaction.commit()?;
        Ok(left_out)
    }

    fn find(&self, query: &FindQuery) -> Result<Found> {
        index::find(&self.connection, query)
    }
}
