//! The daemon's end of the voter's socket: keeps it connected, numbers proposals, and turns what arrives into events.

use super::passage::Lost;
use crate::voter::{
    Client, ClientReader, ClientWriter,
    protocol::{FromVoter, NodeLiveness, Notice, ProposalOutcome, Status, ToVoter, Wanted},
};
use anshin_base::{LedgerEpoch, Millis, NodeId, Problem, VoterId};
use anshin_ledger::{Applied, Command, Refused, State};
use anshin_link::LinkError;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Time before a lost connection is tried again.
const RECONNECT: Duration = Duration::from_millis(100);
/// How long a proposal is waited for: an election may be under way.
const PROPOSE_LIMIT: Duration = Duration::from_secs(10);
/// Messages that wait for a voter that is being restarted; more are refused.
const QUEUE_MAX: usize = 1_024;

/// What the voter tells.
#[derive(Debug)]
pub enum VoterEvent {
    /// The connection stands.
    Connected {
        /// The voter on its other end.
        voter: VoterId,
    },
    /// The connection is gone: what is known grows old.
    Lost,
    /// The newest ledger state.
    Ledger {
        /// Its epoch.
        epoch: LedgerEpoch,
        /// The state.
        state: Box<State>,
    },
    /// What the voter is.
    Status(Status),
    /// Who is heard.
    Nodes(Vec<NodeLiveness>),
    /// A message from a daemon.
    Received {
        /// Whose.
        from: NodeId,
        /// The message.
        body: Vec<u8>,
    },
    /// Something an operator should know.
    Notice(Notice),
    /// The voter decided on a new primary because a node was lost.
    NodeLost(Lost),
}

type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<ProposalOutcome>>>>;

/// A handle for sending; cheap to clone.
#[derive(Clone)]
pub struct VoterLink {
    out: mpsc::Sender<ToVoter>,
    waiting: Waiting,
    request_last: Arc<AtomicU64>,
}

impl VoterLink {
    /// Keeps a connection to the voter's socket and hands every event to `events`. Ends when the receiver is dropped.
    #[must_use]
    pub fn start(socket: PathBuf, events: mpsc::Sender<VoterEvent>) -> Self {
        let (out, queue) = mpsc::channel(QUEUE_MAX);
        let waiting = Waiting::default();
        tokio::spawn(keep(socket, queue, events, waiting.clone()));
        Self { out, waiting, request_last: Arc::default() }
    }

    /// Sends a control message; what cannot be queued is lost, as on any network.
    pub fn send(&self, to: NodeId, body: Vec<u8>) {
        if self.out.try_send(ToVoter::Send { to, body }).is_err() {
            tracing::warn!(%to, "the voter's queue is full: a message is dropped");
        }
    }

    /// Where each group should be active, for the time this voter leads. Returns false if it could not be queued.
    #[must_use]
    pub fn wanted(&self, wanted: Wanted) -> bool {
        self.out.try_send(ToVoter::Wanted(Some(wanted))).is_ok()
    }

    /// Proposes a command and waits for what became of it.
    ///
    /// # Errors
    /// `no-quorum` if it was certainly not taken, `outcome-unknown` if nobody knows.
    pub async fn propose(&self, command: Command) -> Result<Result<Applied, Refused>, Problem> {
        let no_quorum = || {
            Problem::new("no-quorum", "the ledger cannot decide now: too few voters are heard")
                .hint("see which nodes are away: anshin status")
        };
        let request = self.request_last.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, wait) = oneshot::channel();
        lock(&self.waiting).insert(request, answer);
        if self.out.send(ToVoter::Propose { request, command }).await.is_err() {
            return Err(no_quorum());
        }
        let outcome = tokio::time::timeout(PROPOSE_LIMIT, wait).await;
        lock(&self.waiting).remove(&request);
        match outcome {
            Ok(Ok(ProposalOutcome::Applied(applied))) => Ok(Ok(applied)),
            Ok(Ok(ProposalOutcome::Refused(refused))) => Ok(Err(refused)),
            Ok(Ok(ProposalOutcome::Dropped)) => Err(no_quorum()),
            Ok(Ok(ProposalOutcome::Unknown) | Err(_)) | Err(_) => {
                Err(Problem::new("outcome-unknown", "nobody knows whether the change was recorded")
                    .hint("look before trying again: anshin status"))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep(
    socket: PathBuf,
    mut queue: mpsc::Receiver<ToVoter>,
    events: mpsc::Sender<VoterEvent>,
    waiting: Waiting,
) {
    while !events.is_closed() {
        if let Ok((reader, writer, voter)) = connect(&socket).await {
            if events.send(VoterEvent::Connected { voter }).await.is_err() {
                return;
            }
            let ended = serve(reader, writer, &mut queue, &events, &waiting).await;
            tracing::warn!(why = ended, "the connection to the voter ended");
            // Dropping the senders answers every open proposal with "unknown".
            lock(&waiting).clear();
            if events.send(VoterEvent::Lost).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn connect(socket: &Path) -> Result<(ClientReader, ClientWriter, VoterId), LinkError> {
    let (mut reader, mut writer) = Client::connect(socket).await?.split();
    let FromVoter::Welcome { voter, .. } = reader.next().await? else {
        return Err(LinkError::Protocol("the voter did not greet".into()));
    };
    writer.send(&ToVoter::Subscribe).await?;
    Ok((reader, writer, voter))
}

async fn serve(
    mut reader: ClientReader,
    mut writer: ClientWriter,
    queue: &mut mpsc::Receiver<ToVoter>,
    events: &mpsc::Sender<VoterEvent>,
    waiting: &Waiting,
) -> String {
    loop {
        tokio::select! {
            incoming = reader.next() => {
                let message = match incoming {
                    Ok(message) => message,
                    Err(error) => return error.to_string(),
                };
                if !hand_over(message, events, waiting).await {
                    return "the daemon ends".into();
                }
            }
            outgoing = queue.recv() => {
                let Some(message) = outgoing else { return "the daemon ends".into() };
                if let Err(error) = writer.send(&message).await {
                    return error.to_string();
                }
            }
        }
    }
}

async fn hand_over(message: FromVoter, events: &mpsc::Sender<VoterEvent>, waiting: &Waiting) -> bool {
    let event = match message {
        FromVoter::Ledger { epoch, state, .. } => VoterEvent::Ledger { epoch, state },
        FromVoter::Lost { group, node, heard_ago, judged_ago } => VoterEvent::NodeLost(Lost {
            group,
            node,
            heard_ago: Millis(heard_ago),
            judged_ago: Millis(judged_ago),
        }),
        FromVoter::Status(status) => VoterEvent::Status(status),
        FromVoter::Nodes(nodes) => VoterEvent::Nodes(nodes),
        FromVoter::Received { from, body } => VoterEvent::Received { from, body },
        FromVoter::Notice(notice) => VoterEvent::Notice(notice),
        FromVoter::Outcome { request, outcome } => {
            if let Some(answer) = lock(waiting).remove(&request) {
                let _ = answer.send(outcome);
            }
            return true;
        }
        FromVoter::NotSent { to, why } => {
            tracing::debug!(%to, why, "a message was not sent");
            return true;
        }
        FromVoter::Welcome { .. } | FromVoter::ReadReady { .. } => return true,
    };
    events.send(event).await.is_ok()
}
