//! `anshin plan`.

use super::{
    args::{Add, Edit, Plan},
    describe,
    runs::follow,
    show,
};
use crate::cli::{
    client::{Client, part},
    out::{Ending, Out},
};
use anshin_base::Problem;
use anshin_director::plan::Plan as Description;
use anshin_node::view::{PlanRun, PlanSet, PlanView, RetentionView, RunsOpened, SiteStatus};
use std::{env, fs, io::Read, path::Path, process::Command};

/// Carries out `anshin plan …`.
///
/// # Errors
/// What the node refused, or what makes no sense.
pub async fn plan(command: Plan, client: &Client, out: &Out) -> Result<Ending, Problem> {
    match command {
        Plan::Add(asked) => add(&asked, client, out).await,
        Plan::List => {
            let plans: Vec<PlanView> = client.get("plans").await?;
            out.show(&plans, |style| show::plans(style, &plans))?;
            Ok(Ending::Ok)
        }
        Plan::Show { name, toml } => {
            let plan: PlanView = client.get(&path(&name)).await?;
            out.show(&plan, |style| if toml { plan.toml.clone() } else { show::plan(style, &plan) })?;
            Ok(Ending::Ok)
        }
        Plan::Edit(asked) => edit(&asked, client, out).await,
        Plan::Retention { name } => {
            let found: Vec<RetentionView> = client.get(&format!("{}/retention", path(&name))).await?;
            out.show(&found, |_| show::retention(&found))?;
            Ok(Ending::Ok)
        }
        Plan::Remove { name } => {
            client.delete(&path(&name)).await?;
            let text = format!("plan {name} is removed; what it has backed up stays");
            out.show(&serde_json::json!({ "removed": name }), |_| text)?;
            Ok(Ending::Ok)
        }
        Plan::Run { name, targets, wait } => {
            let opened: RunsOpened =
                client.post(&format!("{}/runs", path(&name)), &PlanRun { targets }).await?;
            if wait {
                return follow(&opened.runs, client, out).await;
            }
            out.show(&opened, |_| {
                let numbers: Vec<String> = opened.runs.iter().map(u64::to_string).collect();
                format!("run {} asked for; see `anshin runs watch`", numbers.join(", "))
            })?;
            Ok(Ending::Ok)
        }
    }
}

fn path(name: &str) -> String {
    format!("plans/{}", part(name))
}

async fn add(asked: &Add, client: &Client, out: &Out) -> Result<Ending, Problem> {
    let toml = match (&asked.file, &asked.name) {
        (Some(file), _) => {
            if !asked.fields.is_empty() {
                return Err(Problem::new(
                    "plan-format",
                    "a file says everything; leave the other options out",
                ));
            }
            read(file)?
        }
        (None, name) => {
            let status: SiteStatus = client.get("status").await?;
            let only = match &status.facts.backups.vaults[..] {
                [vault] => Some(vault.name.clone()),
                _ => None,
            };
            describe::new(name.as_deref().unwrap_or_default(), &asked.fields, only)?.to_toml()
        }
    };
    let plans: Vec<PlanView> = client.post("plans", &PlanSet { toml, revision: None }).await?;
    out.show(&plans, |style| show::plans(style, &plans))?;
    Ok(Ending::Ok)
}

async fn edit(asked: &Edit, client: &Client, out: &Out) -> Result<Ending, Problem> {
    let known: PlanView = client.get(&path(&asked.name)).await?;
    let toml = match &asked.file {
        Some(file) => read(file)?,
        None if asked.fields.is_empty() && !asked.enable && !asked.disable => edited(&known)?,
        None => {
            let mut plan = Description::from_toml(&known.toml)?
                .pop()
                .ok_or_else(|| Problem::new("plan-format", "the node answered without a plan"))?;
            describe::change(&mut plan, &asked.fields)?;
            plan.enabled = (plan.enabled || asked.enable) && !asked.disable;
            plan.to_toml()
        }
    };
    let request = PlanSet { toml, revision: Some(known.revision) };
    let plan: PlanView = client.put(&path(&asked.name), &request).await?;
    out.show(&plan, |style| show::plan(style, &plan))?;
    Ok(Ending::Ok)
}

fn read(file: &Path) -> Result<String, Problem> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    text.map_err(|error| Problem::new("file", format!("{} cannot be read: {error}", file.display())))
}

/// The plan as it comes back from the user's editor.
fn edited(plan: &PlanView) -> Result<String, Problem> {
    let failed = |what: &str, error: std::io::Error| Problem::new("editor", format!("{what}: {error}"));
    let editor = env::var_os("VISUAL").or_else(|| env::var_os("EDITOR")).unwrap_or_else(|| "vi".into());
    // A directory of its own that nobody else can look into or prepare.
    let directory = env::temp_dir().join(format!("anshin-plan-{}", std::process::id()));
    std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700)
        .create(&directory)
        .map_err(|error| failed("cannot make a directory for the file to edit", error))?;
    let file = directory.join(format!("{}.toml", plan.name));
    let result = (|| {
        fs::write(&file, &plan.toml).map_err(|error| failed("cannot write the file to edit", error))?;
        let ended = Command::new(&editor).arg(&file).status();
        let ended =
            ended.map_err(|error| failed(&format!("cannot start {}", editor.to_string_lossy()), error))?;
        if !ended.success() {
            return Err(Problem::new("editor", format!("{} ended with {ended}", editor.to_string_lossy())));
        }
        fs::read_to_string(&file).map_err(|error| failed("cannot read what was edited", error))
    })();
    let _ = fs::remove_dir_all(&directory);
    result
}
