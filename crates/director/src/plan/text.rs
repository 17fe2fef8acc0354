//! Plans as TOML and JSON.

use super::Plan;
use anshin_base::Problem;
use serde::{Deserialize, Serialize};

/// Longest text of a plan, in bytes.
pub const PLAN_BYTES_MAX: usize = 256 << 10;

/// A file with several plans: `[[plan]]` tables.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    plan: Vec<Plan>,
}

impl Plan {
    /// Reads one plan from JSON.
    ///
    /// # Errors
    /// `plan-format` with place and reason.
    pub fn from_json(text: &str) -> Result<Self, Problem> {
        bounded(text)?;
        serde_json::from_str(text).map_err(|error| format_problem(&error.to_string()))
    }

    /// The plan as compact JSON: what the ledger stores.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("invariant: a plan has only string keys")
    }

    /// Reads plans from TOML: either one plan, or several as `[[plan]]`.
    ///
    /// # Errors
    /// `plan-format` with line and reason.
    pub fn from_toml(text: &str) -> Result<Vec<Self>, Problem> {
        bounded(text)?;
        let several = text.lines().any(|line| line.trim_start().starts_with("[[plan]]"));
        let plans = if several {
            toml::from_str::<PlanFile>(text).map(|file| file.plan)
        } else {
            toml::from_str::<Self>(text).map(|plan| vec![plan])
        };
        plans.map_err(|error| {
            let line = error.span().map(|span| {
                text.as_bytes()[..span.start.min(text.len())].iter().filter(|&&b| b == b'\n').count() + 1
            });
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            format_problem(&format!("{place}{}", error.message().lines().collect::<Vec<_>>().join("; ")))
        })
    }

    /// The plan as TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("invariant: a plan is a table of plain values")
    }
}

fn bounded(text: &str) -> Result<(), Problem> {
    if text.len() > PLAN_BYTES_MAX {
        return Err(format_problem(&format!("longer than {PLAN_BYTES_MAX} bytes")));
    }
    Ok(())
}

fn format_problem(why: &str) -> Problem {
    Problem::new("plan-format", format!("this is not a plan: {why}"))
        .hint("`anshin plan show nightly --toml` prints a plan that can be edited")
}
