//! Relations between steps.

use super::{Actor, StepIx, Task};
use crate::world::RscIx;

/// `first` ends before `then` begins; and what follows from that.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(crate) first: StepIx,
    pub(crate) then: StepIx,
    /// `then` cannot be done unless `first` can.
    pub(crate) needs: bool,
    /// Only while `then` is required anyway does the need count.
    pub(crate) needs_if_required: bool,
    /// If `first` is done, `then` must be done.
    pub(crate) pulls_then: bool,
    /// If `then` is done, `first` must be done.
    pub(crate) pulls_first: bool,
    /// Pulls only if all steps of that kind in this clone are required.
    pub(crate) whole: Option<(RscIx, Task)>,
    /// Why, for people.
    pub(crate) why: String,
}

impl Edge {
    /// Only the sequence.
    pub(crate) fn sequence(first: StepIx, then: StepIx) -> Self {
        Self {
            first,
            then,
            needs: false,
            needs_if_required: false,
            pulls_then: false,
            pulls_first: false,
            whole: None,
            why: String::new(),
        }
    }

    /// The sequence, and `then` needs `first`.
    pub(crate) fn need(first: StepIx, then: StepIx) -> Self {
        Self { needs: true, ..Self::sequence(first, then) }
    }
}

impl Actor<'_, '_> {
    pub(super) fn connect(&mut self, edge: Edge) {
        if edge.first != edge.then {
            self.edges.push(edge);
        }
    }
}
