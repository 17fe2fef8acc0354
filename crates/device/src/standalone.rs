//! An ideal ledger inside the volume process: one voter that is always right. For measuring and for conformance tests
//! of one volume without a site; refused when a voter's socket is given.

use anshin_base::{
    Generation, GroupChange, GroupEntry, LedgerEpoch, LedgerIndex, Member, Problem,
    local::{Outcome, ReplicaReport},
};
use anshin_mirror::{Input, LedgerView};
use std::path::{Path, PathBuf};

/// The entry, kept in a file beside the replica so that a restart continues it.
pub struct Standalone {
    path: PathBuf,
    index: u64,
    entry: Option<GroupEntry>,
    /// The session that was promoted, so that later reports change nothing.
    promoted: Option<Member>,
}

impl Standalone {
    /// Continues what is recorded in `directory`.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn open(directory: &Path) -> Result<Self, Problem> {
        let path = directory.join("standalone");
        let (index, entry) = match std::fs::read(&path) {
            Ok(bytes) => postcard::from_bytes(&bytes).map_err(|error| {
                Problem::new("standalone", format!("{} cannot be read: {error}", path.display()))
            })?,
            Err(_) => (0, None),
        };
        Ok(Self { path, index, entry, promoted: None })
    }

    fn apply(&mut self, change: &GroupChange) -> Outcome {
        match GroupEntry::apply(self.entry.as_ref(), change) {
            Ok(entry) => {
                self.index += 1;
                self.entry = Some(entry.clone());
                let bytes = postcard::to_stdvec(&(self.index, &self.entry));
                let bytes = bytes.expect("invariant: an entry has no part that cannot be encoded");
                if let Err(error) = std::fs::write(&self.path, bytes) {
                    tracing::error!(%error, "cannot record the standalone ledger");
                    return Outcome::Unknown;
                }
                Outcome::Applied(entry)
            }
            Err(refused) => Outcome::Refused(refused),
        }
    }

    fn view(&self) -> Input {
        Input::Ledger(LedgerView {
            epoch: LedgerEpoch(1),
            index: LedgerIndex(self.index),
            entry: self.entry.clone(),
            places: Vec::new(),
            highest: Vec::new(),
            quorate: true,
        })
    }

    /// The first report makes the replica the only member and the primary.
    pub fn report(&mut self, report: &ReplicaReport, inputs: &mut Vec<Input>) {
        let member = Member { replica: report.replica, session: report.session };
        if self.promoted == Some(member) {
            return;
        }
        self.promoted = Some(member);
        let group = report.group;
        if self.entry.is_none() {
            self.apply(&GroupChange::Create { group, first: member });
        }
        inputs.push(self.view());
        let expect = self.entry.as_ref().map_or(Generation(0), |entry| entry.generation);
        self.apply(&GroupChange::Promote { group, expect, candidate: member });
        inputs.push(self.view());
    }

    /// Decides at once.
    pub fn propose(&mut self, request: u64, change: &GroupChange, inputs: &mut Vec<Input>) {
        let outcome = self.apply(change);
        inputs.push(Input::Proposed { request, outcome });
        inputs.push(self.view());
    }
}
