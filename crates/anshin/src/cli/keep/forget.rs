//! `anshin forget`: marks snapshots, which garbage collection removes after the vault's delay.

use super::{
    args::{Forget, KeepRules},
    pick::{self, Seen, Told},
    show, vault,
};
use crate::cli::out::{Ending, Out};
use anshin_base::Problem;
use anshin_director::{
    SnapshotId, UnixMillis,
    catalog::Label,
    plan::Keep,
    retention::{Candidate, Preview, Standing, decide},
};
use anshin_node::{
    keep::{Access, Task, members},
    paths::Paths,
};
use anshin_vault::SnapshotId as VaultSnapshotId;
use serde::Serialize;
use std::collections::BTreeMap;

/// Snapshots were forgotten, or would be.
#[derive(Debug, Default, Serialize)]
pub struct ForgetDone {
    /// Nothing was done.
    pub dry_run: bool,
    /// They were taken back instead.
    pub undo: bool,
    /// Each thing that is backed up, with what becomes of its snapshots.
    pub groups: Vec<Group>,
    /// Those that are (or were) marked.
    pub forgotten: Vec<String>,
}

/// The snapshots of one thing.
#[derive(Debug, Default, Serialize)]
pub struct Group {
    /// The machine.
    pub host: String,
    /// What was read.
    pub what: String,
    /// In one line.
    pub summary: String,
    /// Newest first.
    pub verdicts: Vec<Verdict>,
}

/// What becomes of a snapshot.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// Which.
    pub snapshot: String,
    /// When it was sealed, in seconds of Unix time.
    pub sealed: i64,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reasons: Vec<String>,
}

/// Carries out `anshin forget`.
///
/// # Errors
/// What failed.
pub fn carry_out(asked: &Forget, out: &Out) -> Result<Ending, Problem> {
    let keep = rules(&asked.keep);
    let by_rules = !keep.keeps_nothing() || !keep.tags.is_empty();
    if by_rules != asked.snapshots.is_empty() {
        return Err(Problem::new(
            "forget-what",
            "either snapshots are named or rules that say which are kept",
        )
        .hint(
            "anshin forget SNAPSHOT…, or for example anshin forget --keep-daily 7 --keep-weekly 4 --dry-run",
        ));
    }
    let pick::Look { access, mut all, .. } = pick::look(&asked.which)?;
    let mut done = ForgetDone { dry_run: asked.dry_run, undo: asked.undo, ..ForgetDone::default() };
    if by_rules {
        all.retain(|told| told.clear.forgotten.is_none());
        all.retain(|told| asked.host.as_ref().is_none_or(|host| told.host() == host));
        done.groups = judge(&all, &keep)?;
        let removed = done.groups.iter().flat_map(|group| &group.verdicts).filter(|verdict| !verdict.keep);
        done.forgotten = removed.map(|verdict| verdict.snapshot.clone()).collect();
    } else {
        for text in &asked.snapshots {
            let id = match pick::named(all.clone(), text) {
                Ok(told) => told.clear.id,
                // One that cannot be read is in no list, and is given up by its whole id, as a verification names it.
                Err(_) if !asked.undo && VaultSnapshotId::parse(text).is_some() => text.clone(),
                Err(problem) => return Err(problem),
            };
            done.forgotten.push(id);
        }
    }
    if !asked.dry_run {
        // First, or a plan is faster.
        if access.served() && !by_rules {
            let of_runs = all.iter().filter(|told| told.clear.run.parse::<Label>().is_ok());
            let named = of_runs.filter(|told| done.forgotten.contains(&told.clear.id));
            let snapshots = named.map(|told| SnapshotId(told.clear.id.clone()));
            let told =
                members::by_hand(&Paths::of_environment(), &access.called().into(), snapshots, asked.undo);
            // A hold that stays on what is given up does no harm.
            told.or_else(|problem| if asked.undo { Err(problem) } else { Ok(()) })?;
        }
        mark(&access, done.forgotten.clone(), asked.undo)?;
    }
    out.show(&done, |style| show::forget_done(style, &done))?;
    Ok(Ending::Ok)
}

fn mark(access: &Access, snapshots: Vec<String>, undo: bool) -> Result<(), Problem> {
    let task = if undo { Task::Remember { snapshots } } else { Task::Forget { snapshots, for_good: false } };
    match access.administer(&task)? {
        anshin_node::keep::Answer::Done => Ok(()),
        _ => Err(vault::odd_answer()),
    }
}

fn rules(asked: &KeepRules) -> Keep {
    Keep {
        last: asked.keep_last,
        hourly: asked.keep_hourly,
        daily: asked.keep_daily,
        weekly: asked.keep_weekly,
        monthly: asked.keep_monthly,
        yearly: asked.keep_yearly,
        within: asked.keep_within,
        tags: asked.keep_tag.clone(),
    }
}

/// Applies the rules to the snapshots of each thing by itself: one that is rarely backed up is not pushed out by another.
fn judge(all: &[Told], keep: &Keep) -> Result<Vec<Group>, Problem> {
    let mut things: BTreeMap<(String, String, String), Vec<&Told>> = BTreeMap::new();
    // The log goes with the snapshots that it completes.
    for told in all.iter().filter(|told| !pick::is_log(told)) {
        // A run's text names its target behind the last colon; what is made by hand has none.
        let target = told.clear.run.split_once(':').map_or("", |(_, target)| target);
        let what = if target.is_empty() { told.what() } else { target.to_owned() };
        let host = if target.is_empty() { told.host().to_owned() } else { String::new() };
        things.entry((host, told.clear.plan.clone(), what)).or_default().push(told);
    }
    let zone = jiff::tz::TimeZone::system();
    let now = UnixMillis::from(jiff::Timestamp::now());
    let mut groups = Vec::new();
    for ((host, plan, what), mut told) in things {
        told.sort_by_key(|told| (told.clear.sealed, told.clear.time));
        let mut candidates: Vec<Candidate> = told.iter().map(|told| candidate(told, &plan, &what)).collect();
        // A vault's clock has seconds: of those sealed within one, the newest is the one that was read last.
        for at in 1..candidates.len() {
            if candidates[at].sealed <= candidates[at - 1].sealed {
                candidates[at].sealed = UnixMillis(candidates[at - 1].sealed.0 + 1);
            }
        }
        let preview = Preview { verdicts: decide(&candidates, keep, true, &zone, now) };
        let verdicts = preview.verdicts.iter().map(|verdict| Verdict {
            snapshot: verdict.snapshot.0.clone(),
            sealed: verdict.sealed.0 / 1_000,
            keep: verdict.keep,
            reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
        });
        groups.push(Group { host, what, summary: preview.summary(), verdicts: verdicts.collect() });
    }
    Ok(groups)
}

fn candidate(told: &Told, plan: &str, what: &str) -> Candidate {
    let standing = match &told.description {
        Seen::Described(_) | Seen::Locked => Standing::Good,
        Seen::Damaged => Standing::Damaged("it is not what was sealed".to_owned()),
    };
    Candidate {
        snapshot: SnapshotId(told.clear.id.clone()),
        plan: plan.into(),
        target: what.into(),
        sealed: UnixMillis(
            i64::try_from(told.clear.sealed).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000),
        ),
        tags: told.described().map(|described| described.tags.clone()).unwrap_or_default(),
        own_bytes: None,
        standing,
        held: None,
    }
}
