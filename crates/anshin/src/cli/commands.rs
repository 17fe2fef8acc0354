//! From a command line to requests, and from answers to what is printed.

use super::{
    args::{Command, Node, Policy, Service, Site, Token, Volume},
    client::{Client, part},
    director, keep,
    out::{Ending, Out},
    protect, show, status,
};
use crate::run;
use anshin_base::Problem;
use anshin_node::view::{
    DrillReport, DrillRequest, Explanation, InitRequest, JoinRequest, JoinToken, JoinTokenInfo,
    JoinTokenRequest, Level, NodeStateChange, NodeView, NodeWanted, ServiceMove, ServiceStateChange,
    ServiceView, ServiceWanted, SiteStatus, Times, TimingChange, VolumeCreate, VolumeView,
};
use std::{fs, time::Duration};

/// How often `status --watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Carries out one command.
///
/// # Errors
/// What the node, or the machine, refused or failed at.
pub fn carry_out(command: Command, out: &Out) -> Result<Ending, Problem> {
    match command {
        // The node's processes make the runtime that fits them.
        Command::Run(process) => run::process(&process).map(|()| Ending::Ok),
        Command::Init(asked) => {
            let done = run::init(InitRequest { site: asked.site, node: asked.node, address: asked.address })?;
            out.show(&done, |style| show::init_done(style, &done))?;
            Ok(Ending::Ok)
        }
        Command::Join(asked) => {
            let request = JoinRequest {
                token: asked.token,
                roles: asked.roles,
                node: asked.node,
                address: asked.address,
            };
            let done = run::join(request)?;
            out.show(&done, |_| {
                let next = done
                    .token
                    .as_ref()
                    .map(|token| format!("\n\non the next server:\n  anshin join {}", token.token));
                format!(
                    "node {} joined site {}; see `anshin status`{}",
                    done.node,
                    done.site,
                    next.unwrap_or_default()
                )
            })?;
            Ok(Ending::Ok)
        }
        Command::Version => {
            let version = anshin_node::VERSION;
            out.show(&serde_json::json!({ "version": version }), |_| format!("anshin {version}"))?;
            Ok(Ending::Ok)
        }
        Command::Policy(Policy::Simulate { file, time }) => {
            let unreadable =
                |error| Problem::new("file", format!("{} cannot be read: {error}", file.display()));
            let xml = fs::read_to_string(&file).map_err(unreadable)?;
            let text = anshin_policy::simulate(&xml, time.as_deref())?;
            out.show(&serde_json::json!({ "text": text }), |_| text.clone())?;
            Ok(Ending::Ok)
        }
        Command::Vault(command) => keep::vault(command, out),
        Command::Backup(asked) => keep::backup(&asked, out),
        Command::Snapshots(command) => keep::snapshots(command, out),
        Command::Restore(asked) if director::service_of_restore(&asked).is_none() => {
            keep::restore(&asked, out)
        }
        Command::Forget(asked) => keep::forget(&asked, out),
        Command::Client(command) => keep::client(command, out),
        other => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Problem::new("runtime", format!("no runtime: {error}")))?;
            runtime.block_on(ask(other, &Client::new(), out))
        }
    }
}

/// The commands that are requests to the node.
async fn ask(command: Command, client: &Client, out: &Out) -> Result<Ending, Problem> {
    match command {
        Command::Status { watch: true } => watch(client, out).await,
        Command::Status { watch: false } => {
            let status: SiteStatus = client.get("status").await?;
            out.show(&status, |style| status::status(style, &status))?;
            Ok(if status.posture.level == Level::Green { Ending::Ok } else { Ending::Degraded })
        }
        Command::Volume(command) => volume(command, client, out).await,
        Command::Protect(asked) => {
            let service: ServiceView = client.post("services", &protect::service(asked)?).await?;
            out.show(&service, |style| {
                format!("{}\nsee `anshin status --watch`", show::service(style, &service))
            })?;
            Ok(Ending::Ok)
        }
        Command::Service(command) => service(command, client, out).await,
        Command::Node(command) => node(command, client, out).await,
        Command::Site(command) => site(command, client, out).await,
        Command::Token(command) => token(command, client, out).await,
        Command::Plan(command) => director::plan(command, client, out).await,
        Command::Runs(command) => director::runs(command, client, out).await,
        Command::Catalog(command) => director::catalog(command, client, out).await,
        Command::Restore(asked) => director::restore(asked, client, out).await,
        Command::Explain { subject } => {
            let answer: Explanation = client.get(&format!("explain/{}", part(&subject))).await?;
            out.show(&answer, |style| show::explanation(style, &answer))?;
            Ok(Ending::Ok)
        }
        Command::Drill { service, failover } => {
            let report: DrillReport = client.post("drills", &DrillRequest { service, failover }).await?;
            out.show(&report, |style| show::drill(style, &report))?;
            Ok(if report.passed { Ending::Ok } else { Ending::Degraded })
        }
        Command::Init(_) | Command::Join(_) | Command::Policy(_) | Command::Version | Command::Run(_) => {
            unreachable!("carried out without the node")
        }
        Command::Vault(_)
        | Command::Backup(_)
        | Command::Snapshots(_)
        | Command::Forget(_)
        | Command::Client(_) => unreachable!("carried out without the node"),
    }
}

async fn watch(client: &Client, out: &Out) -> Result<Ending, Problem> {
    loop {
        match client.get::<SiteStatus>("status").await {
            Ok(status) => out.refresh(&status, |style| status::status(style, &status))?,
            // The daemon may be on its way back; what was shown before must not look like now.
            Err(problem) => out.refresh(&problem, |_| format!("error: {problem}"))?,
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

async fn volume(command: Volume, client: &Client, out: &Out) -> Result<Ending, Problem> {
    match command {
        Volume::Create { name, size, mount, filesystem, nodes } => {
            let request = VolumeCreate { name, size_bytes: size.0, nodes, mount, filesystem };
            let volume: VolumeView = client.post("volumes", &request).await?;
            out.show(&volume, |style| show::volumes(style, std::slice::from_ref(&volume)))?;
        }
        Volume::List => {
            let volumes: Vec<VolumeView> = client.get("volumes").await?;
            out.show(&volumes, |style| show::volumes(style, &volumes))?;
        }
        Volume::Show { name } => {
            let volumes: Vec<VolumeView> = client.get("volumes").await?;
            let found = volumes.into_iter().find(|volume| volume.name == name);
            let volume = found.ok_or_else(|| {
                Problem::new("volume-unknown", format!("there is no volume {name}"))
                    .hint("see `anshin volume list`")
            })?;
            out.show(&volume, |style| show::volume(style, &volume))?;
        }
    }
    Ok(Ending::Ok)
}

async fn service(command: Service, client: &Client, out: &Out) -> Result<Ending, Problem> {
    let service: ServiceView = match command {
        Service::List => {
            let services: Vec<ServiceView> = client.get("services").await?;
            out.show(&services, |style| show::services(style, &services))?;
            return Ok(Ending::Ok);
        }
        Service::Show { name } => client.get(&format!("services/{}", part(&name))).await?,
        Service::Move { name, to } => {
            client.post(&format!("services/{}/move", part(&name)), &ServiceMove { to }).await?
        }
        Service::Start { name } => set_service(client, &name, ServiceWanted::Running).await?,
        Service::Stop { name } => set_service(client, &name, ServiceWanted::Stopped).await?,
    };
    out.show(&service, |style| show::service(style, &service))?;
    Ok(Ending::Ok)
}

async fn set_service(client: &Client, name: &str, state: ServiceWanted) -> Result<ServiceView, Problem> {
    client.put(&format!("services/{}/state", part(name)), &ServiceStateChange { state }).await
}

async fn node(command: Node, client: &Client, out: &Out) -> Result<Ending, Problem> {
    let (name, state) = match command {
        Node::List => {
            let status: SiteStatus = client.get("status").await?;
            out.show(&status.facts.nodes, |style| status::nodes(style, &status.facts))?;
            return Ok(Ending::Ok);
        }
        Node::Standby { name } => (name, NodeWanted::Standby),
        Node::Maintenance { name } => (name, NodeWanted::Maintenance),
        Node::Active { name } => (name, NodeWanted::Active),
    };
    let node: NodeView =
        client.put(&format!("nodes/{}/state", part(&name)), &NodeStateChange { state }).await?;
    out.show(&node, |_| format!("node {} is {}", node.name, node.state.word()))?;
    Ok(Ending::Ok)
}

async fn site(command: Site, client: &Client, out: &Out) -> Result<Ending, Problem> {
    let Site::Timing { silence, lease, heartbeat } = command;
    let asked = TimingChange { silence_ms: silence, lease_ms: lease, heartbeat_ms: heartbeat };
    let changed = asked != TimingChange::default();
    let times: Times = match changed {
        true => client.put("site/timing", &asked).await?,
        false => client.get::<SiteStatus>("status").await?.facts.times,
    };
    out.show(&times, |style| show::times(style, &times, changed))?;
    Ok(Ending::Ok)
}

async fn token(command: Token, client: &Client, out: &Out) -> Result<Ending, Problem> {
    match command {
        Token::Create { valid } => {
            let token: JoinToken = client.post("tokens", &JoinTokenRequest { valid_s: valid }).await?;
            out.show(&token, |_| show::token(&token))?;
        }
        Token::List => {
            let tokens: Vec<JoinTokenInfo> = client.get("tokens").await?;
            out.show(&tokens, |style| show::tokens(style, &tokens))?;
        }
        Token::Revoke { id } => {
            client.delete(&format!("tokens/{}", part(&id))).await?;
            out.show(&serde_json::json!({ "revoked": id }), |_| format!("token {id} can no longer be used"))?;
        }
    }
    Ok(Ending::Ok)
}
