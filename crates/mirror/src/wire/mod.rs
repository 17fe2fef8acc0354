//! Messages between the volume processes of one group. Described for outsiders in docs/formats/replication.md.
//!
//! A message is a fixed header, a small body whose form depends on the kind, and for some kinds a payload (data of
//! the volume), which the receiver can read straight into its own buffer:
//!
//! ```text
//! offset size
//!      0    4  magic "anm1"
//!      4    2  version of the protocol that the message is written in (little endian, as everything here)
//!      6    2  kind
//!      8    4  body length in bytes, at most BODY_MAX
//!     12    4  payload length in bytes, at most PAYLOAD_MAX
//!     16    4  crc32c of the body
//!     20    4  crc32c of the payload
//!     24    4  reserved, 0
//!     28    4  crc32c of the 28 bytes before
//!     32    n  body, then payload
//! ```
//! Within a link messages arrive in the order sent; the numbers of writes and flushes let a receiver notice a gap.

mod body;
#[cfg(test)]
mod tests;

use crate::codec::{Malformed, Stamped};
use anshin_base::{Generation, GroupId, Member};
use bytes::{Bytes, BytesMut};

/// Bytes of the fixed header.
pub const HEADER_SIZE: usize = 32;
/// Largest body. Map parts are the largest, see [`MAP_EXTENTS_MAX`].
pub const BODY_MAX: usize = 1 << 20;
/// Largest payload. Writes are cut at [`crate::layout::PART_MAX`], repairs at one chunk.
pub const PAYLOAD_MAX: usize = 4 << 20;
/// The version this code speaks and the oldest it still speaks.
pub const VERSION: u16 = 2;
/// Most extents in one map part: 132 bytes each.
pub const MAP_EXTENTS_MAX: usize = 1024;
/// Most ranges in one window: 16 bytes each.
pub const WINDOW_MAX: usize = 32_768;
const MAGIC: [u8; 4] = *b"anm1";

/// Number of a write, zero or flush within the reign of one primary; starts at 1 with each promotion.
pub type Seq = u64;
/// A 128-bit BLAKE3 of one block of 4,096 bytes.
pub type BlockSum = [u8; 16];

/// How far everyone is, told by the primary with everything it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Points {
    /// Every write up to here is on every replica that the primary waits for (R6).
    pub everywhere: Seq,
    /// Every replica that the primary waits for has confirmed the flush with this number (R5).
    pub durable: Seq,
    /// The primary's own durable progress number: known to the others no later than that a flush is everywhere (R7).
    pub progress: u64,
}

/// First message of each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version that the sender speaks.
    pub version_min: u16,
    /// Newest version that the sender speaks.
    pub version_max: u16,
    /// The group; a stranger is refused.
    pub group: GroupId,
    /// Who speaks, in which session (R4).
    pub member: Member,
    /// Size of the volume in bytes.
    pub volume_bytes: u64,
    /// Progress number loaded from disk, or the present one once that was checked (R7).
    pub progress: u64,
    /// The newest entry that the sender knows of.
    pub stamp: Stamped,
    /// Whether the replica was found to be an old image (R7) and not been compared in full since.
    pub old_image: bool,
}

/// How a primary attaches a replica to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// A member of the set, already reconciled in this reign, whose link broke: the stream goes on.
    Resume,
    /// A member of the set after a promotion: it names its open window first (R6).
    Reconcile,
    /// Not in the set, or not in this session: it names its dirty record and hot extents and is resynced.
    Target,
}

/// A range of bytes of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

impl Range {
    /// The byte after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// Whether the two share a block of 4,096 bytes, the grain of dirty record and resync.
    #[must_use]
    pub fn touches(&self, other: &Self) -> bool {
        let grain = crate::layout::BLOCK;
        let blocks = |range: &Self| (range.offset / grain, range.end().div_ceil(grain));
        let (a, b) = (blocks(self), blocks(other));
        a.0 < b.1 && b.0 < a.1
    }
}

/// Bits of one extent of 4 MiB: 1,024 blocks, least significant bit of the first byte first.
pub type ExtentBits = [u8; 128];

/// Everything that replicas say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who the sender is and what it holds: its answer to [`Message::Challenge`].
    Hello(Box<Hello>),
    /// The primary asks the receiver to join its stream.
    Attach {
        /// For the answer; an answer to an earlier attach is ignored.
        number: u64,
        /// What is recorded; names the sender as primary.
        stamp: Stamped,
        /// Generation of the sender's promotion: names its numbering.
        reign: Generation,
        /// How.
        mode: AttachMode,
    },
    /// The receiver of an attach is ready: nothing of an earlier stream is still on its way to its disk.
    Attached {
        /// As in the attach.
        number: u64,
        /// Resume: the last number received without a gap. Else 0.
        received: Seq,
        /// Reconcile: writes it may hold that are not known to be everywhere.
        window: Vec<Range>,
    },
    /// Part of a target's dirty record and hot extents; follows its `Attached`.
    MapPart {
        /// As in the attach.
        number: u64,
        /// Until this attach the data area was all zeroes, because nothing was ever written since its creation. Told here and
        /// not in the greeting, as another primary's writes may have come in between.
        virgin: bool,
        /// Everything may differ; no extents are listed.
        full: bool,
        /// No further part follows.
        last: bool,
        /// Extent number and its dirty blocks.
        extents: Vec<(u32, Box<ExtentBits>)>,
    },
    /// The stream begins: the next number is `next`.
    Begin {
        /// First number that will follow.
        next: Seq,
        /// How far everyone is.
        points: Points,
    },
    /// A numbered write; its data is the payload.
    Write {
        /// Its number.
        seq: Seq,
        /// How far everyone is.
        points: Points,
        /// First byte.
        offset: u64,
        /// The content.
        data: Bytes,
    },
    /// A numbered zeroing.
    Zero {
        /// Its number.
        seq: Seq,
        /// How far everyone is.
        points: Points,
        /// What becomes zero.
        range: Range,
        /// Whether holes may be made.
        unmap: bool,
    },
    /// A numbered flush: everything received before it becomes durable, and a progress number with it.
    Flush {
        /// Its number.
        seq: Seq,
        /// How far everyone is.
        points: Points,
        /// The progress number to reach at least, the same for all: after a restart of all, the highest number names
        /// a replica that holds everything that was flushed.
        progress: u64,
    },
    /// A write or zeroing is on the receiver's disk (not necessarily durable).
    Ack {
        /// Whose numbering.
        reign: Generation,
        /// Which.
        seq: Seq,
    },
    /// A flush is done.
    FlushAck {
        /// Whose numbering.
        reign: Generation,
        /// Which.
        seq: Seq,
        /// The progress number that became durable with it (R7).
        progress: u64,
    },
    /// The set changed; in the stream, so that every member changes its bookkeeping at the same point (R5).
    Set(Stamped),
    /// The reconciliation is over: windows of earlier reigns may be forgotten.
    Reconciled,
    /// Sign of life of the primary and request for a lease (R11).
    LeaseRequest {
        /// For the answer; the sender knows when it was sent.
        number: u64,
        /// How far everyone is.
        points: Points,
    },
    /// Sign of life of a secondary and grant of the lease.
    LeaseGrant {
        /// As in the request.
        number: u64,
        /// False: I am alive but do not grant.
        granted: bool,
        /// Its durable progress number (R7).
        progress: u64,
    },
    /// Resync: the checksums of the blocks of one chunk whose bit is set in `mask`, in order.
    Compare {
        /// Names the chunk until it is done.
        id: u64,
        /// First byte of the chunk.
        offset: u64,
        /// Which of its 64 blocks are meant.
        mask: u64,
        /// One per bit set in `mask`.
        sums: Vec<BlockSum>,
    },
    /// Answer: which of them differ.
    Differ {
        /// As in the comparison.
        id: u64,
        /// The blocks whose checksum is not the same.
        mask: u64,
    },
    /// Resync: the content of the differing blocks, one after the other, as payload.
    Repair {
        /// As in the comparison.
        id: u64,
        /// First byte of the chunk.
        offset: u64,
        /// Which blocks.
        mask: u64,
        /// Their content.
        data: Bytes,
    },
    /// The repair is on disk (not necessarily durable).
    Repaired {
        /// As in the comparison.
        id: u64,
    },
    /// Every block that the target may lack was compared: make it durable and forget the mark of a target.
    Finish,
    /// Done; the target may be proposed for the set.
    Finished {
        /// Its durable progress number.
        progress: u64,
    },
    /// The receiver acts on an outdated entry; this is what is recorded (R8, R12).
    Newer(Stamped),
    /// The sender's activity log is full: please let everyone flush.
    FlushWanted,
    /// The receiver presented less progress than was seen before (R7).
    OldImage {
        /// What was seen.
        seen: u64,
    },
    /// The first message of both ends: greet me. A greeting thus comes from a session that lived when the link was up at
    /// both ends; without it, one that waited in the network could be that of a session which ended long ago.
    Challenge,
    /// A sign of life between replicas of which neither is primary.
    Alive,
}

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    version: u16,
    kind: u16,
    body: u32,
    payload: u32,
    body_crc: u32,
    payload_crc: u32,
}

impl Header {
    /// Bytes of the body that follows the header.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body as usize
    }

    /// Bytes of the payload that follows the body.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.payload as usize
    }
}

/// Why bytes are not a message. The link must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer or more bytes than announced.
    #[error("a message of the wrong length")]
    Length,
    /// Not a replica, or the stream lost its place.
    #[error("bytes that are not a message of a replica")]
    Magic,
    /// The header, body or payload does not match its checksum.
    #[error("a message whose checksum does not match")]
    Checksum,
    /// A version or kind this program does not know.
    #[error("a message of version {version} and kind {kind}, which is not known here")]
    Unknown {
        /// As announced.
        version: u16,
        /// As announced.
        kind: u16,
    },
    /// The body is not what its kind says.
    #[error("a malformed message of kind {kind}")]
    Malformed {
        /// As announced.
        kind: u16,
    },
}

/// Checks a fixed header. Nothing is reserved by this; the lengths are within their bounds when it succeeds.
///
/// # Errors
/// [`WireError`]; the link must be closed.
pub fn decode_header(bytes: &[u8]) -> Result<Header, WireError> {
    let bytes: &[u8; HEADER_SIZE] = bytes.try_into().map_err(|_| WireError::Length)?;
    if bytes[..4] != MAGIC {
        return Err(WireError::Magic);
    }
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if crc32c::crc32c(&bytes[..28]) != u32_at(28) {
        return Err(WireError::Checksum);
    }
    let header = Header {
        version: u16_at(4),
        kind: u16_at(6),
        body: u32_at(8),
        payload: u32_at(12),
        body_crc: u32_at(16),
        payload_crc: u32_at(20),
    };
    if header.body_len() > BODY_MAX || header.payload_len() > PAYLOAD_MAX {
        return Err(WireError::Length);
    }
    if header.version != VERSION || !body::known(header.kind) || u32_at(24) != 0 {
        return Err(WireError::Unknown { version: header.version, kind: header.kind });
    }
    Ok(header)
}

impl Message {
    /// The message whose header, body and payload were read.
    ///
    /// # Errors
    /// [`WireError`]; the link must be closed.
    pub fn from_parts(header: Header, body: &[u8], payload: Bytes) -> Result<Self, WireError> {
        if body.len() != header.body_len() || payload.len() != header.payload_len() {
            return Err(WireError::Length);
        }
        if crc32c::crc32c(body) != header.body_crc || crc32c::crc32c(&payload) != header.payload_crc {
            return Err(WireError::Checksum);
        }
        body::decode(header.kind, body, payload)
            .map_err(|Malformed| WireError::Malformed { kind: header.kind })
    }

    /// Header and body; [`Self::payload`] follows on the wire.
    #[must_use]
    pub fn encode_header(&self) -> Bytes {
        let (kind, body) = body::encode(self);
        let payload = self.payload().map_or(&[][..], |payload| payload);
        let length =
            |bytes: &[u8]| u32::try_from(bytes.len()).expect("invariant: bodies and payloads are bounded");
        let mut out = BytesMut::with_capacity(HEADER_SIZE + body.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&length(&body).to_le_bytes());
        out.extend_from_slice(&length(payload).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&body);
        out.freeze()
    }

    /// The data that follows header and body, if the kind has any.
    #[must_use]
    pub fn payload(&self) -> Option<&Bytes> {
        match self {
            Self::Write { data, .. } | Self::Repair { data, .. } => Some(data),
            _ => None,
        }
    }
}
