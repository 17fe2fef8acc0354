//! Who should vote: a conclusion from the ledger's list of nodes.

use super::{MemberChange, message::Members};
use crate::state::State;
use anshin_base::VoterId;
use std::collections::BTreeSet;

/// The next change that makes the voters those of the ledger's nodes; None if they are. A voter that no node has any more
/// goes first: it is gone for good, and as long as it is counted it costs tolerance.
#[must_use]
pub fn next_change(
    state: &State,
    members: &Members,
    caught_up: &[VoterId],
    me: VoterId,
) -> Option<MemberChange> {
    if state.nodes.is_empty() {
        return None;
    }
    let wanted: BTreeSet<_> = state.nodes.values().map(|node| node.voter).collect();
    let present = members.voters.iter().chain(&members.learners);
    // A leader does not remove itself; it has handed over before to one that the ledger's list names.
    if let Some(gone) = present.clone().find(|voter| !wanted.contains(voter) && **voter != me) {
        return Some(MemberChange::Remove(*gone));
    }
    if let Some(ready) = members.learners.iter().find(|voter| caught_up.contains(voter)) {
        return Some(MemberChange::Promote(*ready));
    }
    let present: BTreeSet<_> = present.collect();
    wanted.iter().find(|voter| !present.contains(voter)).map(|voter| MemberChange::AddLearner(*voter))
}
