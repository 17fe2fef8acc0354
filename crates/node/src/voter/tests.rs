//! Voters on loopback, with real TLS, files and sockets.

use super::{
    Bootstrap, Client, Peer, Voter, VoterOptions, found, join, lost,
    protocol::{FromVoter, NodeLiveness, ProposalOutcome, Status, ToVoter},
};
use anshin_base::{
    ByteSize, GroupChange, GroupEntry, GroupId, LedgerEpoch, LedgerIndex, Member, NodeId, ReplicaId,
    SessionId, VoterId,
    local::{FromVoter as ToVolume, Outcome, ReplicaReport, ToVoter as FromVolume},
};
use anshin_ledger::{
    Applied, Command, State,
    state::{JoinToken, NewNode, Ports, Replica, Roles, Site, UnixSeconds, Volume},
};
use anshin_link::{Authority, Credentials, NodeKey, framed::frames, mesh::MeshTimes};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UnixStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

mod standing_still;

/// Far longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("anshin-voter-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node of the test: its files, and its voter while that runs.
struct Node {
    directory: PathBuf,
    credentials: Arc<Credentials>,
    listen: SocketAddr,
    task: Option<JoinHandle<()>>,
}

impl Node {
    fn new(root: &Path, authority: &Authority, id: u32) -> Self {
        let key = NodeKey::generate().unwrap();
        let name = format!("node{id}");
        let certificate = authority.issue(&key.request_pem().unwrap(), NodeId(id), &name).unwrap();
        let credentials = Arc::new(key.with_certificate(&certificate, authority.certificate_pem()).unwrap());
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { directory: root.join(name), credentials, listen, task: None }
    }

    fn new_node(&self) -> NewNode {
        NewNode {
            name: self.credentials.identity().name.clone(),
            addresses: vec!["127.0.0.1".to_owned()],
            ports: Ports { join: 1, voter: self.listen.port(), ..Ports::default() },
            roles: Roles { data: true, ..Roles::default() },
            fingerprint: String::new(),
        }
    }

    fn id(&self) -> NodeId {
        self.credentials.identity().node
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("voter.sock")
    }

    async fn start(&mut self) {
        let options = VoterOptions {
            directory: self.directory.clone(),
            credentials: Arc::clone(&self.credentials),
            listen: vec![self.listen],
            socket: self.socket(),
            build: "test".to_owned(),
            lock_memory: false,
            times: MeshTimes::default(),
            fallback: None,
        };
        // A voter that was stopped a moment ago may still hold its directory: its log's thread ends after its task.
        let voter = timeout(PATIENCE, async {
            loop {
                match Voter::start(options.clone()).await {
                    Ok(voter) => return voter,
                    Err(problem) if problem.code == "voter-running" => sleep(Duration::from_millis(5)).await,
                    Err(problem) => panic!("{problem}"),
                }
            }
        });
        let voter = voter.await.unwrap();
        self.task = Some(tokio::spawn(async move {
            voter.run().await.unwrap();
        }));
    }

    async fn kill(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    async fn daemon(&self) -> Daemon {
        let mut client = Client::connect(&self.socket()).await.unwrap();
        client.send(&ToVoter::Subscribe).await.unwrap();
        Daemon { client, state: State::default(), status: None, nodes: Vec::new(), request: 0 }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What a daemon would be: a client that remembers the newest of everything.
struct Daemon {
    client: Client,
    state: State,
    status: Option<Status>,
    nodes: Vec<NodeLiveness>,
    request: u64,
}

impl Daemon {
    /// Reads on until `wanted` gives something for what is known and the message that came.
    async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&Self, &FromVoter) -> Option<T>) -> T {
        let search = async {
            loop {
                let message = self.client.next().await.unwrap();
                match &message {
                    FromVoter::Ledger { state, .. } => self.state = (**state).clone(),
                    FromVoter::Status(status) => self.status = Some(status.clone()),
                    FromVoter::Nodes(nodes) => self.nodes.clone_from(nodes),
                    _ => {}
                }
                if let Some(found) = wanted(self, &message) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("{what} never came"))
    }

    /// Proposes until somebody took it.
    async fn propose(&mut self, command: Command) -> ProposalOutcome {
        loop {
            self.request += 1;
            let request = self.request;
            self.client.send(&ToVoter::Propose { request, command: command.clone() }).await.unwrap();
            let outcome = self.until("an outcome", |_, message| match message {
                FromVoter::Outcome { request: answered, outcome } if *answered == request => {
                    Some(outcome.clone())
                }
                _ => None,
            });
            match outcome.await {
                ProposalOutcome::Dropped => sleep(Duration::from_millis(20)).await,
                other => return other,
            }
        }
    }

    async fn status_until(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        self.until(what, |known, _| known.status.clone().filter(|status| wanted(status))).await
    }
}

fn site() -> (Scratch, Authority) {
    (Scratch::new(), Authority::create("test").unwrap())
}

/// Founds a site and lets `count` nodes join it by tokens; returns them running, all voting.
async fn cluster(root: &Path, authority: &Authority, count: u32) -> Vec<Node> {
    let mut first = Node::new(root, authority, 1);
    let site = Site { name: "test".to_owned(), ..Site::default() };
    let commands = vec![Command::InitSite(site), Command::FirstNode(first.new_node())];
    found(&first.directory, authority.site(), commands).unwrap();
    first.start().await;
    let mut daemon = first.daemon().await;
    daemon.until("the founder's node", |known, _| (known.state.nodes.len() == 1).then_some(())).await;
    let mut nodes = vec![first];
    for id in 2..=count {
        let mut node = Node::new(root, authority, id);
        let roles = Roles::ALL;
        let hash = format!("token{id}");
        let token = JoinToken { hash: hash.clone(), roles, expires: UnixSeconds(100), used_by: None };
        daemon.propose(Command::AddToken(token)).await;
        let joined =
            daemon.propose(Command::Join { token: hash, at: UnixSeconds(1), node: node.new_node() }).await;
        let ProposalOutcome::Applied(Applied::Node { node: given, voter }) = joined else {
            panic!("{joined:?}")
        };
        assert_eq!(given, node.id());
        let peers: Vec<_> = nodes
            .iter()
            .map(|peer| Peer {
                node: peer.id(),
                voter: VoterId(u64::from(peer.id().0)),
                addresses: vec![peer.listen.to_string()],
            })
            .collect();
        join(&node.directory, authority.site(), LedgerEpoch(1), (given, voter, false), peers).unwrap();
        node.start().await;
        nodes.push(node);
    }
    daemon
        .status_until("every voter", |status| {
            status.voters.len() == count as usize && status.learners.is_empty()
        })
        .await;
    nodes
}

fn decision(what: &str) -> Command {
    Command::Decide(anshin_ledger::state::Decision {
        at: UnixSeconds(1),
        by: "test".to_owned(),
        subject: "test".to_owned(),
        what: what.to_owned(),
        reason: String::new(),
    })
}

fn decided(state: &State, what: &str) -> bool {
    state.decisions.iter().any(|decision| decision.what == what)
}

#[tokio::test]
async fn two_nodes_join_and_what_any_daemon_proposes_all_of_them_see() {
    let (root, authority) = site();
    let nodes = cluster(&root.0, &authority, 3).await;
    let mut last = nodes[2].daemon().await;
    last.status_until("a leader", |status| status.leader.is_some() && status.quorate).await;
    assert_eq!(last.propose(decision("from the third")).await, ProposalOutcome::Applied(Applied::Done));
    for node in &nodes {
        let mut daemon = node.daemon().await;
        daemon.until("the decision", |known, _| decided(&known.state, "from the third").then_some(())).await;
        assert_eq!(daemon.state.nodes.len(), 3);
    }
}

#[tokio::test]
async fn the_leaders_death_gives_a_new_leader_and_it_returns_from_its_log() {
    let (root, authority) = site();
    let mut nodes = cluster(&root.0, &authority, 3).await;
    let mut daemons = Vec::new();
    for node in &nodes {
        daemons.push(node.daemon().await);
    }
    assert_eq!(daemons[0].propose(decision("before")).await, ProposalOutcome::Applied(Applied::Done));
    let leader = daemons[1].status_until("a leader", |status| status.leader.is_some()).await.leader.unwrap();
    let at = nodes.iter().position(|node| node.id() == leader).unwrap();
    nodes[at].kill().await;
    let other = (at + 1) % 3;
    let new = daemons[other]
        .status_until("a new leader", |status| status.leader.is_some_and(|new| new != leader))
        .await;
    assert!(new.quorate);
    assert_eq!(daemons[other].propose(decision("without it")).await, ProposalOutcome::Applied(Applied::Done));

    nodes[at].start().await;
    let mut returned = nodes[at].daemon().await;
    returned
        .until("both decisions", |known, _| {
            (decided(&known.state, "before") && decided(&known.state, "without it")).then_some(())
        })
        .await;
    let status = returned.status_until("a leader", |status| status.leader.is_some()).await;
    assert_eq!(status.silenced, None);
}

#[tokio::test]
async fn all_voters_are_killed_and_go_on_from_their_logs() {
    let (root, authority) = site();
    let mut nodes = cluster(&root.0, &authority, 3).await;
    assert_eq!(
        nodes[1].daemon().await.propose(decision("kept")).await,
        ProposalOutcome::Applied(Applied::Done)
    );
    for node in &mut nodes {
        node.kill().await;
    }
    for node in nodes.iter_mut().rev() {
        node.start().await;
    }
    let mut daemon = nodes[0].daemon().await;
    assert_eq!(daemon.propose(decision("after")).await, ProposalOutcome::Applied(Applied::Done));
    daemon
        .until("both decisions", |known, _| {
            (decided(&known.state, "kept") && decided(&known.state, "after")).then_some(())
        })
        .await;
}

#[tokio::test]
async fn daemons_reach_each_other_and_see_who_lives() {
    let (root, authority) = site();
    let mut nodes = cluster(&root.0, &authority, 3).await;
    let (mut a, mut b) = (nodes[0].daemon().await, nodes[1].daemon().await);
    b.client.send(&ToVoter::Health(b"well".to_vec())).await.unwrap();
    let beat = a.until("the other's health", |known, _| {
        let node = known.nodes.iter().find(|node| node.node == NodeId(2))?;
        node.beat.clone().filter(|beat| beat.health == b"well").map(|beat| (beat, node.linked))
    });
    let (beat, linked) = beat.await;
    assert_eq!((beat.voter, linked), (VoterId(2), true));
    for (to, text) in [(NodeId(2), "hello"), (NodeId(1), "self")] {
        a.client.send(&ToVoter::Send { to, body: text.into() }).await.unwrap();
    }
    let received = |message: &FromVoter| match message {
        FromVoter::Received { from, body } => Some((*from, body.clone())),
        _ => None,
    };
    assert_eq!(b.until("hello", |_, message| received(message)).await, (NodeId(1), b"hello".to_vec()));
    assert_eq!(a.until("its own", |_, message| received(message)).await, (NodeId(1), b"self".to_vec()));
    a.client.send(&ToVoter::Read { request: 5 }).await.unwrap();
    a.until("the read", |_, message| {
        matches!(message, FromVoter::ReadReady { request: 5, .. }).then_some(())
    })
    .await;

    nodes[2].kill().await;
    a.until("the silence of the third", |known, _| {
        let node = known.nodes.iter().find(|node| node.node == NodeId(3))?;
        node.heard.is_some_and(|age| age > 1000).then_some(())
    })
    .await;
    a.client.send(&ToVoter::Send { to: NodeId(3), body: Vec::new() }).await.unwrap();
    a.until("that it was not sent", |_, message| {
        matches!(message, FromVoter::NotSent { to: NodeId(3), .. }).then_some(())
    })
    .await;
}

#[tokio::test]
async fn leadership_is_handed_over_on_request() {
    let (root, authority) = site();
    let nodes = cluster(&root.0, &authority, 3).await;
    let mut daemon = nodes[0].daemon().await;
    let leader = daemon.status_until("a leader", |status| status.leader.is_some()).await.leader.unwrap();
    let to = NodeId(leader.0 % 3 + 1);
    let mut leading = nodes[leader.0 as usize - 1].daemon().await;
    leading.client.send(&ToVoter::HandOver { to }).await.unwrap();
    daemon.status_until("the hand-over", |status| status.leader == Some(to)).await;
}

#[tokio::test]
async fn r8_a_voter_that_lost_its_ledger_is_silent_and_votes_again_under_a_new_id() {
    let (root, authority) = site();
    let mut nodes = cluster(&root.0, &authority, 3).await;
    let mut daemon = nodes[0].daemon().await;
    nodes[2].kill().await;
    std::fs::remove_file(nodes[2].directory.join("ledger-a")).unwrap();
    let peers = nodes[..2].iter().zip([1, 2]).map(|(node, voter)| Peer {
        node: node.id(),
        voter: VoterId(voter),
        addresses: vec![node.listen.to_string()],
    });
    let peers: Vec<Peer> = peers.collect();
    let bootstrap = Bootstrap {
        site: authority.site(),
        node: NodeId(3),
        voter: VoterId(3),
        witness: false,
        peers: peers.clone(),
        first: Vec::new(),
    };
    // What the process does by itself when its ledger cannot be opened.
    lost(&nodes[2].directory, &bootstrap, LedgerEpoch(1), "its log is gone").unwrap();
    nodes[2].start().await;
    let mut without = nodes[2].daemon().await;
    let status = without.status_until("its silence", |status| status.silenced.is_some()).await;
    assert!(!status.quorate && status.silenced.unwrap().contains("gone"));
    // Said again until it is heard: the link may not stand yet.
    let calls = tokio::spawn(async move {
        while without.client.send(&ToVoter::Send { to: NodeId(1), body: b"help".to_vec() }).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    daemon
        .until("its call for help, for the mesh lives", |_, message| {
            matches!(message, FromVoter::Received { from: NodeId(3), .. }).then_some(())
        })
        .await;
    calls.abort();

    let replaced = daemon.propose(Command::NewVoter { node: NodeId(3), old: VoterId(3) }).await;
    let ProposalOutcome::Applied(Applied::Voter(new)) = replaced else { panic!("{replaced:?}") };
    nodes[2].kill().await;
    join(&nodes[2].directory, authority.site(), LedgerEpoch(1), (NodeId(3), new, false), peers).unwrap();
    nodes[2].start().await;
    let voters = [VoterId(1), VoterId(2), new];
    daemon.status_until("three voters again", |status| status.voters == voters).await;
}

#[tokio::test]
async fn two_voters_never_share_a_log() {
    let (root, authority) = site();
    let nodes = cluster(&root.0, &authority, 1).await;
    let options = VoterOptions {
        directory: nodes[0].directory.clone(),
        credentials: Arc::clone(&nodes[0].credentials),
        listen: Vec::new(),
        socket: root.0.join("other.sock"),
        build: "test".to_owned(),
        lock_memory: false,
        times: MeshTimes::default(),
        fallback: None,
    };
    assert_eq!(Voter::start(options).await.err().unwrap().code, "voter-running");
}

/// A volume process as the voter sees it.
struct VolumeProcess {
    reader: anshin_link::FrameReader<tokio::io::ReadHalf<UnixStream>>,
    writer: anshin_link::FrameWriter<tokio::io::WriteHalf<UnixStream>>,
    report: ReplicaReport,
}

impl VolumeProcess {
    async fn start(node: &Node, replica: u64, session: u64) -> Self {
        Self::start_of(node, GROUP, replica, session).await
    }

    async fn start_of(node: &Node, group: GroupId, replica: u64, session: u64) -> Self {
        let stream = UnixStream::connect(node.socket()).await.unwrap();
        let (reader, writer) = frames(stream, 1 << 20, PATIENCE);
        let report = ReplicaReport {
            group,
            replica: ReplicaId(replica),
            session: SessionId(session),
            progress: 7,
            promotable: true,
            ledger_index: LedgerIndex(0),
        };
        let mut process = Self { reader, writer, report: report.clone() };
        process.say(&FromVolume::Report(report)).await;
        process
    }

    async fn say(&mut self, message: &FromVolume) {
        let frame =
            super::local::encode(super::protocol::VOLUME_KIND, super::protocol::VOLUME_VERSION, message);
        self.writer.send(&frame).await.unwrap();
    }

    async fn until<T>(&mut self, what: &str, wanted: impl Fn(&ToVolume) -> Option<T>) -> T {
        let search = async {
            loop {
                let frame = self.reader.next().await.unwrap().unwrap();
                let message: ToVolume = postcard::from_bytes(&frame.body).unwrap();
                if let Some(found) = wanted(&message) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("{what} never came"))
    }

    /// Waits until the ledger's entry is as wanted, and reports that it knows it.
    async fn entry(&mut self, what: &str, wanted: impl Fn(&GroupEntry) -> bool) -> GroupEntry {
        let (entry, index) = self
            .until(what, |message| match message {
                ToVolume::View { entry: Some(entry), index, .. } if wanted(entry) => {
                    Some((entry.clone(), *index))
                }
                _ => None,
            })
            .await;
        self.report.ledger_index = index;
        let report = self.report.clone();
        self.say(&FromVolume::Report(report)).await;
        entry
    }

    async fn propose(&mut self, request: u64, change: GroupChange) -> Outcome {
        self.say(&FromVolume::Propose { request, change }).await;
        self.until("an outcome", |message| match message {
            ToVolume::Outcome { request: answered, outcome } if *answered == request => Some(outcome.clone()),
            _ => None,
        })
        .await
    }
}

const GROUP: GroupId = GroupId(77);

fn volume(nodes: &[Node]) -> Volume {
    let replica = |id: u64| Replica { replica: Some(ReplicaId(id)), port: 7810, path: "/nowhere".to_owned() };
    Volume {
        name: "data".to_owned(),
        group: GROUP,
        size: ByteSize(1 << 30),
        file_system: None,
        mount: None,
        replicas: nodes[..2].iter().map(|node| (node.id(), replica(u64::from(node.id().0) * 11))).collect(),
    }
}

#[tokio::test]
async fn r3_when_the_primarys_node_dies_the_other_member_is_promoted_without_any_daemon() {
    let (root, authority) = site();
    let mut nodes = cluster(&root.0, &authority, 3).await;
    let mut daemon = nodes[2].daemon().await;
    daemon.propose(Command::CreateVolume(volume(&nodes))).await;
    let mut a = VolumeProcess::start(&nodes[0], 11, 1).await;
    let mut b = VolumeProcess::start(&nodes[1], 22, 2).await;
    let first = Member { replica: ReplicaId(11), session: SessionId(1) };
    let created = a.propose(1, GroupChange::Create { group: GROUP, first }).await;
    assert!(matches!(created, Outcome::Applied(_)), "{created:?}");
    // Every voter hears that the volume is wanted on both nodes, the first one rather; then the daemons are gone.
    let wanted = BTreeMap::from([(GROUP, BTreeMap::from([(NodeId(1), 10), (NodeId(2), 0)]))]);
    for node in &nodes {
        let mut brief = node.daemon().await;
        brief.client.send(&ToVoter::Wanted(Some(wanted.clone()))).await.unwrap();
        brief.until("a sign", |known, _| (!known.nodes.is_empty()).then_some(())).await;
    }
    drop(daemon);
    let entry = a.entry("the promotion of the first", |entry| entry.primary == Some(first)).await;
    let both = BTreeMap::from([(ReplicaId(11), SessionId(1)), (ReplicaId(22), SessionId(2))]);
    let joined = GroupChange::SetMembers {
        group: GROUP,
        expect: entry.generation,
        proposer: first,
        in_sync: both.clone(),
    };
    assert!(matches!(a.propose(2, joined.clone()).await, Outcome::Applied(_)));
    assert!(matches!(a.propose(3, joined).await, Outcome::Refused(_)), "the generation has moved on");
    b.entry("the set of both", |entry| entry.in_sync == both).await;

    drop(a);
    nodes[0].kill().await;
    let second = Member { replica: ReplicaId(22), session: SessionId(2) };
    let entry = b.entry("the promotion of the second", |entry| entry.primary == Some(second)).await;
    assert_eq!(entry.in_sync, both, "promotion changes the primary, not the set");
}

#[test]
fn r8_what_is_left_of_a_lost_ledger_survives_an_interrupted_new_beginning() {
    let (root, authority) = site();
    let directory = root.0.join("voter");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("ledger-a"), "damaged").unwrap();
    let bootstrap = Bootstrap {
        site: authority.site(),
        node: NodeId(3),
        voter: VoterId(3),
        witness: false,
        peers: Vec::new(),
        first: Vec::new(),
    };
    let begin = || lost(&directory, &bootstrap, LedgerEpoch(1), "it is damaged").unwrap();
    let remains = || std::fs::read_to_string(root.0.join("voter.lost/ledger-a")).unwrap();
    begin();
    assert_eq!(remains(), "damaged");
    // As the power leaves it between the renames, and while the new one is made.
    std::fs::rename(&directory, root.0.join("voter.new")).unwrap();
    std::fs::remove_file(root.0.join("voter.new/bootstrap.json")).unwrap();
    begin();
    assert_eq!(remains(), "damaged");
    assert_eq!(Bootstrap::load(&directory).unwrap(), bootstrap);
    assert!(!root.0.join("voter.new").exists());
}
