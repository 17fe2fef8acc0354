//! One connection to another replica, from the socket to whole messages.

use super::{
    Tag,
    decoder::Decoder,
    tls::{State, Tls},
};
use crate::{
    buffer::Buffer,
    io::{Io, Tag as IoTag},
    ring::{Fd, Op},
    stream::Outbox,
};
use anshin_base::{GroupId, Mono, NodeId, ReplicaId};
use anshin_mirror::wire::Message;

/// Ciphertext received at once.
const INBOX: usize = 256 << 10;
/// Payloads from this size are encrypted by themselves; smaller ones share records with what is around them.
const OWN_RECORD: usize = 16 << 10;

/// First bytes of each side after the handshake: who speaks, about what. Refused before the replication protocol sees
/// anything.
///
/// ```text
/// offset size
///      0    8  "anshdat1"
///      8    8  group (little endian, as everything here)
///     16    8  replica of the sender
///     24    8  size of the volume in bytes
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// The group.
    pub group: GroupId,
    /// The sender.
    pub replica: ReplicaId,
    /// Size of the volume.
    pub volume_bytes: u64,
}

impl Preface {
    const SIZE: usize = 32;
    const MAGIC: [u8; 8] = *b"anshdat1";

    fn encode(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..8].copy_from_slice(&Self::MAGIC);
        let words = [self.group.0, self.replica.0, self.volume_bytes];
        for (slot, word) in out[8..].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let magic = bytes.get(..8)? == Self::MAGIC;
        let preface =
            Self { group: GroupId(word(8)?), replica: ReplicaId(word(16)?), volume_bytes: word(24)? };
        magic.then_some(preface)
    }
}

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The TCP connection is being made.
    Connecting,
    /// TLS.
    Handshake,
    /// TLS stands, the preface is awaited.
    Preface,
    /// The core knows of it.
    Up,
}

/// See the module.
pub struct Link {
    /// Its number, which is the core's link id.
    pub id: u64,
    pub(super) fd: Fd,
    tls: Tls,
    /// How far it is.
    pub stage: Stage,
    /// Whom it leads to: known when dialled, else after the preface.
    pub replica: Option<ReplicaId>,
    /// Address of the other end, for the log.
    pub peer: String,
    /// When it was begun.
    pub since: Mono,
    /// When bytes last arrived.
    pub heard: Mono,
    inbox: Option<Buffer>,
    filled: usize,
    preface: Vec<u8>,
    decoder: Decoder,
    outbox: Outbox,
    /// Plaintext that waits for the end of the engine's turn, so that small messages share a record.
    plain: Vec<u8>,
}

/// What arrived.
#[derive(Default)]
pub struct Arrived {
    /// The other end's certificate is verified and its preface read.
    pub preface: Option<Preface>,
    /// Messages, in order.
    pub messages: Vec<Message>,
}

impl Link {
    pub(super) fn new(id: u64, fd: Fd, tls: Tls, peer: String, io: &mut Io) -> Self {
        Self {
            id,
            fd,
            tls,
            stage: Stage::Handshake,
            replica: None,
            peer,
            since: io.now(),
            heard: io.now(),
            inbox: Some(io.pool.take(INBOX)),
            filled: 0,
            preface: Vec::new(),
            decoder: Decoder::default(),
            outbox: Outbox::default(),
            plain: Vec::new(),
        }
    }

    /// The node that the verified certificate names.
    pub(super) fn node(&self) -> Option<NodeId> {
        anshin_link::tls::peer_identity(self.tls.peer_certificates()).ok().map(|identity| identity.node)
    }

    /// Bytes that the peer has not taken.
    pub fn waiting(&self) -> usize {
        self.outbox.bytes() + self.plain.len()
    }

    /// Starts a receive, if none is in flight.
    pub(super) fn receive(&mut self, io: &mut Io) {
        if let Some(buffer) = self.inbox.take() {
            let op = Op::Receive { fd: self.fd.clone(), buffer, from: self.filled };
            io.push(op, IoTag::Peer(Tag::Receive(self.id)));
        }
    }

    /// Bytes arrived, or the connection was just made (`count` 0): advances TLS and decodes.
    ///
    /// # Errors
    /// For the log; the link must be closed.
    pub(super) fn received(
        &mut self,
        io: &mut Io,
        buffer: Option<Buffer>,
        count: usize,
        mine: Preface,
    ) -> Result<Arrived, String> {
        let mut inbox = buffer.or_else(|| self.inbox.take()).ok_or("no buffer")?;
        self.filled += count;
        self.heard = io.now();
        let mut arrived = Arrived::default();
        let mut outgoing = Vec::new();
        let mut broken = None;
        let Self { tls, preface, decoder, .. } = self;
        let was_up = self.stage == Stage::Up || self.stage == Stage::Preface;
        let mut take = |mut plain: &[u8]| {
            let missing = (Preface::SIZE - preface.len()).min(plain.len());
            preface.extend_from_slice(&plain[..missing]);
            plain = &plain[missing..];
            if !plain.is_empty() && broken.is_none() {
                broken = decoder.take(&io.pool, plain, &mut arrived.messages).err();
            }
        };
        let result = tls.advance(&mut inbox[..self.filled], &mut outgoing, &mut take);
        self.outbox.push(outgoing);
        let (used, state) = result.map_err(|error| anshin_link::tls::explain(&error))?;
        if let Some(error) = broken {
            return Err(error.to_string());
        }
        inbox.copy_within(used..self.filled, 0);
        self.filled -= used;
        if self.filled == inbox.len() {
            return Err("a TLS record longer than allowed".into());
        }
        self.inbox = Some(inbox);
        match state {
            State::Closed => return Err("the peer closed the link".into()),
            State::Ready if !was_up => {
                self.stage = Stage::Preface;
                let mut out = Vec::new();
                self.tls.encrypt(&mine.encode(), &mut out).map_err(|error| error.to_string())?;
                self.outbox.push(out);
            }
            _ => {}
        }
        if self.stage == Stage::Preface && self.preface.len() == Preface::SIZE {
            arrived.preface = Some(Preface::decode(&self.preface).ok_or("not a replica's preface")?);
        }
        Ok(arrived)
    }

    /// Queues a message. It leaves at the end of the engine's turn.
    ///
    /// # Errors
    /// If the connection takes no data.
    pub fn send(&mut self, message: &Message) -> Result<(), String> {
        self.plain.extend_from_slice(&message.encode_header());
        match message.payload() {
            Some(payload) if payload.len() >= OWN_RECORD => {
                let mut out = Vec::new();
                let plain = std::mem::take(&mut self.plain);
                let done =
                    self.tls.encrypt(&plain, &mut out).and_then(|()| self.tls.encrypt(payload, &mut out));
                self.plain = plain;
                self.plain.clear();
                self.outbox.push(out);
                done.map_err(|error| error.to_string())
            }
            Some(payload) => {
                self.plain.extend_from_slice(payload);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Encrypts what waits and starts a send.
    ///
    /// # Errors
    /// If the connection takes no data.
    pub fn flush(&mut self, io: &mut Io) -> Result<(), String> {
        if !self.plain.is_empty() {
            let mut out = Vec::new();
            let done = self.tls.encrypt(&self.plain, &mut out);
            self.plain.clear();
            self.outbox.push(out);
            done.map_err(|error| error.to_string())?;
        }
        if self.stage != Stage::Connecting {
            self.outbox.pump(io, &self.fd, IoTag::Peer(Tag::Send(self.id)));
        }
        Ok(())
    }

    pub(super) fn sent(&mut self, result: std::io::Result<u32>) -> std::io::Result<()> {
        self.outbox.sent(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_survives_encoding_and_other_bytes_are_none() {
        let preface = Preface { group: GroupId(1), replica: ReplicaId(2), volume_bytes: 3 };
        let mut bytes = preface.encode();
        assert_eq!(Preface::decode(&bytes), Some(preface));
        bytes[0] ^= 1;
        assert_eq!(Preface::decode(&bytes), None);
        assert_eq!(Preface::decode(&[]), None);
    }
}
