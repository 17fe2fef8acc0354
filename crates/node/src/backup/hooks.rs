//! Commands before and after.

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
/// The first failure that fails the attempt; later commands are not run then.
pub fn run(hooks: &[Hook], work: &Work, result: Outcome, stop: Option<&Stop>) -> Result<u64, Problem> {
    let mut warnings = 0;
    for hook in hooks.iter().filter(|hook| due(hook.when, result)) {
        match run_one(hook, work, result, stop) {
            Ok(()) => {}
            Err(problem) if hook.on_failure == OnFailure::Warn => {
                tracing::warn!(%problem, "a command of the plan failed; the attempt goes on");
                warnings += 1;
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(warnings)
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
