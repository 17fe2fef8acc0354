//! What is said on the guard's socket: one JSON value a line, a request from the client, replies from the guard.
//!
//! ```text
//! → {"hold":{"address":"10.0.0.50/24","lease":"/run/anshin/lease-data"}}
//! ← "done"
//! → "events"
//! ← "done"
//! ← {"event":{"at":1234,"address":"10.0.0.50/24","happened":"held"}}
//! ```
//! Times are nanoseconds of CLOCK_BOOTTIME.

use crate::address::ServiceAddress;
use anshin_base::{Mono, Problem};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Code of the refusal of a release: the address is still there, or may be; the guard goes on trying.
pub(super) const ADDRESS_STAYS: &str = "address-stays";

/// Longest line either way.
pub(super) const LINE_SIZE_MAX: usize = 64 * 1024;

/// An address that is to be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The address with its network's prefix length.
    pub address: ServiceAddress,
    /// On which interface; without it, the one that has another address of the same network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The lease record that allows it.
    pub lease: PathBuf,
    /// Not added before this time: the predecessor may still have it until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Mono>,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Hold this address from now on, whenever its lease is valid. Answered when the hold is kept, not when the
    /// address is there. Asking again replaces the former hold of that address.
    Hold(Hold),
    /// Hold it no more. Answered when the address is gone.
    Release {
        /// Which.
        address: ServiceAddress,
    },
    /// What is held.
    List,
    /// Tell everything that happens from now on.
    Events,
}

/// What the guard answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// As asked.
    Done,
    /// What is held.
    Holds(Vec<HoldStatus>),
    /// Something happened.
    Event(Event),
    /// It cannot be.
    Refused(Problem),
}

/// A hold and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStatus {
    /// What was asked.
    pub hold: Hold,
    /// True if the address is on this node.
    pub held: bool,
    /// Until when the lease allows it; 0 if it does not.
    pub lease_until: Mono,
    /// What failed last, if the address should be there and is not, or should be gone and is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Something that happened to an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Mono,
    /// To which.
    pub address: ServiceAddress,
    /// What.
    pub happened: Happened,
}

/// What can happen to an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Happened {
    /// It is on this node now.
    Held,
    /// It is gone because its lease ended.
    LeaseEnded,
    /// It is gone because the hold was released or replaced.
    Released,
    /// It could not be added or removed; tried again.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_speaks_the_documented_json() {
        let text = r#"{"hold":{"address":"10.0.0.50/24","lease":"/run/anshin/lease-data"}}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>("\"list\"").unwrap(), Request::List);
        let event =
            Event { at: Mono(1234), address: "10.0.0.50/24".parse().unwrap(), happened: Happened::Held };
        let text = r#"{"event":{"at":1234,"address":"10.0.0.50/24","happened":"held"}}"#;
        assert_eq!(serde_json::to_string(&Reply::Event(event)).unwrap(), text);
    }

    #[test]
    fn bytes_that_are_no_request_are_refused() {
        for text in ["", "{}", "\"hold\"", r#"{"hold":{"address":"10.0.0.50","lease":"/x"}}"#] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
