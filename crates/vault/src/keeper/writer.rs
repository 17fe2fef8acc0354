//! The packs that one client is filling.

use super::domain::Domain;
use crate::keys::DomainId;
use crate::object::{Kind, VaultError};
use crate::pack::{PackBuilder, WriterId, pack_kind};
use crate::seal::Sealed;
use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Shared by all sessions of one client.
pub(crate) struct Writer {
    pub id: WriterId,
    domain: DomainId,
    state: Mutex<State>,
    idle: Condvar,
}

struct State {
    data: PackBuilder,
    trees: PackBuilder,
    /// Numbers of the packs on their way.
    in_flight: BTreeSet<u64>,
    /// Packs there were.
    packs: u64,
    /// How many packs could not be stored, and why the last one: every session that began before has lost objects.
    failures: u64,
    reason: Option<VaultError>,
}

impl State {
    const fn pack(&mut self, kind: Kind) -> &mut PackBuilder {
        match kind {
            Kind::Data => &mut self.data,
            Kind::Tree => &mut self.trees,
        }
    }
}

impl Writer {
    pub(crate) fn new(domain: DomainId, id: WriterId) -> Self {
        let pack = |kind| PackBuilder::new(kind, domain, id);
        let state = State {
            data: pack(Kind::Data),
            trees: pack(Kind::Tree),
            in_flight: BTreeSet::new(),
            packs: 0,
            failures: 0,
            reason: None,
        };
        Self { id, domain, state: Mutex::new(state), idle: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The count that [`Self::check`] compares with.
    pub(crate) fn failures(&self) -> u64 {
        self.state().failures
    }

    /// An error if a pack could not be stored since `seen` was counted.
    pub(crate) fn check(&self, seen: u64) -> Result<(), VaultError> {
        let state = self.state();
        match &state.reason {
            Some(reason) if state.failures > seen => Err(reason.clone()),
            _ => Ok(()),
        }
    }

    /// Takes an object into the pack of its kind. Waits while that pack is full and as many as may be are on their way, which
    /// bounds the memory packs take.
    pub(crate) fn put(self: &Arc<Self>, domain: &Arc<Domain>, sealed: Sealed) {
        let (target, limit) = (domain.shared.options.pack_size, domain.shared.uploader.limit());
        let kind = pack_kind(sealed.kind());
        let mut state = self.state();
        let full = loop {
            if !state.pack(kind).is_full(target) {
                break None;
            }
            if state.in_flight.len() < limit {
                break Some(self.take(&mut state, kind));
            }
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        // Both under one lock: whatever is held is in a pack that a flush will store.
        if domain.index.hold(self.id, &sealed) {
            state.pack(kind).push(sealed);
        }
        drop(state);
        if let Some((number, pack)) = full {
            self.upload(domain, number, pack);
        }
    }

    /// The pack, which is on its way from here on, and its number.
    fn take(&self, state: &mut State, kind: Kind) -> (u64, PackBuilder) {
        let number = state.packs;
        state.packs += 1;
        state.in_flight.insert(number);
        (number, std::mem::replace(state.pack(kind), PackBuilder::new(kind, self.domain, self.id)))
    }

    fn upload(self: &Arc<Self>, domain: &Arc<Domain>, number: u64, pack: PackBuilder) {
        let (writer, domain_of_job) = (self.clone(), domain.clone());
        domain.shared.uploader.run(Box::new(move || {
            let result = match domain_of_job.store().is_tight() {
                true => Err(domain_of_job.refuse_pack(pack)),
                false => domain_of_job.store_pack(pack),
            };
            let mut state = writer.state();
            state.in_flight.remove(&number);
            if let Err(error) = result {
                state.failures += 1;
                state.reason = Some(error);
            }
            drop(state);
            writer.idle.notify_all();
        }));
    }

    /// Stores all that was taken and waits for it; not for what others put meanwhile, who may never come to an end.
    pub(crate) fn flush(self: &Arc<Self>, domain: &Arc<Domain>) {
        let (packs, end) = {
            let mut state = self.state();
            let mut packs = Vec::new();
            // Data first: a crash in between leaves no tree without what it refers to.
            for kind in [Kind::Data, Kind::Tree] {
                if !state.pack(kind).is_empty() {
                    packs.push(self.take(&mut state, kind));
                }
            }
            (packs, state.packs)
        };
        for (number, pack) in packs {
            self.upload(domain, number, pack);
        }
        let mut state = self.state();
        while state.in_flight.first().is_some_and(|first| *first < end) {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
