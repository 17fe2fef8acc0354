//! `anshin runs`.

use super::{args::Runs, show};
use crate::cli::{
    client::Client,
    out::{Ending, Out},
};
use anshin_base::Problem;
use anshin_node::view::{CalendarEntry, EndedRunView, RunCancel, RunList, RunOutcome, RunShow};
use std::time::Duration;

/// How often what is watched is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Carries out `anshin runs …`.
///
/// # Errors
/// What the node refused.
pub async fn runs(command: Runs, client: &Client, out: &Out) -> Result<Ending, Problem> {
    match command {
        Runs::List => {
            let list: RunList = client.get("runs").await?;
            out.show(&list, |style| show::runs(style, &list))?;
            Ok(Ending::Ok)
        }
        Runs::Show { id } => {
            let run: RunShow = client.get(&format!("runs/{id}")).await?;
            out.show(&run, |style| show::run(style, &run))?;
            Ok(ending(&run))
        }
        Runs::Watch { id: Some(id) } => follow(&[id], client, out).await,
        Runs::Watch { id: None } => loop {
            match client.get::<RunList>("runs").await {
                Ok(list) => out.refresh(&list, |style| show::runs(style, &list))?,
                Err(problem) => out.refresh(&problem, |_| format!("error: {problem}"))?,
            }
            tokio::time::sleep(WATCH_EVERY).await;
        },
        Runs::Cancel { id, reason } => {
            let ended: EndedRunView =
                client.post(&format!("runs/{id}/cancel"), &RunCancel { reason }).await?;
            out.show(&ended, |_| format!("run {id} is cancelled; its snapshots before stay"))?;
            Ok(Ending::Ok)
        }
        Runs::Retry { id } => {
            let run: RunShow = client.post(&format!("runs/{id}/hasten"), &serde_json::json!({})).await?;
            out.show(&run, |style| show::run(style, &run))?;
            Ok(Ending::Ok)
        }
        Runs::Calendar => {
            let entries: Vec<CalendarEntry> = client.get("calendar").await?;
            out.show(&entries, |style| show::calendar(style, &entries))?;
            Ok(Ending::Ok)
        }
    }
}

/// Shows runs until all have ended.
///
/// # Errors
/// If the node cannot be asked for longer than a restart of its daemon takes.
pub async fn follow(ids: &[u64], client: &Client, out: &Out) -> Result<Ending, Problem> {
    let mut silent = 0u32;
    loop {
        match all(ids, client).await {
            Ok(runs) => {
                silent = 0;
                let ended = runs.iter().all(|run| matches!(run, RunShow::Ended(_)));
                if ended {
                    out.show(&runs, |style| show::each(style, &runs))?;
                    return Ok(runs.iter().map(ending).find(|end| *end != Ending::Ok).unwrap_or(Ending::Ok));
                }
                out.refresh(&runs, |style| show::each(style, &runs))?;
            }
            // The daemon may be on its way back; the run goes on elsewhere or waits for it.
            Err(problem) if problem.code == "node-unreachable" && silent < 60 => silent += 1,
            Err(problem) => return Err(problem),
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

async fn all(ids: &[u64], client: &Client) -> Result<Vec<RunShow>, Problem> {
    let mut runs = Vec::new();
    for id in ids {
        runs.push(client.get(&format!("runs/{id}")).await?);
    }
    Ok(runs)
}

fn ending(run: &RunShow) -> Ending {
    match run {
        RunShow::Ended(run) if run.outcome != RunOutcome::Sealed => Ending::Degraded,
        RunShow::Ended(_) | RunShow::Open(_) => Ending::Ok,
    }
}
