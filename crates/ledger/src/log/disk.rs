//! Disk commands of the log.

/// One of the two areas. They may be two files or two parts of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// The first.
    A,
    /// The second.
    B,
}

impl Area {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Write `bytes` at `offset`; both are multiples of [`super::BLOCK`].
    Write {
        /// Where.
        area: Area,
        /// First byte.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Make everything written to the area durable.
    Flush {
        /// Which.
        area: Area,
    },
}

/// Steps to be carried out strictly one after the other; durable when the last has ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskBatch {
    /// Name for the completion.
    pub batch: u64,
    /// The steps.
    pub ops: Vec<DiskOp>,
}
