//! Changes of snapshots.

use super::{
    Applied, Change, Drill, EventKind, FORGET_MAX, HOLDS_MAX, Hold, Records, Refused, SNAPSHOT_BYTES_MAX,
    TARGET_BYTES_MAX, TARGETS_MAX,
    apply::{Result, bounded},
    cut,
};
use crate::words::SnapshotId;

impl Records {
    pub(super) fn apply_snapshot(&mut self, change: &Change) -> Result {
        match change {
            Change::Hold { snapshot, vault, by, reason, at } => {
                bounded("snapshot's name", &snapshot.0, SNAPSHOT_BYTES_MAX)?;
                if self.holds.len() >= HOLDS_MAX {
                    return Err(Refused::TooMany("holds".into()));
                }
                if self.holds.contains_key(snapshot) {
                    return Err(Refused::Exists(format!("a hold of snapshot {snapshot}")));
                }
                let hold = Hold { vault: vault.clone(), by: cut(by), at: *at, reason: cut(reason) };
                self.holds.insert(snapshot.clone(), hold);
                let (snapshot, vault) = (snapshot.clone(), vault.clone());
                let reason = cut(&format!("{by}: {reason}"));
                self.happened(*at, EventKind::Held { snapshot, vault, reason });
            }
            Change::Release { snapshot, by, at } => {
                let known = self.holds.remove(snapshot);
                known.ok_or_else(|| Refused::Missing(format!("hold of snapshot {snapshot}")))?;
                self.happened(*at, EventKind::Released { snapshot: snapshot.clone(), by: cut(by) });
            }
            Change::Drilled(drill) => {
                bounded("target's key", &drill.target.0, TARGET_BYTES_MAX)?;
                let snapshot = drill.snapshot.as_ref().map_or("", |snapshot| &snapshot.0);
                bounded("snapshot's name", snapshot, SNAPSHOT_BYTES_MAX)?;
                let drill = Drill { summary: cut(&drill.summary), ..drill.clone() };
                let newest = self.drills.get(&drill.target).is_none_or(|known| known.at <= drill.at);
                if newest {
                    if self.drills.len() >= TARGETS_MAX && !self.drills.contains_key(&drill.target) {
                        return Err(Refused::TooMany("drilled targets".into()));
                    }
                    self.drills.insert(drill.target.clone(), drill.clone());
                }
                self.happened(drill.at, EventKind::Drilled(drill));
            }
            Change::Forget { vault, snapshots, reason, at } => {
                if snapshots.len() > FORGET_MAX {
                    return Err(Refused::TooMany(format!("snapshots at once: {}", snapshots.len())));
                }
                for snapshot in snapshots {
                    bounded("snapshot's name", &snapshot.0, SNAPSHOT_BYTES_MAX)?;
                    self.may_forget(snapshot)?;
                }
                let (vault, snapshots) = (vault.clone(), snapshots.clone());
                self.happened(*at, EventKind::Forgotten { vault, snapshots, reason: cut(reason) });
            }
            _ => return Err(Refused::Stale("no change of a snapshot".into())),
        }
        Ok(Applied::Done)
    }

    /// The last gate before a snapshot is given up, whoever decided it.
    fn may_forget(&self, snapshot: &SnapshotId) -> Result<()> {
        if let Some(hold) = self.holds.get(snapshot) {
            return Err(Refused::InUse(format!(
                "snapshot {snapshot} is held by {}: {}",
                hold.by, hold.reason
            )));
        }
        let last = self
            .targets
            .iter()
            .find(|(_, target)| target.last_good.as_ref().is_some_and(|good| good.snapshot == *snapshot));
        if let Some(((plan, target), _)) = last {
            return Err(Refused::InUse(format!(
                "snapshot {snapshot} is the newest good one of {target} in plan {plan}"
            )));
        }
        Ok(())
    }
}
