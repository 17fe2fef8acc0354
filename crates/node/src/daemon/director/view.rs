//! What the daemon knows of backups, as the public API shows it.

use super::{DirectorNow, observed};
use crate::{
    daemon::world::World,
    view::{
        BackupFacts, CalendarEntry, CalendarMark, EndedRunView, GoodBackup, Level, ProtectedView,
        RestoreDrill, RunOutcome, RunStand, RunView, VaultView,
    },
};
use anshin_director::{
    SnapshotId, Span, TargetKey, UnixMillis,
    catalog::{Ended, PassedRow, RunRow, SnapshotRow},
    plan::Inventory,
    posture::{Colour, Freshness, Mark, Protected, Settings, Slot, doubts, posture, timeline},
    record::{Drill, Event, EventKind, LastGood, Outcome, Place, Progress, Records, RunReport},
    run::{self, Estimate, Observed, Stand},
};
use std::collections::BTreeMap;

/// For the log of a service to come into the vault.
const LOG_PATIENCE: Span = Span::minutes(10);

/// For what is sealed to be told of by the node that serves the vault.
const SETTLED: Span = Span::minutes(2);

/// Ended runs that are part of the status.
const ENDED_MAX: usize = 20;

/// The calendar of the status reaches this far back and ahead, with at most so many entries around now.
const STATUS_CALENDAR: (Span, Span) = (Span::days(7), Span::days(2));
const STATUS_CALENDAR_MAX: usize = 300;

/// Everything about backups.
#[must_use]
pub fn backups(world: &World, now: UnixMillis) -> BackupFacts {
    let records = world.state.director.records();
    if records.vaults.is_empty() && records.plans.is_empty() {
        return BackupFacts::default();
    }
    let seen = observed(world);
    BackupFacts {
        vaults: vaults(world, records, &seen),
        things: things(world, records, &seen, now),
        runs: open_runs(world),
        ended: ended(world).take(ENDED_MAX).collect(),
        calendar: calendar(records, &seen.inventory, now, STATUS_CALENDAR, STATUS_CALENDAR_MAX),
    }
}

fn vaults(world: &World, records: &Records, seen: &Observed) -> Vec<VaultView> {
    let view = |vault: &anshin_director::record::VaultRecord| VaultView {
        name: vault.name.0.clone(),
        node: world.name_of(vault.node),
        url: vault.url.clone(),
        trouble: seen.vaults.get(&vault.name).and_then(|seen| seen.trouble.clone()),
    };
    records.vaults.values().map(view).collect()
}

fn things(world: &World, records: &Records, seen: &Observed, now: UnixMillis) -> Vec<ProtectedView> {
    let fresh = match world.quorate {
        true => Freshness::Current,
        false => {
            let age = i64::try_from(world.ledger_age_ms).unwrap_or(i64::MAX);
            Freshness::AsOf(UnixMillis(now.0.saturating_sub(age).max(0)))
        }
    };
    let settings = Settings {
        vaults: seen.vaults.clone(),
        doubts: doubts(records),
        damaged: lost(records, seen, now),
        logs: logs(world, now),
    };
    posture(records, &seen.inventory, &settings, fresh, now).into_iter().map(thing).collect()
}

/// Newest good backups that their vault, which answers, does not have any more.
pub(super) fn lost(records: &Records, seen: &Observed, now: UnixMillis) -> BTreeMap<SnapshotId, String> {
    let good = records.targets.values().filter_map(|target| target.last_good.as_ref());
    let lost = good.filter(|good| {
        let Some(vault) = seen.vaults.get(&good.vault).filter(|vault| vault.trouble.is_none()) else {
            return false;
        };
        // The vault tells of its newest ones only, and a moment after they are sealed.
        let told_of = vault.snapshots.first().is_none_or(|(first, _, _)| *first <= good.run);
        let listed = vault.snapshots.iter().any(|(_, _, sealed)| sealed.snapshot == good.snapshot);
        told_of && !listed && now.since(good.sealed) > SETTLED
    });
    let why = "its vault does not have it any more, or cannot read it: `anshin vault verify` tells";
    lost.map(|good| (good.snapshot.clone(), why.to_owned())).collect()
}

/// Logs that are in trouble for longer than a vault is away now and then, and those with a gap behind the newest good backup.
pub(super) fn logs(world: &World, now: UnixMillis) -> BTreeMap<TargetKey, String> {
    let reports = world.reports.iter().filter(|(node, _)| world.alive(**node));
    let mut out = BTreeMap::new();
    for archive in reports.flat_map(|(_, report)| &report.archives) {
        let target = TargetKey(format!("service/{}", archive.service));
        let since = now.since(archive.moved.unwrap_or(archive.began));
        if since > LOG_PATIENCE {
            let why = archive.trouble.as_deref().unwrap_or("its archive does not answer");
            let text = format!("its log is not in the vault for {} now: {why}", since.rough());
            out.insert(target, text);
        } else if let Some(gap) = &archive.gap {
            let targets = world.state.director.records().targets.iter();
            let of_this = targets.filter(|((_, known), _)| *known == target);
            let newest = of_this.filter_map(|(_, record)| Some(record.last_good.as_ref()?.point)).max();
            if newest.is_none_or(|newest| newest <= gap.at) {
                let text = format!(
                    "its log has a gap at {}, and instants after it need a new backup: {}",
                    gap.at, gap.reason
                );
                out.insert(target, text);
            }
        }
    }
    out
}

fn thing(thing: Protected) -> ProtectedView {
    ProtectedView {
        target: thing.target.0,
        plan: thing.plan.map(|plan| plan.0),
        level: match thing.colour {
            Colour::Green => Level::Green,
            Colour::Amber => Level::Amber,
            Colour::Red => Level::Red,
        },
        reasons: thing.reasons,
        last_good: thing.last_good.map(good),
        age_s: thing.age.map(|age| age.0),
        expected_s: thing.expected.map(|expected| expected.0),
        drill: thing.drill.as_ref().map(drill),
        next: thing.next.map(text),
    }
}

fn good(good: LastGood) -> GoodBackup {
    GoodBackup {
        run: good.run.0,
        snapshot: good.snapshot.0,
        vault: good.vault.0,
        point: text(good.point),
        sealed: text(good.sealed),
        files: good.files,
        bytes: good.bytes,
        warnings: good.warnings,
    }
}

/// A drill as it is shown.
#[must_use]
pub fn drill(drill: &Drill) -> RestoreDrill {
    RestoreDrill {
        target: drill.target.0.clone(),
        snapshot: drill.snapshot.as_ref().map(|snapshot| snapshot.0.clone()),
        at: text(drill.at),
        good: drill.good,
        rpo_s: drill.rpo.map(|span| span.0),
        rto_s: drill.rto.map(|span| span.0),
        summary: drill.summary.clone(),
    }
}

/// The open runs. What the last look of the director said of each is used as far as it is of the present attempt.
#[must_use]
pub fn open_runs(world: &World) -> Vec<RunView> {
    let DirectorNow { runs: looked, .. } = &*world.director;
    let records = world.state.director.records();
    let view = |run: &anshin_director::record::Run| {
        let seen = looked.iter().find(|seen| seen.run == run.id && seen.attempt == run.attempt);
        open_run(world, run, seen)
    };
    records.runs.values().map(view).collect()
}

fn open_run(world: &World, run: &anshin_director::record::Run, seen: Option<&run::RunView>) -> RunView {
    let (recorded, recorded_place) = match run.state {
        anshin_director::record::RunState::Running { progress, place, .. } => (progress, Some(place)),
        anshin_director::record::RunState::Waiting { .. } => (Progress::default(), None),
    };
    let mut view = RunView {
        id: run.id.0,
        plan: run.plan.0.clone(),
        target: run.target.0.clone(),
        vault: run.vault.0.clone(),
        attempt: run.attempt.0,
        stand: if recorded_place.is_some() { RunStand::Running } else { RunStand::Waiting },
        why: None,
        on: recorded_place.map(|place| name_of(world, place)),
        due: text(run.due),
        overdue: seen.is_some_and(|seen| seen.overdue),
        since: recorded_place.and(run.point).map(text),
        trouble: run.trouble.clone(),
        files: 0,
        bytes: 0,
        sent_bytes: 0,
        bytes_total: None,
        bytes_per_s: 0,
        done_percent: None,
        seconds_left: None,
    };
    show_progress(&mut view, recorded, Estimate::default());
    match seen.map(|seen| &seen.stand) {
        Some(Stand::Running { progress, estimate, .. }) if recorded_place.is_some() => {
            show_progress(&mut view, *progress, *estimate);
        }
        Some(Stand::Planned { .. }) if recorded_place.is_none() => view.stand = RunStand::Planned,
        Some(Stand::Waiting { why }) if recorded_place.is_none() => view.why = Some(why.clone()),
        _ => {}
    }
    if !world.quorate {
        view.why = Some("this node is cut off: nothing is begun from here".into());
    }
    view
}

fn show_progress(view: &mut RunView, progress: Progress, estimate: Estimate) {
    view.files = progress.files;
    view.bytes = progress.bytes;
    view.sent_bytes = progress.sent;
    view.bytes_total = progress.bytes_total;
    // Saturating: a rate is no address.
    view.bytes_per_s = estimate.bytes_per_second.max(0.0) as u64;
    view.done_percent = estimate.done.map(|share| (share.clamp(0.0, 1.0) * 100.0) as u8);
    view.seconds_left = estimate.remaining.map(|span| span.0);
}

/// Runs that the ledger still knows to have ended, newest first.
pub fn ended(world: &World) -> impl Iterator<Item = EndedRunView> {
    let events = world.state.director.records().events.iter().rev();
    events.filter_map(move |event: &Event| match &event.kind {
        EventKind::Ended(report) => Some(ended_run(world, report)),
        _ => None,
    })
}

fn ended_run(world: &World, report: &RunReport) -> EndedRunView {
    let (outcome, reason, sealed) = match &report.outcome {
        Outcome::Sealed(sealed) => (RunOutcome::Sealed, None, Some(sealed)),
        Outcome::Failed(why) => (RunOutcome::Failed, Some(why.clone()), None),
        Outcome::Cancelled(why) => (RunOutcome::Cancelled, Some(why.clone()), None),
    };
    EndedRunView {
        id: report.run.0,
        plan: report.plan.0.clone(),
        target: report.target.0.clone(),
        vault: report.vault.0.clone(),
        attempt: report.attempt.0,
        on: report.place.map(|place| name_of(world, place)),
        due: Some(text(report.due)),
        begun: report.begun.map(text),
        point: report.point.map(text),
        ended: text(report.ended),
        outcome,
        reason,
        snapshot: sealed.map(|sealed| sealed.snapshot.0.clone()),
        files: sealed.map_or(0, |sealed| sealed.files),
        bytes: sealed.map_or(0, |sealed| sealed.bytes),
        new_bytes: sealed.map_or(0, |sealed| sealed.new_bytes),
        warnings: sealed.map_or(0, |sealed| sealed.warnings),
    }
}

/// A run as the catalog has it.
#[must_use]
pub fn of_catalog(world: &World, row: &RunRow, snapshot: Option<&SnapshotRow>) -> EndedRunView {
    EndedRunView {
        id: row.run.0,
        plan: row.plan.0.clone(),
        target: row.target.0.clone(),
        vault: row.vault.0.clone(),
        attempt: row.attempt.0,
        on: row.place.map(|place| name_of(world, place)),
        due: row.due.map(text),
        begun: row.begun.map(text),
        point: row.point.map(text),
        ended: text(row.ended),
        outcome: match row.outcome {
            Ended::Sealed => RunOutcome::Sealed,
            Ended::Failed => RunOutcome::Failed,
            Ended::Cancelled => RunOutcome::Cancelled,
        },
        reason: row.reason.clone(),
        snapshot: row.snapshot.as_ref().map(|snapshot| snapshot.0.clone()),
        files: snapshot.map_or(0, |snapshot| snapshot.files),
        bytes: snapshot.map_or(0, |snapshot| snapshot.bytes),
        new_bytes: snapshot.map_or(0, |snapshot| snapshot.new_bytes),
        warnings: snapshot.map_or(0, |snapshot| snapshot.warnings),
    }
}

/// Who executes, by name.
#[must_use]
pub fn name_of(world: &World, place: Place) -> String {
    match place {
        Place::Node(node) => world.name_of(node),
        Place::Client(client) => {
            let known = world.state.director.records().clients.get(&client);
            known.map_or_else(|| client.to_string(), |client| client.name.0.clone())
        }
    }
}

/// RFC 3339.
#[must_use]
pub fn text(at: UnixMillis) -> String {
    at.timestamp().unwrap_or_default().to_string()
}

/// The calendar from `before` now to `after` now; at most `max` entries, those nearest to now.
#[must_use]
pub fn calendar(
    records: &Records,
    inventory: &Inventory,
    now: UnixMillis,
    (before, after): (Span, Span),
    max: usize,
) -> Vec<CalendarEntry> {
    let (mut runs, mut passed) = (Vec::new(), Vec::new());
    for event in &records.events {
        match &event.kind {
            EventKind::Ended(report) => runs.push(row(report)),
            EventKind::Passed(what) => passed.push(PassedRow { at: event.at, passed: what.clone() }),
            _ => {}
        }
    }
    let (mut slots, _) =
        timeline(records, inventory, &runs, &passed, now, (now.before(before), now.after(after)));
    slots.sort_by_key(|slot| slot.at.0.abs_diff(now.0));
    slots.truncate(max);
    slots.sort_by(|a, b| (a.at, &a.plan, &a.target).cmp(&(b.at, &b.plan, &b.target)));
    slots.into_iter().map(entry).collect()
}

fn row(report: &RunReport) -> RunRow {
    let (outcome, reason, snapshot) = match &report.outcome {
        Outcome::Sealed(sealed) => (Ended::Sealed, None, Some(sealed.snapshot.clone())),
        Outcome::Failed(why) => (Ended::Failed, Some(why.clone()), None),
        Outcome::Cancelled(why) => (Ended::Cancelled, Some(why.clone()), None),
    };
    RunRow {
        run: report.run,
        plan: report.plan.clone(),
        target: report.target.clone(),
        vault: report.vault.clone(),
        cause: Some(report.cause.clone()),
        occurrence: report.occurrence,
        due: Some(report.due),
        begun: report.begun,
        point: report.point,
        ended: report.ended,
        attempt: report.attempt,
        place: report.place,
        outcome,
        reason,
        snapshot,
    }
}

fn entry(slot: Slot) -> CalendarEntry {
    let (mark, run, why) = match slot.mark {
        Mark::Sealed(run) => (CalendarMark::Sealed, Some(run), None),
        Mark::Failed(run, why) => (CalendarMark::Failed, Some(run), Some(why)),
        Mark::Cancelled(run, why) => (CalendarMark::Cancelled, Some(run), Some(why)),
        Mark::Open(run) => (CalendarMark::Open, Some(run), None),
        Mark::Passed(_, _, why) => (CalendarMark::Passed, None, Some(why)),
        Mark::Planned => (CalendarMark::Planned, None, None),
    };
    CalendarEntry {
        at: text(slot.at),
        plan: slot.plan.0,
        target: slot.target.0,
        mark,
        run: run.map(|run| run.0),
        why,
    }
}
