//! What a verification says.

use crate::keys::{DomainId, DomainKeys};
use crate::object::ChunkId;
use crate::snapshot::Snapshot;

/// How thoroughly to look.
#[derive(Clone, Default, Debug)]
pub struct VerifyOptions {
    /// Keys of the domains whose contents are to be decrypted and compared with their ids.
    pub keys: Vec<DomainKeys>,
}

/// Something that is not as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What, in words that name it: `pack t-…`, `snapshot …`, `index`, `key file of …`, `the vault's descriptor`.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// The key domain it belongs to.
    pub domain: Option<DomainId>,
    /// True if it was put right.
    pub repaired: bool,
    /// Objects that are lost by it: no intact copy is left.
    pub lost: Vec<ChunkId>,
}

/// A snapshot that cannot be restored as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedSnapshot {
    /// Its key domain.
    pub domain: DomainId,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The objects that it needs and that are lost. Who has the key and knows the trees names the files.
    pub lost: Vec<ChunkId>,
}

/// What a verification came to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct VerifyReport {
    /// Everything that is not as it was written.
    pub findings: Vec<Finding>,
    /// Snapshots that cannot be restored as a whole.
    pub snapshots: Vec<DamagedSnapshot>,
    /// Packs read.
    pub packs: u64,
    /// Objects compared with their checks.
    pub objects: u64,
    /// Objects compared with their ids.
    pub objects_decrypted: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Snapshots walked.
    pub snapshots_walked: u64,
}

impl VerifyReport {
    /// Whether everything is as it was written, or was put right without loss.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.snapshots.is_empty() && self.findings.iter().all(|finding| finding.repaired)
    }

    pub(crate) fn find(
        &mut self,
        domain: Option<DomainId>,
        what: impl Into<String>,
        why: impl ToString,
        repaired: bool,
    ) {
        let (what, why) = (what.into(), why.to_string());
        self.findings.push(Finding { what, why, domain, repaired, lost: Vec::new() });
    }
}
