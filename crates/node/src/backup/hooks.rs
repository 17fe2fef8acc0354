//! Commands of a plan before and after its attempts.

use super::{child::Group, stop::Stop};
use anshin_base::Problem;
use anshin_director::{
    plan::{Hook, HookWhen, OnFailure},
    run::Work,
};
use std::{
    process::{Command, Stdio},
    time::Duration,
};

/// How the attempt stands, as a command is told in `ANSHIN_RESULT`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It begins.
    Begin,
    /// Everything is in the vault.
    Good,
    /// It failed.
    Failed,
}

/// Runs those that are due; gives the number of failures that only warn.
///
/// # Errors
/// The first failure that fails the attempt. Later commands are not run then, but those after the attempt are: they set right
/// what the ones before it changed.
pub fn run(hooks: &[Hook], work: &Work, result: Outcome, stop: Option<&Stop>) -> Result<u64, Problem> {
    let (mut warnings, mut failed) = (0, None);
    for hook in hooks.iter().filter(|hook| due(hook.when, result)) {
        match run_one(hook, work, result, stop) {
            Ok(()) => {}
            Err(problem) if hook.on_failure == OnFailure::Warn => {
                tracing::warn!(%problem, "a command of the plan failed; the attempt goes on");
                warnings += 1;
            }
            Err(problem) if result == Outcome::Begin => return Err(problem),
            Err(problem) => {
                tracing::warn!(%problem, "a command after the attempt failed; the others are run all the same");
                failed.get_or_insert(problem);
            }
        }
    }
    failed.map_or(Ok(warnings), Err)
}

/// How long the commands after a failed attempt may take together: for so long it is waited for an attempt that ends.
#[must_use]
pub fn after_failure(work: &Work) -> Duration {
    let due = work.after.iter().filter(|hook| due(hook.when, Outcome::Failed));
    Duration::from_secs(due.map(|hook| hook.timeout.0).sum())
}

fn due(when: HookWhen, result: Outcome) -> bool {
    match (result, when) {
        (Outcome::Begin, _) | (_, HookWhen::Always) => true,
        (Outcome::Good, when) => when == HookWhen::Success,
        (Outcome::Failed, when) => when == HookWhen::Failure,
    }
}

fn run_one(hook: &Hook, work: &Work, result: Outcome, stop: Option<&Stop>) -> Result<(), Problem> {
    let Some((program, arguments)) = hook.run.split_first() else { return Ok(()) };
    let what = format!("the command {program:?} of plan {}", work.plan);
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("ANSHIN_PLAN", work.plan.to_string()).env("ANSHIN_TARGET", work.target.to_string());
    command.env("ANSHIN_RUN", work.run.to_string()).env("ANSHIN_ATTEMPT", work.attempt.to_string());
    command.env(
        "ANSHIN_RESULT",
        match result {
            Outcome::Begin => "begin",
            Outcome::Good => "good",
            Outcome::Failed => "failed",
        },
    );
    Group::start(command, &what)?.succeed(Some(Duration::from_secs(hook.timeout.0)), stop)
}
