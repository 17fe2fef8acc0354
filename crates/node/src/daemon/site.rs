//! The daemon's side of the public interface: every request becomes a look at the world or a command to the ledger.

use super::{
    core::Event,
    director::{Catalogue, RestoreBook},
    drill, explain,
    facts::facts,
    protect, timing,
    world::World,
};
use crate::{
    control::{Answer, Control},
    paths::Paths,
    setup::JoinServer,
    view::{
        DrillReport, DrillRequest, Explanation, Happening, JoinToken, JoinTokenInfo, JoinTokenRequest,
        NodeStateChange, NodeView, NodeWanted, ServiceCreate, ServiceMove, ServiceStateChange, ServiceView,
        ServiceWanted, SiteStatus, Times, TimingChange, VolumeCreate, VolumeView,
    },
};
use anshin_agent::Runner;
use anshin_base::{ByteSize, GroupId, NodeId, Problem};
use anshin_ledger::state::{Command, NodeState, Refused, Replica, ServiceTarget, Volume};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{broadcast, mpsc, watch};

pub use crate::setup::Propose;

/// A change that the ledger took is shown here as soon as the own ledger has applied it.
const APPLY_LIMIT: Duration = Duration::from_secs(5);
/// How long after its start a daemon may not know yet how the site stands; then it answers all the same.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// First port of the volumes' data links.
const DATA_PORT_FIRST: u16 = 7810;
/// Smallest volume: a file system and its journal fit.
const VOLUME_SIZE_MIN: u64 = 8 << 20;
/// The replication core counts in blocks of this size.
const BLOCK_SIZE: u64 = 4096;

/// This node's answers.
#[derive(Clone)]
pub struct Site {
    /// The newest knowledge of the daemon.
    pub world: watch::Receiver<Arc<World>>,
    /// The way into the ledger.
    pub propose: Propose,
    /// Makes tokens; None on a witness, which cannot let nodes in.
    pub join: Option<JoinServer>,
    /// Checks resources on this node.
    pub runner: Runner,
    /// What happens.
    pub happenings: broadcast::Sender<Happening>,
    /// The catalog; None on a node that has no key of the site's data.
    pub(super) catalog: Option<Arc<Catalogue>>,
    /// The node's directories.
    pub(super) paths: Paths,
    /// The program, for processes that answers need.
    pub(super) executable: PathBuf,
    /// When the daemon started.
    pub(super) started: Instant,
    /// The way to the daemon's owner of state.
    pub(super) core: mpsc::Sender<Event>,
    /// Restores of services on this node.
    pub(super) restores: RestoreBook,
}

impl Site {
    /// The newest world.
    pub(super) fn now(&self) -> Arc<World> {
        self.world.borrow().clone()
    }

    fn status_now(&self) -> SiteStatus {
        SiteStatus::from_facts(facts(&self.now(), jiff::Timestamp::now().to_string()))
    }

    /// Proposes, and waits until the own ledger shows it, so that the answer describes the state after the change.
    pub(super) async fn change(
        &self,
        command: Command,
        shows: impl Fn(&World) -> bool + Send,
    ) -> Result<Arc<World>, Problem> {
        (self.propose)(command).await?.map_err(|refused| refusal(&refused))?;
        self.wait_for(APPLY_LIMIT, shows).await.ok_or_else(|| {
            Problem::new("apply-timeout", "the change is recorded, but this node does not see it yet")
        })
    }

    /// The first world that shows something, within a limit.
    pub(super) async fn wait_for(
        &self,
        limit: Duration,
        shows: impl Fn(&World) -> bool + Send,
    ) -> Option<Arc<World>> {
        let mut world = self.world.clone();
        let until = Instant::now() + limit;
        loop {
            let now = world.borrow_and_update().clone();
            if shows(&now) {
                return Some(now);
            }
            let left = until.checked_duration_since(Instant::now())?;
            tokio::time::timeout(left, world.changed()).await.ok()?.ok()?;
        }
    }

    async fn make_volume(&self, request: VolumeCreate) -> Result<VolumeView, Problem> {
        let world = self.now();
        let volume = new_volume(&world, &request)?;
        let name = volume.name.clone();
        let made = |world: &World| world.state.volumes.contains_key(&name);
        self.change(Command::CreateVolume(volume), made).await?;
        let view = self.status_now().facts.volume(&name).cloned();
        view.ok_or_else(|| Problem::new("volume-unknown", format!("volume {name} is gone again")))
    }

    async fn make_service(&self, request: ServiceCreate) -> Result<ServiceView, Problem> {
        let world = self.now();
        let service = protect::new_service(&world, &request)?;
        protect::check(&self.runner, &world, &service).await?;
        let name = service.name.clone();
        self.change(Command::SetService(service), |world| world.state.services.contains_key(&name)).await?;
        self.service(&name)
    }

    pub(super) fn service(&self, name: &str) -> Result<ServiceView, Problem> {
        let view = self.status_now().facts.services.into_iter().find(|service| service.name == name);
        view.ok_or_else(|| unknown("service", name, "list them: anshin service list"))
    }

    pub(super) async fn move_service(&self, name: &str, to: Option<String>) -> Result<NodeId, Problem> {
        let world = self.now();
        let service = world
            .state
            .services
            .get(name)
            .ok_or_else(|| unknown("service", name, "list them: anshin service list"))?;
        let target = drill::move_target(&world, service, to.as_deref())?;
        let command = Command::SetServicePreferred { service: name.to_owned(), preferred: Some(target) };
        self.change(command, |_| true).await?;
        Ok(target)
    }

    async fn set_service(&self, name: &str, wanted: ServiceWanted) -> Result<ServiceView, Problem> {
        let target = match wanted {
            ServiceWanted::Running => ServiceTarget::Started,
            ServiceWanted::Stopped => ServiceTarget::Stopped,
        };
        let command = Command::SetServiceTarget { service: name.to_owned(), target };
        let set =
            |world: &World| world.state.services.get(name).is_some_and(|service| service.target == target);
        self.change(command, set).await?;
        self.service(name)
    }

    async fn set_node(&self, name: &str, wanted: NodeWanted) -> Result<NodeView, Problem> {
        let world = self.now();
        let hint = "list them: anshin node list";
        let node = world.node_named(name).ok_or_else(|| unknown("node", name, hint))?.id;
        let state = match wanted {
            NodeWanted::Active => NodeState::Active,
            NodeWanted::Standby => NodeState::Standby,
            NodeWanted::Maintenance => NodeState::Maintenance,
        };
        let set = |world: &World| world.state.nodes.get(&node).is_some_and(|node| node.state == state);
        self.change(Command::SetNodeState { node, state }, set).await?;
        self.status_now().facts.node(name).cloned().ok_or_else(|| unknown("node", name, hint))
    }

    async fn change_timing(&self, request: TimingChange) -> Result<Times, Problem> {
        let world = self.now();
        let site = world.state.site.as_ref();
        let now = site.map(|site| site.timing.clone());
        let now = now.ok_or_else(|| Problem::new("not-ready", "this node does not know its site yet"))?;
        let wanted = timing::changed(&now, &request, world.state.volumes.len())?;
        let shows = |world: &World| world.state.site.as_ref().is_some_and(|site| site.timing == wanted);
        self.change(Command::SetTiming(wanted.clone()), shows).await?;
        Ok(self.status_now().facts.times)
    }

    async fn revoke(&self, id: &str) -> Result<(), Problem> {
        let world = self.now();
        let mut matching = world.state.tokens.keys().filter(|hash| !id.is_empty() && hash.starts_with(id));
        let (Some(hash), None) = (matching.next(), matching.next()) else {
            return Err(unknown("join token", id, "list them: anshin token list"));
        };
        self.change(Command::RemoveToken { hash: hash.clone() }, |_| true).await.map(|_| ())
    }
}

impl Control for Site {
    fn settled(&self) -> Answer<'_, ()> {
        Box::pin(async {
            let left = SETTLE_LIMIT.saturating_sub(self.started.elapsed());
            if !left.is_zero() {
                self.wait_for(left, World::settled).await;
            }
            Ok(())
        })
    }

    fn status(&self) -> Answer<'_, SiteStatus> {
        Box::pin(async { Ok(self.status_now()) })
    }

    fn events(&self) -> broadcast::Receiver<Happening> {
        self.happenings.subscribe()
    }

    fn create_join_token(&self, request: JoinTokenRequest) -> Answer<'_, JoinToken> {
        Box::pin(async move {
            let join = self.join.as_ref().ok_or_else(|| {
                Problem::new(
                    "token-here",
                    "a witness does not hold the site's authority and cannot make tokens",
                )
                .hint("ask a data node")
            })?;
            join.new_token(request.valid_s.unwrap_or(crate::setup::TOKEN_VALID_S)).await
        })
    }

    fn join_tokens(&self) -> Answer<'_, Vec<JoinTokenInfo>> {
        Box::pin(async {
            let world = self.now();
            let now = jiff::Timestamp::now().as_second();
            let tokens =
                world.state.tokens.values().filter(|token| token.used_by.is_none()).filter_map(|token| {
                    let at = i64::try_from(token.expires.0).ok().filter(|&at| at > now)?;
                    let expires = jiff::Timestamp::from_second(at).ok()?.to_string();
                    Some(JoinTokenInfo { id: token.hash.chars().take(12).collect(), expires })
                });
            Ok(tokens.collect())
        })
    }

    fn revoke_join_token<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(self.revoke(id))
    }

    fn volume_create(&self, request: VolumeCreate) -> Answer<'_, VolumeView> {
        Box::pin(self.make_volume(request))
    }

    fn volume_list(&self) -> Answer<'_, Vec<VolumeView>> {
        Box::pin(async { Ok(self.status_now().facts.volumes) })
    }

    fn service_create(&self, request: ServiceCreate) -> Answer<'_, ServiceView> {
        Box::pin(self.make_service(request))
    }

    fn service_list(&self) -> Answer<'_, Vec<ServiceView>> {
        Box::pin(async { Ok(self.status_now().facts.services) })
    }

    fn service_show<'a>(&'a self, name: &'a str) -> Answer<'a, ServiceView> {
        Box::pin(async { self.service(name) })
    }

    fn service_move<'a>(&'a self, name: &'a str, request: ServiceMove) -> Answer<'a, ServiceView> {
        Box::pin(async {
            self.move_service(name, request.to).await?;
            self.service(name)
        })
    }

    fn service_set_state<'a>(
        &'a self,
        name: &'a str,
        request: ServiceStateChange,
    ) -> Answer<'a, ServiceView> {
        Box::pin(self.set_service(name, request.state))
    }

    fn node_set_state<'a>(&'a self, name: &'a str, request: NodeStateChange) -> Answer<'a, NodeView> {
        Box::pin(self.set_node(name, request.state))
    }

    fn set_timing(&self, request: TimingChange) -> Answer<'_, Times> {
        Box::pin(self.change_timing(request))
    }

    fn explain<'a>(&'a self, subject: &'a str) -> Answer<'a, Explanation> {
        Box::pin(async { explain::explain(&self.now(), &self.status_now(), subject) })
    }

    fn drill(&self, request: DrillRequest) -> Answer<'_, DrillReport> {
        Box::pin(drill::drill(self, request))
    }
}

/// Something that does not exist.
pub(super) fn unknown(what: &str, name: &str, hint: &str) -> Problem {
    Problem::new(&format!("{}-unknown", what.replace(' ', "-")), format!("there is no {what} `{name}`"))
        .hint(hint)
}

pub(super) fn refusal(refused: &Refused) -> Problem {
    match refused {
        Refused::Exists(_) => Problem::new("name-exists", refused.to_string()).hint("choose another name"),
        Refused::Missing(what) => {
            Problem::new("thing-unknown", format!("there is no {what}")).hint("see: anshin status")
        }
        Refused::InUse { .. } => Problem::refused("in-use", refused.to_string()),
        other => Problem::new("ledger-refused", other.to_string()),
    }
}

fn new_volume(world: &World, request: &VolumeCreate) -> Result<Volume, Problem> {
    anshin_link::identity::check_name("volume", &request.name)?;
    if world.state.volumes.contains_key(&request.name) {
        return Err(Problem::new("volume-exists", format!("there is a volume `{}` already", request.name)));
    }
    let size = request.size_bytes.div_ceil(BLOCK_SIZE) * BLOCK_SIZE;
    if size < VOLUME_SIZE_MIN {
        let message = format!("{} is too small for a volume", ByteSize(request.size_bytes));
        return Err(
            Problem::new("size-invalid", message).hint(format!("at least {}", ByteSize(VOLUME_SIZE_MIN)))
        );
    }
    if let Some(mount) = &request.mount
        && !mount.starts_with('/')
    {
        return Err(Problem::new("mount-invalid", format!("`{mount}` is not an absolute path")));
    }
    let file_system = match (&request.filesystem, &request.mount) {
        (Some(name), _) => Some(known_file_system(name)?),
        (None, Some(_)) => Some("ext4".to_owned()),
        (None, None) => None,
    };
    let nodes = replica_nodes(world, &request.nodes)?;
    let ports =
        world.state.volumes.values().flat_map(|volume| volume.replicas.values().map(|replica| replica.port));
    let port = ports.max().map_or(Some(DATA_PORT_FIRST), |last| last.checked_add(1));
    let port =
        port.ok_or_else(|| Problem::new("ports-exhausted", "there are no free ports for data links"))?;
    let path = format!("/var/lib/anshin/volumes/{}", request.name);
    let replica = Replica { replica: None, port, path };
    Ok(Volume {
        name: request.name.clone(),
        group: GroupId(crate::random_id()?),
        size: ByteSize(size),
        file_system,
        mount: request.mount.clone(),
        replicas: nodes.into_iter().map(|node| (node, replica.clone())).collect::<BTreeMap<_, _>>(),
    })
}

fn known_file_system(name: &str) -> Result<String, Problem> {
    if ["ext4", "xfs", "btrfs"].contains(&name) {
        return Ok(name.to_owned());
    }
    Err(Problem::new("filesystem-invalid", format!("cannot make a file system `{name}`"))
        .hint("ext4, xfs or btrfs"))
}

fn replica_nodes(world: &World, names: &[String]) -> Result<Vec<NodeId>, Problem> {
    let mut nodes = Vec::new();
    for name in names {
        let node =
            world.node_named(name).ok_or_else(|| unknown("node", name, "list them: anshin node list"))?;
        if !node.roles.data {
            return Err(Problem::new("node-invalid", format!("node {name} is a witness and stores no data")));
        }
        nodes.push(node.id);
    }
    if names.is_empty() {
        nodes.extend(world.state.nodes.values().filter(|node| node.roles.data).map(|node| node.id));
    }
    nodes.sort_unstable();
    nodes.dedup();
    Ok(nodes)
}
