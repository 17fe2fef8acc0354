//! What goes into and comes out of the engine.

use super::message::Envelope;
use crate::{
    log::DiskBatch,
    state::{Applied, Command, Refused},
};
use anshin_base::{LedgerEpoch, LedgerIndex, ReplicaId, VoterId, local::ReplicaReport};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Time has passed. Hand in at least every [`super::Settings::tick`].
    Tick,
    /// A message arrived over an authenticated link that belongs to `envelope.from`.
    Received(Envelope),
    /// Propose a change. Answered by [`Output::Outcome`].
    Propose {
        /// Chosen by the owner, not reused while unanswered.
        request: u64,
        /// The change.
        command: Command,
    },
    /// Ask to be told when everything committed before now has been applied here (a linearizable read). Answered by
    /// [`Output::ReadReady`], or not at all: ask again after a while.
    Read {
        /// Chosen by the owner.
        request: u64,
    },
    /// Change the voters (leader only). Answered by [`Output::Outcome`].
    ChangeMembers {
        /// Chosen by the owner, from the same numbers as proposals.
        request: u64,
        /// The change.
        change: MemberChange,
    },
    /// Hand leadership to this voter, if we lead (R13).
    TransferLeader {
        /// To whom.
        to: VoterId,
    },
    /// A disk batch ended. After a failure the engine is silent for ever: a failed flush poisons the file.
    DiskDone {
        /// Which batch.
        batch: u64,
        /// Whether all of it is durable.
        durable: bool,
    },
    /// What a replica says of itself, from this node or by a liveness message: the highest progress is kept (R7).
    Report(ReplicaReport),
    /// The link to a voter broke: what was in flight may be lost.
    Unreachable {
        /// Which voter.
        voter: VoterId,
    },
}

/// A change of who votes. Exactly one at a time; a new voter first learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Add a learner: it receives the log but does not count.
    AddLearner(VoterId),
    /// A learner that has caught up becomes a voter.
    Promote(VoterId),
    /// Remove a voter or learner for good.
    Remove(VoterId),
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed and applied.
    Applied(Applied),
    /// Committed and refused by the state machine; nothing changed.
    Refused(Refused),
    /// Nobody took it: it is certainly not in any log.
    Dropped,
    /// Nobody knows whether it will be applied; read before proposing again (R3).
    Unknown,
}

/// Who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This voter, having applied everything committed before its term.
    Leader,
    /// Another voter, or this one on its way.
    Follower {
        /// Who leads; None while nobody is known.
        leader: Option<VoterId>,
    },
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send; loss is allowed.
    Send(Envelope),
    /// Carry out the operations of the batch strictly one after the other, then hand in [`Input::DiskDone`]. There is
    /// never more than one batch open.
    Disk(DiskBatch),
    /// The state changed by the command at `index`; read [`super::Engine::state`].
    Applied {
        /// Its position.
        index: LedgerIndex,
    },
    /// The state was replaced by a snapshot of another voter.
    Restored {
        /// Its position.
        index: LedgerIndex,
    },
    /// Answer to a proposal or member change.
    Outcome {
        /// The owner's number.
        request: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// [`super::Engine::state`] now holds at least everything committed when the read was asked for.
    ReadReady {
        /// The owner's number.
        request: u64,
    },
    /// For the owner, the log and the status.
    Event(Event),
}

/// What the owner must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Leadership changed.
    Role(Role),
    /// The voters changed.
    Members {
        /// Who votes.
        voters: Vec<VoterId>,
        /// Who learns.
        learners: Vec<VoterId>,
    },
    /// This voter has lost memory of what it confirmed, or its log is damaged: it is silent from now on and must
    /// rejoin under a new id (R8). Only it says so: to the others its last message may as well be a late one of an earlier start.
    MustRejoin {
        /// Why.
        why: String,
    },
    /// A peer speaks for a newer epoch: this ledger is outdated and its node must rejoin (R9).
    NewerEpoch {
        /// The epoch.
        epoch: LedgerEpoch,
    },
    /// A replica presented less progress than was seen of it before (R7).
    OldImage {
        /// Which replica.
        replica: ReplicaId,
        /// What it presents.
        presented: u64,
        /// What was seen.
        seen: u64,
    },
    /// The disk failed; the process should end and be started again.
    DiskFailed,
}
