//! The index of a key domain: where each object lies. A function of the packs, so it can always be made anew.

pub(crate) mod filter;
pub(crate) mod merge;
pub(crate) mod segment;
pub(crate) mod set;
