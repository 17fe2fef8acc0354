//! Between raft's types and ours.

use super::{
    api::MemberChange,
    message::{LogEntry, Members, Payload, RaftMessage, SnapshotImage},
};
use anshin_base::VoterId;
use raft::eraftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata,
};

/// Kinds of messages in the order of raft's protocol; those local to one voter are never sent.
const KINDS: [(u8, MessageType); 14] = [
    (2, MessageType::MsgPropose),
    (3, MessageType::MsgAppend),
    (4, MessageType::MsgAppendResponse),
    (5, MessageType::MsgRequestVote),
    (6, MessageType::MsgRequestVoteResponse),
    (7, MessageType::MsgSnapshot),
    (8, MessageType::MsgHeartbeat),
    (9, MessageType::MsgHeartbeatResponse),
    (13, MessageType::MsgTransferLeader),
    (14, MessageType::MsgTimeoutNow),
    (15, MessageType::MsgReadIndex),
    (16, MessageType::MsgReadIndexResp),
    (17, MessageType::MsgRequestPreVote),
    (18, MessageType::MsgRequestPreVoteResponse),
];

/// A message for the wire; None for a kind that does not travel.
pub(super) fn to_wire(message: &Message) -> Option<RaftMessage> {
    let kind = KINDS.iter().find(|(_, kind)| *kind == message.get_msg_type())?.0;
    let snapshot = message.get_snapshot();
    Some(RaftMessage {
        kind,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.get_entries().iter().map(log_entry).collect::<Option<_>>()?,
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: if snapshot.is_empty() { None } else { Some(image(snapshot)) },
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.to_vec(),
        priority: message.priority,
    })
}

/// A message from the wire; None for an unknown kind.
pub(super) fn from_wire(from: VoterId, to: VoterId, wire: RaftMessage) -> Option<Message> {
    let kind = KINDS.iter().find(|(number, _)| *number == wire.kind)?.1;
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = from.0;
    message.to = to.0;
    message.term = wire.term;
    message.log_term = wire.log_term;
    message.index = wire.index;
    message.set_entries(wire.entries.iter().map(entry).collect::<Vec<_>>().into());
    message.commit = wire.commit;
    message.commit_term = wire.commit_term;
    if let Some(image) = &wire.snapshot {
        message.set_snapshot(snapshot(image));
    }
    message.request_snapshot = wire.request_snapshot;
    message.reject = wire.reject;
    message.reject_hint = wire.reject_hint;
    message.context = wire.context.into();
    message.priority = wire.priority;
    Some(message)
}

/// An entry for wire and disk; None for one that this build never makes.
pub(super) fn log_entry(entry: &Entry) -> Option<LogEntry> {
    let payload = match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => Payload::Empty,
        EntryType::EntryNormal => Payload::Proposal(entry.data.to_vec()),
        EntryType::EntryConfChange => {
            let (kind, voter) = read_change(&entry.data)?;
            Payload::Members { proposer: read_proposer(&entry.context)?, kind, voter }
        }
        EntryType::EntryConfChangeV2 => return None,
    };
    Some(LogEntry { index: entry.index, term: entry.term, payload })
}

/// Reverse of [`log_entry`].
pub(super) fn entry(from: &LogEntry) -> Entry {
    let mut entry = Entry { index: from.index, term: from.term, ..Entry::default() };
    match &from.payload {
        Payload::Empty => {}
        Payload::Proposal(bytes) => entry.data = bytes.clone().into(),
        Payload::Members { proposer, kind, voter } => {
            entry.set_entry_type(EntryType::EntryConfChange);
            entry.data = write_change(*kind, *voter).into();
            entry.context = write_proposer(*proposer).into();
        }
    }
    entry
}

/// Who proposed a change of the voters travels in the entry's context: incarnation and number.
pub(super) fn write_proposer((incarnation, request): (u64, u64)) -> Vec<u8> {
    [incarnation.to_le_bytes(), request.to_le_bytes()].concat()
}

fn read_proposer(context: &[u8]) -> Option<(u64, u64)> {
    let (incarnation, request) = context.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*incarnation), u64::from_le_bytes(request.try_into().ok()?)))
}

/// The leading raft parses a change of voters as the protobuf message ConfChange: field 2 is the kind, field 3 the id.
/// Zeroes are left out as raft's own encoder does it, so that an entry has the same bytes on every voter.
pub(super) fn write_change(kind: u8, voter: VoterId) -> Vec<u8> {
    let mut out = if kind == 0 { vec![0x18] } else { vec![0x10, kind & 0x7f, 0x18] };
    let mut rest = voter.0;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

/// Reads what [`write_change`], or raft's own encoder, wrote.
fn read_change(bytes: &[u8]) -> Option<(u8, VoterId)> {
    let (mut kind, mut voter) = (0, 0);
    let mut rest = bytes;
    while let Some((tag, tail)) = rest.split_first() {
        let (value, tail) = read_varint(tail)?;
        match tag {
            0x10 => kind = u8::try_from(value).ok().filter(|kind| *kind <= 2)?,
            0x18 => voter = value,
            _ => return None,
        }
        rest = tail;
    }
    (voter != 0).then_some((kind, VoterId(voter)))
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(at).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

/// The number of a change's kind and whom it is about.
pub(super) fn member_change(change: MemberChange) -> (u8, VoterId) {
    match change {
        MemberChange::Promote(voter) => (0, voter),
        MemberChange::Remove(voter) => (1, voter),
        MemberChange::AddLearner(voter) => (2, voter),
    }
}

/// For `apply_conf_change`.
pub(super) fn conf_change(kind: u8, voter: VoterId) -> ConfChange {
    let mut change = ConfChange { node_id: voter.0, ..ConfChange::default() };
    change.set_change_type(match kind {
        1 => ConfChangeType::RemoveNode,
        2 => ConfChangeType::AddLearnerNode,
        _ => ConfChangeType::AddNode,
    });
    change
}

pub(super) fn conf_state(members: &Members) -> ConfState {
    let mut conf = ConfState::default();
    conf.set_voters(members.voters.iter().map(|voter| voter.0).collect());
    conf.set_learners(members.learners.iter().map(|voter| voter.0).collect());
    conf
}

pub(super) fn members(conf: &ConfState) -> Members {
    let sorted = |ids: &[u64]| {
        let mut ids: Vec<_> = ids.iter().copied().map(VoterId).collect();
        ids.sort_unstable();
        ids
    };
    Members { voters: sorted(conf.get_voters()), learners: sorted(conf.get_learners()) }
}

pub(super) fn snapshot(image: &SnapshotImage) -> Snapshot {
    let mut metadata =
        SnapshotMetadata { index: image.index, term: image.term, ..SnapshotMetadata::default() };
    metadata.set_conf_state(conf_state(&image.members));
    let mut snapshot = Snapshot { data: image.state.clone().into(), ..Snapshot::default() };
    snapshot.set_metadata(metadata);
    snapshot
}

pub(super) fn image(snapshot: &Snapshot) -> SnapshotImage {
    let metadata = snapshot.get_metadata();
    SnapshotImage {
        index: metadata.index,
        term: metadata.term,
        members: members(metadata.get_conf_state()),
        state: snapshot.data.to_vec(),
    }
}
