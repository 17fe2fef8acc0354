//! What is checked before raft sees a message: the raft crate answers impossible messages with a panic, and a peer
//! must not be able to end this process, nor may a voter that lost memory go on.

use super::{core::COMMAND_BYTES_MAX, memory::Memory};
use crate::state::{State, codec::Proposal};
use raft::{
    Raft,
    eraftpb::{Entry, EntryType, Message, MessageType, Snapshot},
};

/// Entries in one message.
const ENTRIES_MAX: usize = 100_000;

/// Why a message is not handed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unsafe {
    /// The message contradicts itself.
    Message,
    /// The message proves that this voter holds less than it confirmed.
    Memory(String),
}

pub(super) fn check(raft: &Raft<Memory>, message: &Message) -> Result<(), Unsafe> {
    let kind = message.get_msg_type();
    let entries = message.get_entries();
    let local = matches!(kind, MessageType::MsgPropose | MessageType::MsgReadIndex);
    // Only what is passed on to a leader goes without a term.
    if (message.term == 0) != local && kind != MessageType::MsgTransferLeader || entries.len() > ENTRIES_MAX {
        return Err(Unsafe::Message);
    }
    match kind {
        MessageType::MsgPropose => proposals(entries),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => ensure(entries.len() == 1),
        MessageType::MsgAppend => append(raft, message),
        MessageType::MsgHeartbeat => {
            let last = raft.raft_log.last_index();
            if message.term >= raft.term && message.commit > last {
                let why =
                    format!("the leader knows entry {} here, but the log ends at {last}", message.commit);
                return Err(Unsafe::Memory(why));
            }
            Ok(())
        }
        MessageType::MsgSnapshot => snapshot(message.get_snapshot()),
        MessageType::MsgAppendResponse => {
            let last = raft.raft_log.last_index();
            ensure(message.term < raft.term || message.reject || message.index <= last)
        }
        _ => Ok(()),
    }
}

fn ensure(holds: bool) -> Result<(), Unsafe> {
    if holds { Ok(()) } else { Err(Unsafe::Message) }
}

fn proposals(entries: &[Entry]) -> Result<(), Unsafe> {
    ensure(!entries.is_empty())?;
    for entry in entries {
        let normal = entry.get_entry_type() == EntryType::EntryNormal;
        ensure(normal && entry.data.len() <= COMMAND_BYTES_MAX && Proposal::decode(&entry.data).is_ok())?;
    }
    Ok(())
}

fn append(raft: &Raft<Memory>, message: &Message) -> Result<(), Unsafe> {
    let mut index = message.index;
    for entry in message.get_entries() {
        index = index.checked_add(1).ok_or(Unsafe::Message)?;
        ensure(entry.index == index && entry.term <= message.term && entry.term > 0)?;
    }
    let log = &raft.raft_log;
    // Raft commits up to the end of what matches; a conflict below the commit index would be two decisions.
    if message.index >= log.committed {
        return Ok(());
    }
    let committed = message.get_entries().iter().take_while(|entry| entry.index <= log.committed);
    for entry in committed {
        if log.term(entry.index).is_ok_and(|term| term != 0 && term != entry.term) {
            return Err(Unsafe::Memory(format!("entry {} was decided differently here", entry.index)));
        }
    }
    Ok(())
}

fn snapshot(snapshot: &Snapshot) -> Result<(), Unsafe> {
    let metadata = snapshot.get_metadata();
    let conf = metadata.get_conf_state();
    let voters = conf.get_voters();
    let twice = voters.iter().any(|voter| conf.get_learners().contains(voter));
    ensure(metadata.index > 0 && metadata.term > 0 && !voters.is_empty() && !twice)?;
    ensure(State::decode(&snapshot.data).is_ok())
}
