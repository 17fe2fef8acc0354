//! Version 1 of the vault link: what a frame's body holds. docs/formats/vault-link.md describes it for others.
//!
//! Integers are little endian. Objects travel as they are sealed and are cut out of the frame without being copied.

use super::errors;
use anshin_base::frame::Frame;
use anshin_vault::{ChunkId, Sealed, Snapshot, SnapshotId, VaultError};
use bytes::Bytes;

/// Kind of the frames: "VL".
pub const KIND: u16 = 0x4c56;
/// The only version so far.
pub const VERSION: u16 = 1;
/// Longest body: the largest sealed object, with room for what stands before it.
pub const BODY_LENGTH_MAX: usize = 12 << 20;
/// Objects are gathered up to this many bytes in one frame; one that is larger is alone in its own.
pub const OBJECTS_SIZE: usize = 4 << 20;
/// Number of the frame that only says that its sender lives.
pub const SIGN_OF_LIFE: u64 = 0;

const _: () = assert!(anshin_vault::seal::SEALED_SIZE_MAX + 64 <= BODY_LENGTH_MAX);

/// Bytes of a peer that are not of this protocol. The connection must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("bytes that are no message of the vault link: {0}")]
pub struct Malformed(pub &'static str);

/// A call of [`anshin_vault::Keeper`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Which of these the client has to send.
    Missing(Vec<ChunkId>),
    /// Whether the sealed objects of these ids have these hashes.
    Prove(Vec<(ChunkId, [u8; 32])>),
    /// Objects.
    Put(Vec<Sealed>),
    /// Make everything put durable.
    Flush,
    /// Make this snapshot visible.
    Seal(Box<Snapshot>),
    /// Read these.
    Get(Vec<ChunkId>),
    /// All snapshots.
    Snapshots,
    /// Mark a snapshot as forgotten.
    Forget(SnapshotId),
    /// Take it back.
    Remember(SnapshotId),
    /// The domain's key files.
    KeyFiles,
    /// One more version of it.
    AddKeyFile(Bytes),
    /// The session ends: what was promised to it need not be kept any longer.
    Leave,
}

/// What a call came to. Lists may come in several parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// Yes or no for each question.
    Flags(Vec<bool>),
    /// Objects.
    Objects(Vec<Sealed>),
    /// Snapshots.
    Snapshots(Vec<Snapshot>),
    /// Texts of some kind.
    Blobs(Vec<Bytes>),
    /// It was not done.
    Failed(VaultError),
}

/// A part of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Number of the call.
    pub number: u64,
    /// No part follows.
    pub last: bool,
    /// What it holds.
    pub reply: Reply,
}

/// Takes bytes apart.
pub struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    /// Of these.
    pub(super) const fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    /// The next so many.
    pub(super) fn bytes(&mut self, length: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N).map(|bytes| bytes.try_into().expect("invariant: as many as asked for"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn text(&mut self, length_max: usize) -> Result<String, Malformed> {
        let length = usize::from(self.u16()?);
        if length > length_max {
            return Err(Malformed("a text that is too long"));
        }
        let bytes = self.bytes(length)?.to_vec();
        String::from_utf8(bytes).map_err(|_| Malformed("a text that is not UTF-8"))
    }

    /// What is left, cut into pieces of one size.
    fn pieces<const N: usize>(&mut self) -> Result<&'b [[u8; N]], Malformed> {
        match std::mem::take(&mut self.0).as_chunks::<N>() {
            (pieces, []) => Ok(pieces),
            _ => Err(Malformed("a list that ends in the middle")),
        }
    }

    pub(super) const fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("something follows its end")) }
    }
}

/// Appends a text: two bytes of length, UTF-8.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("invariant: texts are clipped");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_blob(out: &mut Vec<u8>, blob: &[u8]) {
    let length = u32::try_from(blob.len()).expect("invariant: blobs are bounded by the frame");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(blob);
}

/// Cuts blobs out of the rest of a body without copying them.
fn blobs(body: &Bytes, mut at: usize) -> Result<Vec<Bytes>, Malformed> {
    let mut all = Vec::new();
    while at < body.len() {
        let length = body.get(at..at + 4).ok_or(Malformed("a list that ends in the middle"))?;
        let length = u32::from_le_bytes(length.try_into().expect("invariant: four bytes")) as usize;
        at += 4;
        if length > body.len() - at {
            return Err(Malformed("a list that ends in the middle"));
        }
        all.push(body.slice(at..at + length));
        at += length;
    }
    Ok(all)
}

fn objects(body: &Bytes, at: usize) -> Result<Vec<Sealed>, Malformed> {
    let parse = |blob| Sealed::parse(blob).map_err(|_| Malformed("an object that is not as it was sealed"));
    blobs(body, at)?.into_iter().map(parse).collect()
}

fn put_snapshot(out: &mut Vec<u8>, snapshot: &Snapshot) {
    out.extend_from_slice(&snapshot.record.id.0);
    // No snapshot is forgotten at the first second of 1970.
    out.extend_from_slice(&snapshot.forgotten.map_or(0, |time| time.max(1)).to_le_bytes());
    out.extend_from_slice(&snapshot.encode());
}

fn snapshot(bytes: &[u8]) -> Result<Snapshot, Malformed> {
    let mut reader = Reader::new(bytes);
    let (id, forgotten) = (SnapshotId(reader.array()?), reader.u64()?);
    let decoded = Snapshot::decode(id, reader.0).map_err(|_| Malformed("a snapshot that is none"))?;
    Ok(Snapshot { forgotten: (forgotten > 0).then_some(forgotten), ..decoded })
}

fn frame(body: Vec<u8>) -> Frame {
    Frame { kind: KIND, version: VERSION, body: body.into() }
}

/// The frame that only says that its sender lives.
#[must_use]
pub fn sign_of_life() -> Frame {
    frame(SIGN_OF_LIFE.to_le_bytes().to_vec())
}

impl Call {
    const fn code(&self) -> u8 {
        match self {
            Self::Missing(_) => 1,
            Self::Prove(_) => 2,
            Self::Put(_) => 3,
            Self::Flush => 4,
            Self::Seal(_) => 5,
            Self::Get(_) => 6,
            Self::Snapshots => 7,
            Self::Forget(_) => 8,
            Self::Remember(_) => 9,
            Self::KeyFiles => 10,
            Self::AddKeyFile(_) => 11,
            Self::Leave => 12,
        }
    }

    /// The call as a frame.
    #[must_use]
    pub fn encode(&self, number: u64) -> Frame {
        let size = match self {
            Self::Put(objects) => objects.iter().map(|object| object.bytes().len() + 4).sum(),
            Self::Missing(ids) | Self::Get(ids) => ids.len() * 32,
            Self::Prove(claims) => claims.len() * 64,
            _ => 256,
        };
        let mut out = Vec::with_capacity(size + 9);
        out.extend_from_slice(&number.to_le_bytes());
        out.push(self.code());
        match self {
            Self::Missing(ids) | Self::Get(ids) => ids.iter().for_each(|id| out.extend_from_slice(&id.0)),
            Self::Prove(claims) => claims.iter().for_each(|(id, hash)| {
                out.extend_from_slice(&id.0);
                out.extend_from_slice(hash);
            }),
            Self::Put(objects) => objects.iter().for_each(|object| put_blob(&mut out, object.bytes())),
            Self::Seal(snapshot) => put_snapshot(&mut out, snapshot),
            Self::Forget(id) | Self::Remember(id) => out.extend_from_slice(&id.0),
            Self::AddKeyFile(bytes) => out.extend_from_slice(bytes),
            Self::Flush | Self::Snapshots | Self::KeyFiles | Self::Leave => {}
        }
        frame(out)
    }

    /// Reads a call with its number; None for a sign of life.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(frame: &Frame) -> Result<Option<(u64, Self)>, Malformed> {
        let body = known(frame)?;
        let mut reader = Reader::new(body);
        let number = reader.u64()?;
        if number == SIGN_OF_LIFE {
            return reader.end().map(|()| None);
        }
        let code = reader.u8()?;
        let ids =
            |reader: &mut Reader<'_>| Ok(reader.pieces::<32>()?.iter().map(|id| ChunkId(*id)).collect());
        let call = match code {
            1 => Self::Missing(ids(&mut reader)?),
            2 => {
                let claim = |piece: &[u8; 64]| {
                    let (id, hash) = piece.split_first_chunk::<32>().expect("invariant: 64 bytes");
                    (ChunkId(*id), hash.try_into().expect("invariant: 32 bytes are left"))
                };
                Self::Prove(reader.pieces::<64>()?.iter().map(claim).collect())
            }
            3 => return Ok(Some((number, Self::Put(objects(body, 9)?)))),
            4 => Self::Flush,
            5 => return Ok(Some((number, Self::Seal(Box::new(snapshot(reader.0)?))))),
            6 => Self::Get(ids(&mut reader)?),
            7 => Self::Snapshots,
            8 => Self::Forget(SnapshotId(reader.array()?)),
            9 => Self::Remember(SnapshotId(reader.array()?)),
            10 => Self::KeyFiles,
            11 => return Ok(Some((number, Self::AddKeyFile(body.slice(9..))))),
            12 => Self::Leave,
            _ => return Err(Malformed("a call that is not known")),
        };
        reader.end()?;
        Ok(Some((number, call)))
    }
}

fn known(frame: &Frame) -> Result<&Bytes, Malformed> {
    match frame.kind == KIND && frame.version == VERSION {
        true => Ok(&frame.body),
        false => Err(Malformed("another protocol")),
    }
}

impl Part {
    /// The part as a frame.
    #[must_use]
    pub fn encode(&self) -> Frame {
        let size = match &self.reply {
            Reply::Objects(objects) => objects.iter().map(|object| object.bytes().len() + 4).sum(),
            _ => 256,
        };
        let mut out = Vec::with_capacity(size + 10);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.push(u8::from(self.last));
        match &self.reply {
            Reply::Done => out.push(1),
            Reply::Flags(flags) => {
                out.push(2);
                out.extend(flags.iter().map(|flag| u8::from(*flag)));
            }
            Reply::Objects(objects) => {
                out.push(3);
                objects.iter().for_each(|object| put_blob(&mut out, object.bytes()));
            }
            Reply::Snapshots(snapshots) => {
                out.push(4);
                for snapshot in snapshots {
                    let mut one = Vec::new();
                    put_snapshot(&mut one, snapshot);
                    put_blob(&mut out, &one);
                }
            }
            Reply::Blobs(blobs) => {
                out.push(5);
                blobs.iter().for_each(|blob| put_blob(&mut out, blob));
            }
            Reply::Failed(error) => {
                out.push(6);
                errors::put(&mut out, error);
            }
        }
        frame(out)
    }

    /// Reads a part; None for a sign of life.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(frame: &Frame) -> Result<Option<Self>, Malformed> {
        let body = known(frame)?;
        let mut reader = Reader::new(body);
        let number = reader.u64()?;
        if number == SIGN_OF_LIFE {
            return reader.end().map(|()| None);
        }
        let last = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("a mark that is neither")),
        };
        let reply = match reader.u8()? {
            1 => {
                reader.end()?;
                Reply::Done
            }
            2 => {
                let flag = |[byte]: &[u8; 1]| match byte {
                    0 => Ok(false),
                    1 => Ok(true),
                    _ => Err(Malformed("a mark that is neither")),
                };
                Reply::Flags(reader.pieces::<1>()?.iter().map(flag).collect::<Result<_, _>>()?)
            }
            3 => Reply::Objects(objects(body, 10)?),
            4 => {
                let all = blobs(body, 10)?;
                Reply::Snapshots(all.iter().map(|one| snapshot(one)).collect::<Result<_, _>>()?)
            }
            5 => Reply::Blobs(blobs(body, 10)?),
            6 => Reply::Failed(errors::read(&mut reader)?),
            _ => return Err(Malformed("an answer that is not known")),
        };
        Ok(Some(Self { number, last, reply }))
    }
}
