//! The rules of retention, applied to what the catalog knows. Pure.

use anshin_director::{
    PlanName, SnapshotId, TargetKey, UnixMillis, VaultName,
    catalog::SnapshotRow,
    plan::Plan,
    record::{Change, FORGET_MAX, Records},
    retention::{Candidate, Content, Preview, Standing, decide, held, odd},
};
use jiff::tz::TimeZone;
use std::collections::BTreeMap;

/// What becomes of one target's snapshots in one plan.
#[derive(Clone, Debug)]
pub struct Decided {
    /// Of which plan.
    pub plan: PlanName,
    /// Of what.
    pub target: TargetKey,
    /// Where they are.
    pub vault: VaultName,
    /// Snapshot by snapshot.
    pub preview: Preview,
}

/// What the rules of the plans say of the snapshots that are there. Snapshots whose plan is gone, cannot be read, or keeps by
/// tags, which the catalog does not know, are left alone.
#[must_use]
pub fn verdicts(records: &Records, rows: &[SnapshotRow], now: UnixMillis) -> Vec<Decided> {
    let mut groups: BTreeMap<(&PlanName, &TargetKey, &VaultName), Vec<&SnapshotRow>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.forgotten.is_none()) {
        groups.entry((&row.plan, &row.target, &row.vault)).or_default().push(row);
    }
    let mut out = Vec::new();
    for ((name, target, vault), mut rows) in groups {
        let plan = records.plans.get(name).and_then(|record| Plan::from_json(&record.text).ok());
        let Some(plan) = plan.filter(|plan| plan.keep.tags.is_empty()) else { continue };
        let zone = TimeZone::get(&plan.zone).unwrap_or(TimeZone::UTC);
        rows.sort_by_key(|row| row.sealed);
        let candidates = candidates(records, &rows);
        // A target that the plan no longer names keeps its newest one all the same: it may be named again.
        let preview = Preview { verdicts: decide(&candidates, &plan.keep, true, &zone, now) };
        out.push(Decided { plan: name.clone(), target: target.clone(), vault: vault.clone(), preview });
    }
    out
}

/// The changes that give up what no rule keeps.
#[must_use]
pub fn changes(records: &Records, rows: &[SnapshotRow], now: UnixMillis) -> Vec<Change> {
    let mut out = Vec::new();
    for decided in verdicts(records, rows, now) {
        let removed = decided.preview.removed();
        for some in removed.chunks(FORGET_MAX) {
            let (snapshots, vault) = (some.to_vec(), decided.vault.clone());
            let reason = format!("plan {} keeps no more of {}", decided.plan, decided.target);
            out.push(Change::Forget { vault, snapshots, reason, at: now });
        }
    }
    out
}

fn candidates(records: &Records, rows: &[&SnapshotRow]) -> Vec<Candidate> {
    let mut good: Vec<(UnixMillis, Content)> = Vec::new();
    let mut out = Vec::new();
    for row in rows {
        let mut standing = row.standing.clone();
        if standing == Standing::Good {
            let content = Content { files: row.files, bytes: row.bytes, new_bytes: row.new_bytes };
            good.push((row.sealed, content));
            if let Some(why) = odd(&good) {
                standing = Standing::Suspicious(why);
            }
        }
        out.push(Candidate {
            snapshot: row.snapshot.clone(),
            plan: row.plan.clone(),
            target: row.target.clone(),
            sealed: row.sealed,
            tags: Vec::new(),
            own_bytes: None,
            standing,
            held: held(records, &row.snapshot).or_else(|| last_good(records, &row.snapshot)),
        });
    }
    out
}

/// The records refuse to give up the newest good snapshot of a target; it is not even asked for.
fn last_good(records: &Records, snapshot: &SnapshotId) -> Option<String> {
    let mut known = records.targets.values().filter_map(|target| target.last_good.as_ref());
    known.any(|good| good.snapshot == *snapshot).then(|| "the newest good one".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_base::NodeId;
    use anshin_director::{
        Attempt, RunId, Span,
        plan::{Keep, nightly},
        record::VaultRecord,
    };

    const DAY: i64 = 86_400_000;

    fn records(change: impl FnOnce(&mut Plan)) -> Records {
        let mut records = Records::default();
        let (name, id, url) = (VaultName::from("main"), "1".to_owned(), "/v".to_owned());
        records
            .apply(&Change::SetVault(VaultRecord { name, id, url, node: NodeId(3), concurrent: 0 }))
            .unwrap();
        let mut plan = nightly(&"main".into(), "UTC");
        plan.keep = Keep { last: 2, ..Keep::default() };
        change(&mut plan);
        let set = Change::SetPlan {
            plan: plan.name.clone(),
            text: plan.to_json(),
            vault: "main".into(),
            expect: 0,
            at: UnixMillis(0),
            restart: true,
        };
        records.apply(&set).unwrap();
        records
    }

    fn row(day: i64, bytes: u64) -> SnapshotRow {
        SnapshotRow {
            snapshot: SnapshotId(format!("s{day}")),
            vault: "main".into(),
            plan: "nightly".into(),
            target: "service/db".into(),
            run: RunId(day as u64),
            attempt: Attempt(1),
            point: None,
            sealed: UnixMillis(day * DAY),
            files: 1_000,
            bytes,
            new_bytes: bytes / 100,
            warnings: 0,
            standing: Standing::Good,
            held: None,
            forgotten: None,
        }
    }

    fn removed(records: &Records, rows: &[SnapshotRow]) -> Vec<String> {
        let all = changes(records, rows, UnixMillis(100 * DAY));
        let lists = all.into_iter().map(|change| match change {
            Change::Forget { snapshots, .. } => snapshots,
            other => panic!("{other:?}"),
        });
        let mut names: Vec<String> = lists.flatten().map(|snapshot| snapshot.0).collect();
        names.sort();
        names
    }

    fn week() -> Vec<SnapshotRow> {
        (1..=5).map(|day| row(day, 1 << 30)).collect()
    }

    #[test]
    fn what_no_rule_keeps_is_given_up() {
        assert_eq!(removed(&records(|_| {}), &week()), ["s1", "s2", "s3"]);
    }

    #[test]
    fn a_snapshot_unlike_those_before_neither_goes_nor_pushes_out_others() {
        let mut rows = week();
        // All of it new: what an encryption by somebody else looks like.
        rows.push(SnapshotRow { new_bytes: 1 << 30, ..row(6, 1 << 30) });
        assert_eq!(
            removed(&records(|_| {}), &rows),
            ["s1", "s2", "s3"],
            "4 and 5 are still the last two good ones"
        );
    }

    #[test]
    fn what_changed_for_good_becomes_usual_but_not_within_hours() {
        let small = |hour: i64| SnapshotRow {
            snapshot: SnapshotId(format!("h{hour}")),
            sealed: UnixMillis(6 * DAY + hour * DAY / 24),
            ..row(6, 100 << 20)
        };
        let rows =
            |hours: std::ops::Range<i64>| week().into_iter().chain(hours.map(small)).collect::<Vec<_>>();
        let records = records(|_| {});
        assert_eq!(removed(&records, &rows(0..60)), ["s1", "s2", "s3"], "each of them stays");
        let later = removed(&records, &rows(0..24 * 30));
        assert!(["s5", "h700"].iter().all(|gone| later.contains(&(*gone).to_owned())), "{later:?}");
    }

    #[test]
    fn what_is_held_recorded_as_newest_or_of_no_plan_stays() {
        let mut records = records(|_| {});
        let hold = Change::Hold {
            snapshot: "s1".into(),
            vault: "main".into(),
            by: "kim".into(),
            reason: "audit".into(),
            at: UnixMillis(1),
        };
        records.apply(&hold).unwrap();
        let mut rows = week();
        rows.push(SnapshotRow { plan: "gone".into(), ..row(7, 1) });
        assert_eq!(removed(&records, &rows), ["s2", "s3"]);
    }

    #[test]
    fn a_plan_that_keeps_by_tags_gives_up_nothing_here() {
        let records = records(|plan| plan.keep.tags = vec!["year-end".into()]);
        assert!(removed(&records, &week()).is_empty());
        let within =
            self::records(|plan| plan.keep = Keep { within: Some(Span::days(2)), ..Keep::default() });
        assert_eq!(removed(&within, &week()), ["s1", "s2"]);
    }
}
