//! Recovery: from the bytes of the two areas to the records, or to the sentence that the voter must rejoin (R8).

use super::{
    Area, DiskOp, Journal, Record,
    block::{self, BLOCK, Block, FormatError, MAGIC_BATCH, MAGIC_HEADER},
};

/// Why a log cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Neither area holds anything: no voter was ever made here.
    #[error("there is no ledger here")]
    Empty,
    /// Something that was confirmed once is damaged: the voter must rejoin under a new id (R8).
    #[error("the ledger's log is damaged: {0}")]
    Damaged(String),
    /// Written by a newer build.
    #[error("version {0} of the ledger's log is newer than this build reads")]
    Version(u16),
}

/// What a log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where to go on.
    pub journal: Journal,
    /// Every record, oldest first.
    pub records: Vec<Record>,
    /// To be carried out before anything else is written: finishes what a crash interrupted.
    pub ops: Vec<DiskOp>,
}

enum Head {
    Blank,
    Broken,
    Segment { sequence: u64, superseded: bool },
}

/// Reads both areas, which must have the same length. What they hold must be durable, so that the owner flushes them before it
/// reads: whoever is told of it relies on it.
///
/// # Errors
/// [`RecoverError`].
pub fn recover(a: &[u8], b: &[u8]) -> Result<Recovered, RecoverError> {
    let (head_a, head_b) = (head(a)?, head(b)?);
    let (area, sequence, other) = match (&head_a, &head_b) {
        (Head::Segment { sequence: x, .. }, Head::Segment { sequence: y, .. }) if x == y => {
            return Err(RecoverError::Damaged("two segments have one number".into()));
        }
        (Head::Segment { sequence: x, .. }, Head::Segment { sequence: y, .. }) if x < y => {
            (Area::B, *y, &head_a)
        }
        (Head::Segment { sequence, .. }, other) => (Area::A, *sequence, other),
        (other, Head::Segment { sequence, .. }) => (Area::B, *sequence, other),
        (Head::Blank, Head::Blank) => return Err(RecoverError::Empty),
        _ => return interrupted_creation(a, b),
    };
    let chosen = if area == Area::A { &head_a } else { &head_b };
    if matches!(chosen, Head::Segment { superseded: true, .. }) {
        return Err(RecoverError::Damaged("the newest segment's header is lost".into()));
    }
    let bytes = if area == Area::A { a } else { b };
    let mut ops = Vec::new();
    match other {
        Head::Segment { sequence: old, superseded: false } => {
            // A crash came between the new header and the mark on the old one.
            let superseded = block::encode(MAGIC_HEADER, *old, 1, 0, &[]).0;
            ops.push(DiskOp::Write { area: area.other(), offset: 0, bytes: superseded });
            ops.push(DiskOp::Flush { area: area.other() });
        }
        // The mark itself, or a first header of a new segment, was torn; the next rotation writes it anew.
        Head::Segment { .. } | Head::Blank | Head::Broken => {}
    }
    scan(bytes, area, sequence, ops)
}

/// A log's very first header can be torn, while the other area is blank or garbage: nothing was ever confirmed
/// because the header comes last.
fn interrupted_creation(a: &[u8], b: &[u8]) -> Result<Recovered, RecoverError> {
    let batches = |bytes: &[u8]| {
        bytes.chunks(BLOCK).enumerate().skip(1).any(|(at, _)| {
            block::decode(&bytes[at * BLOCK..]).is_ok_and(|block| block.number > 0 || block.sequence > 1)
        })
    };
    if batches(a) || batches(b) {
        return Err(RecoverError::Damaged("no segment has a header".into()));
    }
    Err(RecoverError::Empty)
}

fn head(bytes: &[u8]) -> Result<Head, RecoverError> {
    let first = bytes.get(..BLOCK.min(bytes.len())).unwrap_or_default();
    match block::decode(first) {
        Ok(Block { magic: MAGIC_HEADER, sequence, number, .. }) => {
            Ok(Head::Segment { sequence, superseded: number == 1 })
        }
        Err(FormatError::Version(version)) => Err(RecoverError::Version(version)),
        _ if first.iter().all(|byte| *byte == 0) => Ok(Head::Blank),
        _ => Ok(Head::Broken),
    }
}

fn scan(bytes: &[u8], area: Area, sequence: u64, ops: Vec<DiskOp>) -> Result<Recovered, RecoverError> {
    let mut journal = Journal {
        area_bytes: bytes.len() as u64,
        area,
        sequence,
        number: 0,
        before: 0,
        offset: BLOCK as u64,
    };
    let mut records = Vec::new();
    let mut at = BLOCK;
    while at < bytes.len() {
        let next = match block::decode(&bytes[at..]) {
            Err(FormatError::Version(version)) => return Err(RecoverError::Version(version)),
            Ok(block) if is_next(&block, &journal) => block,
            // The end, a torn tail, or a batch of an earlier use of the area.
            _ => break,
        };
        let found = block::decode_records(next.body)
            .map_err(|_| RecoverError::Damaged(format!("batch {} holds no records", next.number)))?;
        records.extend(found);
        at += block::size_on_disk(next.body.len());
        journal = Journal { number: next.number + 1, before: next.crc, offset: at as u64, ..journal };
    }
    if journal.number == 0 {
        // The header is written only after the base is durable.
        return Err(RecoverError::Damaged("the base of the newest segment".into()));
    }
    // Batch n+1 is written only after batch n was durable: anything of this segment behind the first bad batch proves
    // that the bad one was confirmed once.
    let behind = (at + BLOCK..bytes.len()).step_by(BLOCK).find_map(|at| {
        let block = block::decode(&bytes[at..]).ok()?;
        (block.magic == MAGIC_BATCH && block.sequence == sequence && block.number > journal.number)
            .then_some(at)
    });
    match behind {
        Some(at) => {
            Err(RecoverError::Damaged(format!("batch {} (a later one stands at {at})", journal.number)))
        }
        None => Ok(Recovered { journal, records, ops }),
    }
}

fn is_next(block: &Block<'_>, journal: &Journal) -> bool {
    block.magic == MAGIC_BATCH
        && block.sequence == journal.sequence
        && block.number == journal.number
        && block.before == journal.before
}
