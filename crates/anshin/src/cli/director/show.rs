//! How plans and runs are shown.

use crate::cli::{out::Style, status::clock};
use anshin_base::ByteSize;
use anshin_node::view::{
    CalendarEntry, CalendarMark, EndedRunView, PlanView, RetentionView, RunList, RunOutcome, RunShow,
    RunStand, RunView, age,
};

/// Plans.
pub fn plans(style: Style, plans: &[PlanView]) -> String {
    if plans.is_empty() {
        return "there is no plan; add one with: anshin plan add nightly --when 23:00 --keep daily=14"
            .to_owned();
    }
    let rows = plans.iter().map(|plan| {
        vec![plan.name.clone(), when(plan), plan.vault.clone(), plan.targets.join(", "), next(plan)]
    });
    style.table(&["PLAN", "WHEN", "VAULT", "WHAT", "NEXT"], rows.collect())
}

fn when(plan: &PlanView) -> String {
    match (plan.enabled, plan.when.is_empty()) {
        (false, _) => "disabled".to_owned(),
        (true, true) => "by hand".to_owned(),
        (true, false) => plan.when.join("; "),
    }
}

fn next(plan: &PlanView) -> String {
    match (&plan.trouble, &plan.next) {
        (Some(trouble), _) => trouble.clone(),
        (None, Some(next)) => clock(next),
        (None, None) => "-".to_owned(),
    }
}

/// One plan.
pub fn plan(style: Style, plan: &PlanView) -> String {
    let what =
        if plan.targets.is_empty() { "nothing that exists now".to_owned() } else { plan.targets.join(", ") };
    let mut lines = vec![format!("plan {}, revision {}", plan.name, plan.revision)];
    lines.extend((!plan.description.is_empty()).then(|| plan.description.clone()));
    lines.push(style.wrap(&format!("backs up: {what}"), 10));
    lines.push(format!("when:     {} ({})", when(plan), plan.zone));
    lines.push(format!("next:     {}", next(plan)));
    lines.push(format!("vault:    {}", plan.vault));
    format!("{}\n\n{}", lines.join("\n"), plan.toml)
}

/// Open runs and those that ended last.
pub fn runs(style: Style, list: &RunList) -> String {
    if list.open.is_empty() && list.ended.is_empty() {
        return "nothing was run yet; run a plan with: anshin plan run NAME".to_owned();
    }
    let open = list.open.iter().map(|run| {
        let (state, detail) = (stand(run).to_owned(), detail(run));
        row(run.id, &run.plan, &run.target, state, detail)
    });
    let ended = list
        .ended
        .iter()
        .map(|run| row(run.id, &run.plan, &run.target, outcome(run.outcome).to_owned(), result(run)));
    style.table(&["RUN", "PLAN", "WHAT", "STATE", ""], open.chain(ended).collect())
}

fn row(id: u64, plan: &str, target: &str, state: String, detail: String) -> Vec<String> {
    vec![id.to_string(), plan.to_owned(), target.to_owned(), state, detail]
}

fn stand(run: &RunView) -> &'static str {
    match run.stand {
        RunStand::Planned => "planned",
        RunStand::Waiting => "waiting",
        RunStand::Running => "running",
    }
}

fn outcome(outcome: RunOutcome) -> &'static str {
    match outcome {
        RunOutcome::Sealed => "done",
        RunOutcome::Failed => "failed",
        RunOutcome::Cancelled => "cancelled",
    }
}

fn detail(run: &RunView) -> String {
    match run.stand {
        RunStand::Planned => format!("due {}", clock(&run.due)),
        RunStand::Waiting => run.why.clone().unwrap_or_else(|| format!("since {}", clock(&run.due))),
        RunStand::Running => progress(run),
    }
}

fn progress(run: &RunView) -> String {
    let mut parts = vec![format!("on {}", run.on.as_deref().unwrap_or("nobody"))];
    parts.extend(run.done_percent.map(|percent| format!("{percent} %")));
    parts.push(format!("{}, {} new", ByteSize(run.bytes), ByteSize(run.sent_bytes)));
    parts.extend((run.bytes_per_s > 0).then(|| format!("{}/s", ByteSize(run.bytes_per_s))));
    parts.extend(run.seconds_left.map(|left| format!("{} left", age(left.saturating_mul(1_000)))));
    parts.extend(run.why.clone());
    parts.join(", ")
}

fn result(run: &EndedRunView) -> String {
    match (&run.reason, &run.snapshot) {
        (Some(reason), _) => reason.clone(),
        (None, Some(snapshot)) => format!(
            "{}, {} in {} files, {} new; snapshot {snapshot}",
            clock(&run.ended),
            ByteSize(run.bytes),
            run.files,
            ByteSize(run.new_bytes)
        ),
        (None, None) => clock(&run.ended),
    }
}

/// One run.
pub fn run(style: Style, run: &RunShow) -> String {
    match run {
        RunShow::Open(run) => {
            let head =
                format!("run {} of plan {}: {}, attempt {}", run.id, run.plan, run.target, run.attempt);
            let mut lines = vec![head, format!("state: {}, {}", stand(run), detail(run))];
            lines.extend(run.overdue.then(|| format!("it was to begin {}", clock(&run.due))));
            lines.extend(run.trouble.as_ref().map(|why| format!("the attempt before: {why}")));
            lines.iter().map(|line| style.wrap(line, 2)).collect::<Vec<_>>().join("\n")
        }
        RunShow::Ended(run) => {
            let head =
                format!("run {} of plan {}: {}, attempt {}", run.id, run.plan, run.target, run.attempt);
            let mut lines = vec![head, format!("{}: {}", outcome(run.outcome), result(run))];
            lines.extend(run.on.as_ref().map(|on| format!("made on {on}")));
            lines.extend(run.point.as_ref().map(|point| format!("content of {} or later", clock(point))));
            let warnings = format!("{} files could not be read or changed while read", run.warnings);
            lines.extend((run.warnings > 0).then_some(warnings));
            lines.iter().map(|line| style.wrap(line, 2)).collect::<Vec<_>>().join("\n")
        }
    }
}

/// Several runs.
pub fn each(style: Style, runs: &[RunShow]) -> String {
    runs.iter().map(|one| run(style, one)).collect::<Vec<_>>().join("\n\n")
}

/// The calendar.
pub fn calendar(style: Style, entries: &[CalendarEntry]) -> String {
    if entries.is_empty() {
        return "nothing was run in the last days, and nothing is planned for the next ones".to_owned();
    }
    let rows = entries.iter().map(|entry| {
        let word = match entry.mark {
            CalendarMark::Sealed => "done",
            CalendarMark::Failed => "failed",
            CalendarMark::Cancelled => "cancelled",
            CalendarMark::Open => "open",
            CalendarMark::Passed => "no run",
            CalendarMark::Planned => "planned",
        };
        let run = entry.run.map_or_else(|| "-".to_owned(), |run| run.to_string());
        let why = entry.why.clone().unwrap_or_default();
        vec![clock(&entry.at), entry.plan.clone(), entry.target.clone(), word.to_owned(), run, why]
    });
    style.table(&["WHEN", "PLAN", "WHAT", "STATE", "RUN", ""], rows.collect())
}

/// What the rules keep.
pub fn retention(targets: &[RetentionView]) -> String {
    if targets.is_empty() {
        return "there is no snapshot of this plan yet".to_owned();
    }
    let one = |target: &RetentionView| {
        let lines = target.snapshots.iter().map(|snapshot| {
            let word = if snapshot.keep { "keep  " } else { "remove" };
            format!(
                "{word} {} {}  {}",
                snapshot.snapshot,
                clock(&snapshot.sealed),
                snapshot.reasons.join("; ")
            )
        });
        let head = format!("{} in vault {}: {}", target.target, target.vault, target.summary);
        std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
    };
    targets.iter().map(one).collect::<Vec<_>>().join("\n\n")
}
