//! Messages between replicas.

/// Placeholder shape until the protocol stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {}
