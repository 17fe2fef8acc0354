//! Failure counts: how many, whether their time is over, whether a node is to be left.

use super::instances::strip_number;
use super::{Kind, NodeIx, RscIx, World};
use crate::{OnFail, Score, UnixSeconds};

/// Whether failures count that are older than the resource's failure timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureExpiry {
    /// They do not.
    Respect,
    /// They do.
    Ignore,
}

impl World<'_> {
    /// Failures of `at` on `node` with the time of the last one.
    pub(crate) fn failures(
        &self,
        at: RscIx,
        node: NodeIx,
        expiry: FailureExpiry,
    ) -> (Score, Option<UnixSeconds>) {
        let unique = self.clone_above(at).is_some_and(|c| self[c].clone.as_ref().is_some_and(|o| o.unique));
        let (id, base) = (&self[at].id, &self[at].base);
        let matches =
            |name: &str| if unique { name == id } else { strip_number(name) == base || name == base };
        let (mut count, mut last) = (Score::ZERO, None);
        let mut blocking = false;
        for failure in &self.cluster.nodes[self[node].model].fail_counts {
            if matches(&failure.resource) {
                count += failure.count;
                last = last.max(failure.last);
                blocking |= self.failure_blocks(at, &failure.operation);
            }
        }
        let timeout = self[at].meta.failure_timeout_s;
        if expiry == FailureExpiry::Respect
            && timeout > 0
            && !blocking
            && last.is_some_and(|l| self.now.0 > l.0.saturating_add(timeout))
        {
            return (Score::ZERO, last);
        }
        (count, last)
    }

    /// The operation that failed is configured to block the resource: that never expires by itself.
    fn failure_blocks(&self, at: RscIx, operation: &str) -> bool {
        self[at].operations.iter().any(|op| {
            op.on_fail == Some(OnFail::Block) && format!("{}_{}", op.name, op.interval_ms) == operation
        })
    }
}

/// True if `at` failed so often on `node` that it must not run there; with the resource to ban (all instances of an
/// anonymous clone are alike).
pub(crate) fn failure_limit_reached(world: &World<'_>, at: RscIx, node: NodeIx) -> Option<RscIx> {
    let rsc = &world[at];
    if rsc.kind != Kind::Primitive || rsc.orphan || !rsc.managed {
        return None;
    }
    let limit = rsc.meta.migration_threshold;
    let (count, _) = world.failures(at, node, FailureExpiry::Respect);
    if count <= Score::ZERO || limit == Score::ZERO && count < Score::INFINITY {
        return None;
    }
    if limit == Score::ZERO || count < limit {
        return None;
    }
    let clone = world.clone_above(at).filter(|c| world[*c].clone.as_ref().is_some_and(|o| !o.unique));
    Some(clone.unwrap_or(at))
}
