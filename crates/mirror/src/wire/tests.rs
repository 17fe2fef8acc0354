//! Golden bytes of version 2 and properties of the codec.

use super::*;
use anshin_base::{GroupEntry, LedgerEpoch, LedgerIndex, ReplicaId, SessionId};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn stamp() -> Stamped {
    let member = Member { replica: ReplicaId(2), session: SessionId(5) };
    let entry = GroupEntry {
        group: GroupId(1),
        generation: Generation(3),
        primary: Some(member),
        in_sync: BTreeMap::from([(member.replica, member.session), (ReplicaId(4), SessionId(6))]),
    };
    Stamped { epoch: LedgerEpoch(1), index: LedgerIndex(8), entry: Some(entry) }
}

/// One of every kind.
fn samples() -> Vec<Message> {
    let points = Points { everywhere: 7, durable: 3, progress: 9 };
    let range = Range { offset: 4096, length: 512 };
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        group: GroupId(1),
        member: Member { replica: ReplicaId(2), session: SessionId(5) },
        volume_bytes: 1 << 30,
        progress: 9,
        stamp: stamp(),
        old_image: false,
    };
    let reign = Generation(2);
    vec![
        Message::Hello(Box::new(hello)),
        Message::Attach { number: 1, stamp: stamp(), reign, mode: AttachMode::Target },
        Message::Attached { number: 1, received: 4, window: vec![range] },
        Message::MapPart {
            number: 1,
            virgin: true,
            full: false,
            last: true,
            extents: vec![(3, Box::new([0x55; 128]))],
        },
        Message::Begin { next: 5, points },
        Message::Write { seq: 5, points, offset: 8192, data: Bytes::from_static(b"data") },
        Message::Zero { seq: 6, points, range, unmap: true },
        Message::Flush { seq: 7, points, progress: 10 },
        Message::Ack { reign, seq: 5 },
        Message::FlushAck { reign, seq: 7, progress: 10 },
        Message::Set(Stamped::default()),
        Message::Reconciled,
        Message::LeaseRequest { number: 12, points },
        Message::LeaseGrant { number: 12, granted: true, progress: 10 },
        Message::Compare { id: 1, offset: 0, mask: 0b101, sums: vec![[1; 16], [2; 16]] },
        Message::Differ { id: 1, mask: 0b100 },
        Message::Repair { id: 1, offset: 0, mask: 0b100, data: Bytes::from(vec![9; 4096]) },
        Message::Repaired { id: 1 },
        Message::Finish,
        Message::Finished { progress: 11 },
        Message::Newer(stamp()),
        Message::FlushWanted,
        Message::OldImage { seen: 12 },
        Message::Challenge,
        Message::Alive,
    ]
}

fn decode(bytes: &[u8], payload: Bytes) -> Result<Message, WireError> {
    let header = decode_header(bytes.get(..HEADER_SIZE).ok_or(WireError::Length)?)?;
    Message::from_parts(header, &bytes[HEADER_SIZE..], payload)
}

#[test]
fn decode_of_encode_is_the_message_for_every_kind() {
    for (kind, message) in samples().into_iter().enumerate() {
        let bytes = message.encode_header();
        assert_eq!(usize::from(u16::from_le_bytes([bytes[6], bytes[7]])), kind + 1);
        let payload = message.payload().cloned().unwrap_or_default();
        assert_eq!(decode(&bytes, payload), Ok(message));
    }
}

/// A change of any byte of version 2 changes this number. It may only change together with the version.
#[test]
fn version_2_has_these_bytes() {
    let write = &samples()[5];
    let bytes = write.encode_header();
    assert_eq!(&bytes[..16], b"anm1\x02\0\x06\0\x28\0\0\0\x04\0\0\0");
    assert_eq!(bytes[32..40], 5u64.to_le_bytes());
    assert_eq!(bytes[64..72], 8192u64.to_le_bytes());
    let all: Vec<u8> = samples().iter().flat_map(|message| message.encode_header().to_vec()).collect();
    assert_eq!((all.len(), crc32c::crc32c(&all)), (1680, 2_328_659_804));
}

#[test]
fn a_flipped_bit_anywhere_is_never_taken_for_a_message() {
    for message in samples() {
        let bytes = message.encode_header();
        let payload = message.payload().cloned().unwrap_or_default();
        for at in 0..bytes.len() {
            let mut broken = bytes.to_vec();
            broken[at] ^= 0x10;
            assert!(decode(&broken, payload.clone()).is_err(), "byte {at} of {message:?}");
        }
    }
}

#[test]
fn lengths_beyond_the_bounds_are_refused_with_the_header() {
    let bytes = Message::Finish.encode_header();
    for (at, length) in [(8, BODY_MAX), (12, PAYLOAD_MAX)] {
        let mut header = bytes.to_vec();
        header[at..at + 4].copy_from_slice(&u32::try_from(length + 1).unwrap().to_le_bytes());
        let crc = crc32c::crc32c(&header[..28]);
        header[28..32].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode_header(&header), Err(WireError::Length));
    }
}

proptest! {
    #[test]
    fn decoding_any_body_never_panics_and_what_decodes_encodes_to_the_same_bytes(kind in 0u16..30, body: Vec<u8>) {
        if let Ok(message) = body::decode(kind, &body, Bytes::new()) {
            prop_assert_eq!(body::encode(&message), (kind, body));
        }
    }

    #[test]
    fn changed_bodies_never_panic(which in 0usize..23, at: usize, byte: u8, cut: usize) {
        let (kind, mut body) = body::encode(&samples()[which]);
        if !body.is_empty() {
            let at = at % body.len();
            body[at] = byte;
            body.truncate(cut % (body.len() + 1));
        }
        if let Ok(message) = body::decode(kind, &body, Bytes::new()) {
            prop_assert_eq!(body::encode(&message), (kind, body));
        }
    }

    #[test]
    fn any_header_is_refused_or_within_bounds(bytes: [u8; HEADER_SIZE]) {
        let mut bytes = bytes;
        bytes[..8].copy_from_slice(b"anm1\x02\0\x06\0");
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        if let Ok(header) = decode_header(&bytes) {
            prop_assert!(header.body_len() <= BODY_MAX && header.payload_len() <= PAYLOAD_MAX);
        }
    }
}
