//! The engine's way out: what raft wants written, sent and applied.

use super::{
    api::{Event, Outcome, Output, Role},
    convert,
    core::{Engine, Held, LAZY_TICKS, Open},
    message::{Body, LogEntry, Payload},
};
use crate::{
    log::{DiskBatch, Record},
    state::{State, codec::Proposal},
};
use anshin_base::{LedgerIndex, VoterId};
use raft::{
    Ready, StateRole,
    eraftpb::{Entry, Message, MessageType},
};

impl Engine {
    /// Takes everything that is due out of raft.
    pub(super) fn advance(&mut self, out: &mut Vec<Output>) {
        // Making a batch or applying an entry can make more due; each round handles all of it, so this ends.
        while self.node.has_ready() {
            let ready = self.node.ready();
            self.take(ready, out);
            self.release_or_write(out);
        }
        self.release_or_write(out);
        if self.node.store().image_wanted.replace(false) && self.applied > 0 {
            let image = self.snapshot();
            self.node.mut_store().image = Some(image);
        }
        self.answer_reads(out);
        self.note_role(out);
    }

    fn take(&mut self, mut ready: Ready, out: &mut Vec<Output>) {
        let mut messages = ready.take_persisted_messages();
        if self.stalled() {
            // Held until a write ends that may never end: by then all of it is past, and every sender repeats what matters.
            messages.clear();
        }
        let leading = ready.take_messages();
        // A leader's messages need not wait for its own entries, but its term must be durable: a voter that is alone
        // comes to lead without having asked anyone.
        if self.node.raft.term <= self.durable_term {
            self.send(leading, out);
        } else {
            messages.extend(leading);
        }
        for read in ready.take_read_states() {
            if let Some(request) = self.own_request(&read.request_ctx) {
                self.reads.push((read.index, request));
            }
        }
        if !ready.snapshot().is_empty() {
            let image = convert::image(ready.snapshot());
            // The guard has decoded it before raft took it.
            if let Ok(state) = State::decode(&image.state) {
                self.state = state;
            }
            (self.applied, self.applied_term) = (image.index, image.term);
            self.node.mut_store().restore(&image);
            out.push(Output::Restored { index: LedgerIndex(image.index) });
            self.note_members(out);
            self.records.push(Record::Snapshot(image));
            self.urgent = true;
        }
        if !ready.entries().is_empty() {
            self.node.mut_store().append(ready.entries());
            let entries: Vec<LogEntry> = ready.entries().iter().filter_map(convert::log_entry).collect();
            assert_eq!(
                entries.len(),
                ready.entries().len(),
                "invariant: raft makes no entry of its own kind"
            );
            self.records.push(Record::Entries(entries));
            self.urgent = true;
        }
        if let Some(hard) = ready.hs() {
            let hard = hard.clone();
            let (term, vote, commit) = (hard.term, hard.vote, hard.commit);
            let known = &self.node.store().hard;
            self.urgent |= (known.term, known.vote) != (term, vote);
            self.node.mut_store().hard = hard;
            self.records.push(Record::Hard { term, vote, commit });
        }
        let committed = ready.take_committed_entries();
        self.held.push_back(Held { ready: ready.number(), messages });
        self.node.advance_append_async(ready);
        for entry in committed {
            self.apply(&entry, out);
        }
        self.confirm_applied();
    }

    /// Tells raft how far we are. It wants to hear of a snapshot only once that is durable.
    fn confirm_applied(&mut self) {
        let log = &self.node.raft.raft_log;
        let applied = self.applied.min(log.committed).min(log.persisted);
        if applied > log.applied {
            self.node.advance_apply_to(applied);
        }
    }

    /// Lets go what waits for nothing any more, or writes what it waits for.
    fn release_or_write(&mut self, out: &mut Vec<Output>) {
        if self.open.is_none() && !self.urgent {
            self.release(self.held.len(), out);
        }
        self.write(out);
    }

    fn release(&mut self, readies: usize, out: &mut Vec<Output>) {
        for held in self.held.drain(..readies).collect::<Vec<_>>() {
            self.node.on_persist_ready(held.ready);
            self.confirm_applied();
            self.send(held.messages, out);
        }
    }

    /// Puts the pending records into a batch, if the disk is free and something waits for them or they are old.
    pub(super) fn write(&mut self, out: &mut Vec<Output>) {
        if self.open.is_some() {
            return;
        }
        let old = !self.records.is_empty() && self.ticks >= self.lazy_since + LAZY_TICKS;
        // What peers confirmed is the only evidence against an older copy of their logs (R8): it does not wait.
        let due = old || !self.peers.changed.is_empty();
        if !self.urgent && !due {
            return;
        }
        for peer in std::mem::take(&mut self.peers.changed) {
            if let Some(seen) = self.peers.seen.get(&peer) {
                self.records.push(Record::Seen { peer, seen: *seen });
            }
        }
        let records = std::mem::take(&mut self.records);
        let ops = match self.journal.append(&records) {
            Some(ops) => ops,
            None => {
                // The image holds what the records say and everything before.
                let keep = self.applied.saturating_sub(self.settings.entries_kept);
                self.node.mut_store().compact(keep);
                match self.journal.rotate(&self.image()) {
                    Ok(ops) => ops,
                    Err(_) => {
                        self.node.mut_store().compact(self.applied);
                        match self.journal.rotate(&self.image()) {
                            Ok(ops) => ops,
                            Err(_) => return self.fail(out),
                        }
                    }
                }
            }
        };
        self.urgent = false;
        self.lazy_since = self.ticks;
        self.batch_last += 1;
        let term = self.node.store().hard.term;
        let since = self.ticks;
        self.open = Some(Open { batch: self.batch_last, readies: self.held.len(), term, since });
        out.push(Output::Disk(DiskBatch { batch: self.batch_last, ops }));
    }

    pub(super) fn disk_done(&mut self, batch: u64, durable: bool, out: &mut Vec<Output>) {
        if self.open.as_ref().is_none_or(|open| open.batch != batch) {
            return;
        }
        if !durable {
            return self.fail(out);
        }
        self.judge_disk();
        if let Some(open) = self.open.take() {
            self.durable_term = self.durable_term.max(open.term);
            self.release(open.readies, out);
            self.tell_durable(out);
        }
    }

    fn send(&mut self, messages: Vec<Message>, out: &mut Vec<Output>) {
        for message in messages {
            let snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            let to = VoterId(message.to);
            if let Some(wire) = convert::to_wire(&message) {
                out.push(Output::Send(self.envelope(to, Body::Raft(wire))));
            }
            if snapshot {
                // Loss of a snapshot shows by silence; raft then probes and sends it again.
                self.node.report_snapshot(to.0, raft::SnapshotStatus::Finish);
            }
        }
    }

    fn apply(&mut self, entry: &Entry, out: &mut Vec<Output>) {
        (self.applied, self.applied_term) = (entry.index, entry.term);
        let index = LedgerIndex(entry.index);
        match convert::log_entry(entry).map(|entry| entry.payload) {
            Some(Payload::Proposal(bytes)) => {
                // Checked when it was proposed and on every way in; what a newer build wrote is skipped alike by all.
                let Ok(proposal) = Proposal::decode(&bytes) else { return };
                let result = self.state.apply(index, &proposal.command);
                out.push(Output::Applied { index });
                if proposal.incarnation == self.settings.incarnation {
                    let outcome = match result {
                        Ok(applied) => Outcome::Applied(applied),
                        Err(refused) => Outcome::Refused(refused),
                    };
                    self.answer(proposal.request, outcome, out);
                }
            }
            Some(Payload::Members { proposer, kind, voter }) => {
                let change = convert::conf_change(kind, voter);
                let applied = self.node.apply_conf_change(&change);
                let outcome = match applied {
                    Ok(conf) => {
                        self.node.mut_store().conf = conf;
                        if kind == 1 {
                            self.peers.forget(voter);
                        }
                        self.note_members(out);
                        Outcome::Applied(crate::state::Applied::Done)
                    }
                    Err(error) => Outcome::Refused(crate::state::Refused::Missing(error.to_string())),
                };
                if proposer.0 == self.settings.incarnation {
                    self.answer(proposer.1, outcome, out);
                }
            }
            Some(Payload::Empty) | None => {}
        }
    }

    fn own_request(&self, context: &[u8]) -> Option<u64> {
        let (incarnation, request) = context.split_first_chunk::<8>()?;
        let request: [u8; 8] = request.try_into().ok()?;
        (u64::from_le_bytes(*incarnation) == self.settings.incarnation).then(|| u64::from_le_bytes(request))
    }

    fn answer_reads(&mut self, out: &mut Vec<Output>) {
        let applied = self.applied;
        self.reads.retain(|(index, request)| {
            let wait = *index > applied;
            if !wait {
                out.push(Output::ReadReady { request: *request });
            }
            wait
        });
    }

    fn note_members(&self, out: &mut Vec<Output>) {
        let members = self.members();
        out.push(Output::Event(Event::Members { voters: members.voters, learners: members.learners }));
    }

    fn note_role(&mut self, out: &mut Vec<Output>) {
        let raft = &self.node.raft;
        let role = if raft.state == StateRole::Leader && self.applied_term == raft.term {
            Role::Leader
        } else {
            let leader = (raft.leader_id != 0).then_some(VoterId(raft.leader_id));
            Role::Follower { leader }
        };
        if role != self.role {
            self.role = role;
            out.push(Output::Event(Event::Role(role)));
        }
    }
}
