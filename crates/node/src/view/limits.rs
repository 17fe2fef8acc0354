//! What a site does not protect from, however well it stands: said always, and never hidden behind a green level.

use super::{Facts, age};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that this site does not protect from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limit {
    /// What it is about, for `anshin explain`.
    pub subject: String,
    /// In one sentence.
    pub sentence: String,
    /// For how long at most, if it is a matter of time.
    pub bound_ms: Option<u64>,
}

/// The subject of the limit that comes of servers that cannot be switched off from outside.
pub const FENCING: &str = "fencing";

/// The subject of the limit that comes of a site without a vault.
pub const NO_BACKUP: &str = "backup";

/// The limits that follow from `facts`.
#[must_use]
pub fn limits(facts: &Facts) -> Vec<Limit> {
    paused_address(facts).into_iter().chain(no_backup(facts)).collect()
}

/// An address on a machine whose processes all stand still ends by the kernel alone (I11's exception).
fn paused_address(facts: &Facts) -> Option<Limit> {
    let exposed = facts.services.iter().any(|service| service.address.is_some());
    if facts.machine_fencing || !exposed {
        return None;
    }
    // The kernel of a paused process counts on; that of a paused virtual machine goes on where it stood, as does its lease.
    let bound = facts.times.address_left_ms.max(facts.times.lease_ms);
    let sentence = format!(
        "no machine fencing: a server that is paused as a whole may answer on its address for up to {} after it is \
         paused or wakes; it cannot write",
        age(bound)
    );
    Some(Limit { subject: FENCING.to_owned(), sentence, bound_ms: Some(bound) })
}

/// What is deleted or encrypted is so on every copy at once.
fn no_backup(facts: &Facts) -> Option<Limit> {
    if facts.volumes.is_empty() && facts.services.is_empty() || !facts.backups.vaults.is_empty() {
        return None;
    }
    let sentence = "no backups: there is no vault, so what is deleted stays deleted";
    Some(Limit { subject: NO_BACKUP.to_owned(), sentence: sentence.to_owned(), bound_ms: None })
}
