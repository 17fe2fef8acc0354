//! Plans, vaults and clients as the records keep them.

use crate::{
    time::UnixMillis,
    words::{ClientId, ClientName, VaultName},
};
use serde::{Deserialize, Serialize};

/// A plan, as its JSON text and what the records themselves need of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// [`crate::plan::Plan::to_json`].
    pub text: String,
    /// Its vault.
    pub vault: VaultName,
    /// Grows by one with each change.
    pub revision: u64,
    /// Occurrences up to here are not the plan's: it did not exist, was disabled, or had another calendar.
    pub since: UnixMillis,
}

/// A vault of the site. Credentials of its store are not here; only the node that serves it has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultRecord {
    /// Unique.
    pub name: VaultName,
    /// The identifier that the vault gave itself; a directory emptied and made anew is another vault.
    pub id: String,
    /// Where its store is, without secrets.
    pub url: String,
    /// Node that serves it.
    pub node: anshin_base::NodeId,
    /// Runs into it at once; 0: no limit.
    pub concurrent: u32,
}

/// A machine that is no node and whose data is backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Given at join, never used again.
    pub id: ClientId,
    /// Its name; unique among those that are not revoked.
    pub name: ClientName,
    /// SHA-256 of its certificate, hexadecimal.
    pub fingerprint: String,
    /// `linux-x86_64`, …: as it said at join.
    pub platform: String,
    /// When it joined.
    pub joined: UnixMillis,
    /// Runs of it at once; 0: no limit.
    pub concurrent: u32,
    /// When it was revoked; its snapshots stay.
    pub revoked: Option<UnixMillis>,
}

/// A client that asks to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewClient {
    /// Its name.
    pub name: ClientName,
    /// SHA-256 of its certificate, hexadecimal.
    pub fingerprint: String,
    /// `linux-x86_64`, …
    pub platform: String,
}

/// A right to join as a client, used once. The secret itself is never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientToken {
    /// Hash of the secret, hexadecimal; the key of the token.
    pub hash: String,
    /// The name that the client must have, if it was given.
    pub name: Option<ClientName>,
    /// Not valid after this.
    pub expires: UnixMillis,
}
