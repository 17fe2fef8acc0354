//! The bodies: one encoding per message, decoded with nothing left over.

use super::{AttachMode, Hello, MAP_EXTENTS_MAX, Message, Points, Range, WINDOW_MAX};
use crate::codec::{Malformed, Reader, Writer};
use anshin_base::{Generation, GroupId};
use bytes::Bytes;

const KINDS: u16 = 25;

/// Whether this version has the kind.
pub(super) fn known(kind: u16) -> bool {
    (1..=KINDS).contains(&kind)
}

fn points(w: &mut Writer, points: Points) {
    w.u64(points.everywhere);
    w.u64(points.durable);
    w.u64(points.progress);
}

fn numbered(w: &mut Writer, seq: u64, at: Points) {
    w.u64(seq);
    points(w, at);
}

/// Kind and body.
pub(super) fn encode(message: &Message) -> (u16, Vec<u8>) {
    let mut w = Writer::default();
    let kind = encode_into(message, &mut w);
    (kind, w.0)
}

#[allow(clippy::too_many_lines, reason = "one arm per kind of message reads as a table")]
fn encode_into(message: &Message, w: &mut Writer) -> u16 {
    match message {
        Message::Hello(hello) => {
            w.u16(hello.version_min);
            w.u16(hello.version_max);
            w.u8(u8::from(hello.old_image));
            w.u64(hello.group.0);
            w.member(hello.member);
            w.u64(hello.volume_bytes);
            w.u64(hello.progress);
            w.stamp(&hello.stamp);
            1
        }
        Message::Attach { number, stamp, reign, mode } => {
            w.u64(*number);
            w.u64(reign.0);
            w.u8(match mode {
                AttachMode::Resume => 0,
                AttachMode::Reconcile => 1,
                AttachMode::Target => 2,
            });
            w.stamp(stamp);
            2
        }
        Message::Attached { number, received, window } => {
            w.u64(*number);
            w.u64(*received);
            w.count(window.len());
            for range in window {
                w.u64(range.offset);
                w.u64(range.length);
            }
            3
        }
        Message::MapPart { number, virgin, full, last, extents } => {
            w.u64(*number);
            w.u8(u8::from(*virgin));
            w.u8(u8::from(*full));
            w.u8(u8::from(*last));
            w.count(extents.len());
            for (extent, bits) in extents {
                w.u32(*extent);
                w.bytes(&bits[..]);
            }
            4
        }
        Message::Begin { next, points } => {
            numbered(w, *next, *points);
            5
        }
        Message::Write { seq, points, offset, .. } => {
            numbered(w, *seq, *points);
            w.u64(*offset);
            6
        }
        Message::Zero { seq, points, range, unmap } => {
            numbered(w, *seq, *points);
            w.u64(range.offset);
            w.u64(range.length);
            w.u8(u8::from(*unmap));
            7
        }
        Message::Flush { seq, points, progress } => {
            numbered(w, *seq, *points);
            w.u64(*progress);
            8
        }
        Message::Ack { reign, seq } => {
            w.u64(reign.0);
            w.u64(*seq);
            9
        }
        Message::FlushAck { reign, seq, progress } => {
            w.u64(reign.0);
            w.u64(*seq);
            w.u64(*progress);
            10
        }
        Message::Set(stamp) => {
            w.stamp(stamp);
            11
        }
        Message::Reconciled => 12,
        Message::LeaseRequest { number, points } => {
            numbered(w, *number, *points);
            13
        }
        Message::LeaseGrant { number, granted, progress } => {
            w.u64(*number);
            w.u8(u8::from(*granted));
            w.u64(*progress);
            14
        }
        Message::Compare { id, offset, mask, sums } => {
            w.u64(*id);
            w.u64(*offset);
            w.u64(*mask);
            for sum in sums {
                w.bytes(sum);
            }
            15
        }
        Message::Differ { id, mask } => {
            w.u64(*id);
            w.u64(*mask);
            16
        }
        Message::Repair { id, offset, mask, .. } => {
            w.u64(*id);
            w.u64(*offset);
            w.u64(*mask);
            17
        }
        Message::Repaired { id } => {
            w.u64(*id);
            18
        }
        Message::Finish => 19,
        Message::Finished { progress } => {
            w.u64(*progress);
            20
        }
        Message::Newer(stamp) => {
            w.stamp(stamp);
            21
        }
        Message::FlushWanted => 22,
        Message::OldImage { seen } => {
            w.u64(*seen);
            23
        }
        Message::Challenge => 24,
        Message::Alive => 25,
    }
}

fn read_points(r: &mut Reader<'_>) -> Result<Points, Malformed> {
    Ok(Points { everywhere: r.u64()?, durable: r.u64()?, progress: r.u64()? })
}

fn read_range(r: &mut Reader<'_>) -> Result<Range, Malformed> {
    let range = Range { offset: r.u64()?, length: r.u64()? };
    range.offset.checked_add(range.length).map(|_| range).ok_or(Malformed)
}

fn hello(r: &mut Reader<'_>) -> Result<Hello, Malformed> {
    let (version_min, version_max) = (r.u16()?, r.u16()?);
    let old_image = r.bool()?;
    Ok(Hello {
        version_min,
        version_max,
        group: GroupId(r.u64()?),
        member: r.member()?,
        volume_bytes: r.u64()?,
        progress: r.u64()?,
        stamp: r.stamp()?,
        old_image,
    })
}

fn attached(r: &mut Reader<'_>) -> Result<Message, Malformed> {
    let (number, received, count) = (r.u64()?, r.u64()?, r.count(16)?);
    if count > WINDOW_MAX {
        return Err(Malformed);
    }
    let window = (0..count).map(|_| read_range(r)).collect::<Result<_, _>>()?;
    Ok(Message::Attached { number, received, window })
}

fn map_part(r: &mut Reader<'_>) -> Result<Message, Malformed> {
    let (number, virgin, full, last) = (r.u64()?, r.bool()?, r.bool()?, r.bool()?);
    let count = r.count(132)?;
    if count > MAP_EXTENTS_MAX {
        return Err(Malformed);
    }
    let extents =
        (0..count).map(|_| Ok((r.u32()?, Box::new(r.array()?)))).collect::<Result<_, Malformed>>()?;
    Ok(Message::MapPart { number, virgin, full, last, extents })
}

fn compare(r: &mut Reader<'_>) -> Result<Message, Malformed> {
    let (id, offset, mask) = (r.u64()?, r.u64()?, r.u64()?);
    let sums = (0..mask.count_ones()).map(|_| r.array()).collect::<Result<_, _>>()?;
    Ok(Message::Compare { id, offset, mask, sums })
}

/// The message of `kind` in `body`, all of it.
pub(super) fn decode(kind: u16, body: &[u8], data: Bytes) -> Result<Message, Malformed> {
    let r = &mut Reader(body);
    if !data.is_empty() && !matches!(kind, 6 | 17) {
        return Err(Malformed);
    }
    let message = match kind {
        1 => Message::Hello(Box::new(hello(r)?)),
        2 => {
            let (number, reign) = (r.u64()?, Generation(r.u64()?));
            let mode = match r.u8()? {
                0 => AttachMode::Resume,
                1 => AttachMode::Reconcile,
                2 => AttachMode::Target,
                _ => return Err(Malformed),
            };
            Message::Attach { number, stamp: r.stamp()?, reign, mode }
        }
        3 => attached(r)?,
        4 => map_part(r)?,
        5 => Message::Begin { next: r.u64()?, points: read_points(r)? },
        6 => Message::Write { seq: r.u64()?, points: read_points(r)?, offset: r.u64()?, data },
        7 => {
            Message::Zero { seq: r.u64()?, points: read_points(r)?, range: read_range(r)?, unmap: r.bool()? }
        }
        8 => Message::Flush { seq: r.u64()?, points: read_points(r)?, progress: r.u64()? },
        9 => Message::Ack { reign: Generation(r.u64()?), seq: r.u64()? },
        10 => Message::FlushAck { reign: Generation(r.u64()?), seq: r.u64()?, progress: r.u64()? },
        11 => Message::Set(r.stamp()?),
        12 => Message::Reconciled,
        13 => Message::LeaseRequest { number: r.u64()?, points: read_points(r)? },
        14 => Message::LeaseGrant { number: r.u64()?, granted: r.bool()?, progress: r.u64()? },
        15 => compare(r)?,
        16 => Message::Differ { id: r.u64()?, mask: r.u64()? },
        17 => {
            let (id, offset, mask) = (r.u64()?, r.u64()?, r.u64()?);
            if data.len() as u64 != u64::from(mask.count_ones()) * crate::layout::BLOCK {
                return Err(Malformed);
            }
            Message::Repair { id, offset, mask, data }
        }
        18 => Message::Repaired { id: r.u64()? },
        19 => Message::Finish,
        20 => Message::Finished { progress: r.u64()? },
        21 => Message::Newer(r.stamp()?),
        22 => Message::FlushWanted,
        23 => Message::OldImage { seen: r.u64()? },
        24 => Message::Challenge,
        25 => Message::Alive,
        _ => return Err(Malformed),
    };
    r.end()?;
    Ok(message)
}
