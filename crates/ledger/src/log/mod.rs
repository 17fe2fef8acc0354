//! The voter's durable log: format, recovery, and the disk commands that write it. See docs/formats/ledger.md.
//!
//! Two areas of equal size hold one *segment* each. A segment begins with a header block and a base batch, which holds
//! everything (a snapshot, the entries kept, hard state, what peers confirmed); further batches follow, each made
//! durable before the next is written. A full segment is left by writing a new base into the other area.
//!
//! That one rule (batch n is durable before n+1 is written) is what tells a torn tail from damage: a bad batch with
//! nothing after it was never confirmed and is dropped; a bad batch with a good one after it was confirmed once, and
//! the voter must rejoin (R8).

mod block;
mod disk;
mod journal;
mod record;
mod recover;

#[cfg(test)]
mod tests;

pub use block::{BLOCK, FormatError};
pub use disk::{Area, DiskBatch, DiskOp};
pub use journal::{Journal, JournalFull};
pub use record::{Identity, Record};
pub use recover::{RecoverError, Recovered, recover};
