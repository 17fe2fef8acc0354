//! The daemon: supervises the node's processes, runs what the leader asks for, leads if its voter leads, and answers the
//! public interface. It may be restarted at any time: what it starts outlives it.

mod core;
mod director;
mod drill;
mod explain;
mod facts;
mod files;
#[cfg(test)]
mod fixture;
mod leader;
mod local;
mod messages;
mod model;
mod parts;
mod passage;
mod protect;
mod site;
mod timing;
mod transition;
mod volumes;
mod voter_link;
mod world;

pub use site::{Propose, Site};

use crate::{
    paths::Paths,
    setup::{JoinServer, NodeFile},
};
use anshin_agent::Runner;
use anshin_base::{Mono, Problem};
use anshin_link::{Authority, Credentials};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{broadcast, mpsc, watch};
use voter_link::{VoterEvent, VoterLink};
use world::{OwnNames, World};

/// How often a server that is no node yet looks whether it has become one.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Happenings that a slow reader may lag behind.
const HAPPENINGS_MAX: usize = 256;

/// How the daemon runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directories.
    pub paths: Paths,
    /// The program, for processes it starts.
    pub executable: PathBuf,
}

/// Waits until this server is a node, starts the daemon's tasks and returns its public interface.
///
/// # Errors
/// What keeps it from starting.
pub async fn start(options: Options) -> Result<Arc<Site>, Problem> {
    let paths = options.paths;
    paths
        .create()
        .map_err(|error| Problem::new("directories", format!("{}: {error}", paths.run.display())))?;
    let node = wait_for_node(&paths).await?;
    tracing::info!(site = node.site, node = node.node, version = crate::VERSION, "the daemon starts");

    let mut runner_options = anshin_agent::Options::new(&node.node, &options.executable);
    runner_options.run_dir.clone_from(&paths.run);
    runner_options.guard_socket = paths.guard_socket();
    let runner = Runner::new(runner_options)?;

    let (voter_events, voter_queue) = mpsc::channel(core::EVENTS_MAX);
    let (events, queue) = mpsc::channel(core::EVENTS_MAX);
    let voter = VoterLink::start(paths.voter_socket(), voter_events);
    forward(voter_queue, events.clone());
    let own = OwnNames { site: node.site.clone(), node: node.node.clone() };
    let (world, newest) = watch::channel(Arc::new(World { me: node.id, own, ..World::default() }));
    let (happenings, _) = broadcast::channel(HAPPENINGS_MAX);
    let executable = options.executable.clone();
    let core = core::Core::new(core::Setup {
        me: node.id,
        voter_id: node.voter,
        name: node.node.clone(),
        paths: paths.clone(),
        executable: options.executable.clone(),
        runner: runner.clone(),
        voter: voter.clone(),
        keeper: Arc::new(director::Processes::new(paths.clone())),
        events: events.clone(),
        world,
        happenings: happenings.clone(),
    })?;
    tokio::spawn(core.run(queue));
    tokio::spawn(crate::keep::tending::tend(paths.clone(), options.executable, paths.run.clone()));

    let propose: Propose = Arc::new(move |command| {
        let voter = voter.clone();
        Box::pin(async move { voter.propose(command).await })
    });
    let join = join_server(&paths, &node, propose.clone(), newest.clone())?;
    // Without the site's keys the trees in a vault cannot be read, and no restore begins here.
    let catalog = match node.data {
        true => Some(director::Catalogue::start(paths.clone(), newest.clone(), propose.clone())?),
        false => None,
    };
    let started = std::time::Instant::now();
    let restores = director::RestoreBook::default();
    let site = Site {
        world: newest,
        propose,
        join,
        runner,
        happenings,
        catalog,
        paths,
        executable,
        started,
        core: events,
        restores,
    };
    tokio::spawn(site.clone().finish_restores());
    Ok(Arc::new(site))
}

async fn wait_for_node(paths: &Paths) -> Result<NodeFile, Problem> {
    let mut said = false;
    loop {
        if let Some(node) = NodeFile::load(paths)? {
            return Ok(node);
        }
        if !said {
            tracing::info!("this server is no node of a site yet: run `anshin init` or `anshin join`");
            said = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn forward(mut from: mpsc::Receiver<VoterEvent>, to: mpsc::Sender<core::Event>) {
    tokio::spawn(async move {
        while let Some(event) = from.recv().await {
            if to.send(core::Event::Voter(event)).await.is_err() {
                return;
            }
        }
    });
}

/// Only nodes that hold the authority's key let others join.
fn join_server(
    paths: &Paths,
    node: &NodeFile,
    propose: Propose,
    world: watch::Receiver<Arc<World>>,
) -> Result<Option<JoinServer>, Problem> {
    let Some(authority) = Authority::load(&paths.identity())? else { return Ok(None) };
    let credentials = Credentials::load(&paths.identity())?;
    let state = Arc::new(move || world.borrow().state.clone());
    let keys = crate::keep::Keyring::open(paths, None)?.site()?.map(|domain| domain.keys);
    let server = JoinServer::new(credentials, Arc::new(authority), propose, state).with_backup_keys(keys);
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), node.join_port);
    let listening = server.clone();
    tokio::spawn(async move {
        if let Err(problem) = listening.run(address).await {
            tracing::error!(%problem, "nodes cannot join here");
        }
    });
    Ok(Some(server))
}

/// The clock that decisions about silence use: it keeps counting while the machine sleeps.
fn clock() -> Mono {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    Mono(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}
