//! An ideal voter for several volume processes: one entry, decided at once, told to everyone.

use anshin_base::{
    Generation, GroupChange, GroupEntry, GroupId, LedgerEpoch, LedgerIndex, Member, ReplicaId, SessionId,
    frame::Frame,
    local::{FromVoter, Outcome, ReplicaPlace, ReplicaReport, ToVoter},
};
use anshin_device::voter;
use bytes::BytesMut;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex},
};

#[derive(Default)]
struct State {
    index: u64,
    entry: Option<GroupEntry>,
    places: Vec<ReplicaPlace>,
    reports: BTreeMap<ReplicaId, ReplicaReport>,
    clients: Vec<UnixStream>,
}

/// The voter; a clone is the same one.
#[derive(Clone, Default)]
pub struct IdealVoter(Arc<Mutex<State>>);

impl IdealVoter {
    /// Serves at `socket`, in threads that end with the process.
    pub fn listen(socket: &Path, places: Vec<ReplicaPlace>) -> Self {
        let voter = Self::default();
        voter.0.lock().unwrap().places = places;
        let listener = UnixListener::bind(socket).unwrap();
        let serving = voter.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        voter
    }

    /// The entry as it is.
    pub fn entry(&self) -> Option<GroupEntry> {
        self.0.lock().unwrap().entry.clone()
    }

    /// Makes `replica` the primary, in the session it last reported.
    pub fn promote(&self, replica: ReplicaId) {
        let mut state = self.0.lock().unwrap();
        let entry = state.entry.as_ref().unwrap();
        let (group, expect) = (entry.group, entry.generation);
        let session = state.reports[&replica].session;
        let candidate = Member { replica, session };
        let outcome = state.apply(&GroupChange::Promote { group, expect, candidate });
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
        state.tell_all();
    }

    /// Makes the entry, with `replica` as the only member.
    pub fn create(&self, group: GroupId, replica: ReplicaId) {
        let mut state = self.0.lock().unwrap();
        let session = state.reports.get(&replica).map_or(SessionId(0), |report| report.session);
        let outcome = state.apply(&GroupChange::Create { group, first: Member { replica, session } });
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
        state.tell_all();
    }

    /// Whether this replica has reported.
    pub fn knows(&self, replica: ReplicaId) -> bool {
        self.0.lock().unwrap().reports.contains_key(&replica)
    }

    /// How many members the set has.
    pub fn members(&self) -> usize {
        self.entry().map_or(0, |entry| entry.in_sync.len())
    }

    fn serve(&self, mut stream: UnixStream) {
        self.0.lock().unwrap().clients.push(stream.try_clone().unwrap());
        let mut input = BytesMut::new();
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut part) {
            input.extend_from_slice(&part[..count]);
            while let Some(frame) = Frame::decode(&mut input, voter::FRAME_MAX).unwrap() {
                let mut state = self.0.lock().unwrap();
                match postcard::from_bytes(&frame.body).unwrap() {
                    ToVoter::Report(report) => {
                        state.reports.insert(report.replica, report);
                    }
                    ToVoter::Propose { request, change } => {
                        let outcome = state.apply(&change);
                        let _ = stream.write_all(&voter::frame(&FromVoter::Outcome { request, outcome }));
                    }
                }
                state.tell_all();
            }
        }
    }
}

impl State {
    fn apply(&mut self, change: &GroupChange) -> Outcome {
        match GroupEntry::apply(self.entry.as_ref(), change) {
            Ok(entry) => {
                self.index += 1;
                self.entry = Some(entry.clone());
                Outcome::Applied(entry)
            }
            Err(refused) => Outcome::Refused(refused),
        }
    }

    fn tell_all(&mut self) {
        assert!(self.entry.as_ref().is_none_or(|entry| entry.generation > Generation(0)));
        let view = voter::frame(&FromVoter::View {
            epoch: LedgerEpoch(1),
            index: LedgerIndex(self.index),
            entry: self.entry.clone(),
            places: self.places.clone(),
            highest: self.reports.values().map(|report| (report.replica, report.progress)).collect(),
            quorate: true,
        });
        self.clients.retain_mut(|client| client.write_all(&view).is_ok());
    }
}
