//! From options to a plan.

use super::args::Fields;
use anshin_base::{ByteSize, Problem};
use anshin_director::{
    PlanName, Span, VaultName,
    plan::{Keep, Limits, Missed, Overlap, PRIORITY_DEFAULT, Plan, Retry, Source, VolumeForm},
};

/// A new plan. `vault` is where to if the options do not say it.
///
/// # Errors
/// What makes no sense.
pub fn new(name: &str, fields: &Fields, vault: Option<String>) -> Result<Plan, Problem> {
    let vault = fields.vault.clone().or(vault).ok_or_else(|| {
        Problem::new("vault-unknown", "there is no vault, or more than one: say where to")
            .hint("--vault NAME; see `anshin status`")
    })?;
    let mut plan = Plan {
        name: PlanName::checked(name)?,
        description: String::new(),
        enabled: true,
        what: vec![Source::Protected { except: Vec::new() }],
        when: Vec::new(),
        zone: zone(),
        spread: Span(0),
        missed: Missed::default(),
        overlap: Overlap::default(),
        vault: VaultName::from(vault.as_str()),
        keep: Keep { last: 3, daily: 7, weekly: 5, monthly: 12, ..Keep::default() },
        before: Vec::new(),
        after: Vec::new(),
        retry: Retry::default(),
        limits: Limits::default(),
        priority: PRIORITY_DEFAULT,
        expect: None,
        drill: None,
        tags: Vec::new(),
    };
    change(&mut plan, fields)?;
    Ok(plan)
}

/// Changes what the options name; a list that is given replaces the one before.
///
/// # Errors
/// What makes no sense.
pub fn change(plan: &mut Plan, fields: &Fields) -> Result<(), Problem> {
    if !fields.what.is_empty() {
        plan.what = fields.what.iter().map(|text| source(text)).collect::<Result<_, _>>()?;
    }
    if !fields.when.is_empty() {
        plan.when.clone_from(&fields.when);
    }
    if !fields.keep.is_empty() {
        plan.keep = keep(&fields.keep)?;
    }
    if let Some(zone) = &fields.zone {
        plan.zone.clone_from(zone);
    }
    if let Some(vault) = &fields.vault {
        plan.vault = VaultName::checked(vault)?;
    }
    if let Some(description) = &fields.description {
        plan.description.clone_from(description);
    }
    if let Some(spread) = &fields.spread {
        plan.spread = spread.parse()?;
    }
    if let Some(missed) = &fields.missed {
        plan.missed = missed_rule(missed)?;
    }
    if let Some(run_time) = &fields.run_time {
        plan.limits.run_time = Some(run_time.parse()?);
    }
    if let Some(bandwidth) = &fields.bandwidth {
        plan.limits.bandwidth = bandwidth.parse::<ByteSize>()?;
    }
    if let Some(attempts) = fields.attempts {
        plan.retry.attempts = attempts;
    }
    if let Some(priority) = fields.priority {
        plan.priority = priority;
    }
    Ok(())
}

/// This machine's time zone by name; UTC if it has none.
fn zone() -> String {
    jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned()
}

fn source(text: &str) -> Result<Source, Problem> {
    let bad = || {
        Problem::new("plan-format", format!("`{text}` does not say what is backed up"))
            .hint("protected, service/NAME, volume/NAME, volume-image/NAME, files/MACHINE:PATH,PATH, image/MACHINE:DEVICE")
    };
    if text == "protected" {
        return Ok(Source::Protected { except: Vec::new() });
    }
    let (kind, rest) = text.split_once('/').ok_or_else(bad)?;
    let on_machine =
        || rest.split_once(':').filter(|(machine, path)| !machine.is_empty() && !path.is_empty());
    Ok(match kind {
        "service" => Source::Service { service: rest.to_owned(), plugin: None },
        "volume" => Source::Volume { volume: rest.to_owned(), form: VolumeForm::Files, exclude: Vec::new() },
        "volume-image" => {
            Source::Volume { volume: rest.to_owned(), form: VolumeForm::Image, exclude: Vec::new() }
        }
        "files" => {
            let (on, paths) = on_machine().ok_or_else(bad)?;
            Source::Files {
                on: on.to_owned(),
                name: None,
                paths: paths.split(',').map(str::to_owned).collect(),
                exclude: Vec::new(),
                one_file_system: false,
            }
        }
        "image" => {
            let (on, device) = on_machine().ok_or_else(bad)?;
            Source::Image { on: on.to_owned(), device: device.to_owned() }
        }
        _ => return Err(bad()),
    })
}

fn keep(rules: &[String]) -> Result<Keep, Problem> {
    let mut keep = Keep::default();
    for rule in rules {
        let bad = || {
            Problem::new("plan-format", format!("`{rule}` does not say what is kept"))
                .hint("last=3, hourly=24, daily=14, weekly=5, monthly=12, yearly=3, within=30d")
        };
        let (name, value) = rule.split_once('=').ok_or_else(bad)?;
        if name == "within" {
            keep.within = Some(value.parse()?);
            continue;
        }
        let count: u32 = value.parse().map_err(|_| bad())?;
        match name {
            "last" => keep.last = count,
            "hourly" => keep.hourly = count,
            "daily" => keep.daily = count,
            "weekly" => keep.weekly = count,
            "monthly" => keep.monthly = count,
            "yearly" => keep.yearly = count,
            _ => return Err(bad()),
        }
    }
    Ok(keep)
}

fn missed_rule(text: &str) -> Result<Missed, Problem> {
    match text {
        "catch-up" => Ok(Missed::CatchUp),
        "report" => Ok(Missed::Report),
        "ignore" => Ok(Missed::Ignore),
        _ => Err(Problem::new("plan-format", format!("`{text}` does not say what becomes of missed runs"))
            .hint("catch-up, report or ignore")),
    }
}
