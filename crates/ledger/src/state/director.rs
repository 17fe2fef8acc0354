//! The director's records as a part of the ledger, within a bound: a ledger that outgrows its area on disk ends every
//! voter.

use super::Refused;
use anshin_director::record::{Applied, Change, Records};
use serde::{Deserialize, Serialize};

/// Most bytes that plans, vaults, clients, runs and what is remembered of targets may take, encoded. The history of
/// events comes on top and has a bound of its own; both together leave room in an area of 16 MiB.
pub const DIRECTOR_BYTES_MAX: u64 = 6 << 20;

/// The records, and how large they may be by now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Director {
    records: Records,
    /// Not below what [`Records::size`] would say: it grows with every change that adds something, and is measured anew
    /// only when it reaches the bound. Part of the state, for every voter must refuse the same changes.
    size_max: u64,
}

impl Director {
    /// The records.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Carries out a change of the records.
    ///
    /// # Errors
    /// [`Refused`]; the records are unchanged then.
    pub(super) fn apply(&mut self, change: &Change) -> Result<Applied, Refused> {
        let Some(growth) = change.growth() else { return Ok(self.records.apply(change)?) };
        let mut size = self.size_max;
        if size.saturating_add(growth) > DIRECTOR_BYTES_MAX {
            size = self.records.size();
        }
        if size.saturating_add(growth) > DIRECTOR_BYTES_MAX {
            return Err(Refused::Full(format!("plans, clients and runs: they take {size} bytes")));
        }
        let applied = self.records.apply(change)?;
        self.size_max = size + growth;
        Ok(applied)
    }
}
