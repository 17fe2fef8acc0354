//! Who may do what at the vault's door.

use anshin_link::Party;
use anshin_vault::{DomainId, Rights, SnapshotRecord};

/// What somebody may do in a key domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pass {
    /// The name under which it seals snapshots.
    pub client: String,
    /// The name under which its objects count: the same for those who trust each other's.
    pub writer: String,
    /// What it may do.
    pub rights: Rights,
    /// Whether others, as strangers to it, put into the same domain.
    pub shared: bool,
}

/// Knows who may come in. Asked when a session begins, when a snapshot is sealed, and every few seconds in between.
pub trait Doorkeeper: Send + Sync {
    /// What this party may do in this key domain.
    ///
    /// # Errors
    /// Why it may do nothing; told to the party and to the log.
    fn admit(&self, party: &Party, domain: DomainId) -> Result<Pass, String>;
}

/// Knows whether a snapshot may come to be: asked before one is sealed, so that of a run only the present attempt leaves one.
pub trait Admission: Send + Sync {
    /// Whether this snapshot of this party may be sealed. May wait for an answer of the ledger.
    ///
    /// # Errors
    /// Why not; told to the party and to the log.
    fn may_seal(&self, party: &Party, record: &SnapshotRecord) -> Result<(), String>;
}

/// Every snapshot may come to be: where no ledger records runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn may_seal(&self, _: &Party, _: &SnapshotRecord) -> Result<(), String> {
        Ok(())
    }
}
