//! [`Keeper`] over the vault link: the client's end.
//!
//! Calls come from plain threads, wait for their answers, and do not notice when the connection breaks and comes back in time:
//! what was not answered is sent again. If the server meanwhile lost the session (its process ended), what it had promised does
//! not hold any more, and every further call fails with an error that says that trying again may help; a new session sends
//! nothing again that had arrived.

use super::{
    connection::{self, GREETING_LIMIT},
    greeting::{Hello, Welcome},
    wire::{Call, OBJECTS_SIZE, Part, Reply, VERSION},
};
use anshin_base::{NodeId, Problem, frame::Frame};
use anshin_link::{CredentialsOf, Identity, LinkError, tls};
use anshin_vault::{ChunkId, DomainId, Keeper, Sealed, Snapshot, SnapshotId, SnapshotRecord, VaultError};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// For one address to take a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two tries to come back: first, and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Frames that wait to be written; their makers wait for the answers anyway.
const QUEUE_MAX: usize = 64;
/// For the last word of a session to get out.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);
/// Most bytes of one answer, all parts together.
const ANSWER_SIZE_MAX: usize = 1 << 30;

/// How long a client tries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// To reach the server at first.
    pub first: Duration,
    /// To come back to it after the connection broke.
    pub resume: Duration,
}

impl Default for Patience {
    /// Shorter than the server keeps a session, longer than its process needs to be started again.
    fn default() -> Self {
        Self { first: Duration::from_secs(15), resume: Duration::from_secs(120) }
    }
}

/// Whom to reach.
#[derive(Clone, Debug)]
pub struct Target {
    /// The vault's name in the site.
    pub vault: String,
    /// The node that serves it.
    pub server: NodeId,
    /// Where, most preferred first.
    pub addresses: Vec<SocketAddr>,
    /// The key domain to work in.
    pub domain: DomainId,
}

/// A vault that another process serves.
pub struct RemoteKeeper {
    line: Arc<Line>,
    queue: Option<mpsc::Sender<u64>>,
    /// Told when the connection is done with.
    ended: Mutex<Receiver<()>>,
    runtime: Option<tokio::runtime::Runtime>,
    vault: [u8; 16],
    client: String,
    shared: bool,
}

/// What calls and the connection share.
struct Line {
    target: Target,
    patience: Patience,
    connector: TlsConnector,
    session: [u8; 16],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Calls without answer.
    waiting: BTreeMap<u64, Waiting>,
    /// Whether something was promised that only holds as long as the server keeps the session.
    relied: bool,
    /// Counts connections.
    connection: u64,
    /// Why nothing works any more.
    dead: Option<VaultError>,
}

struct Waiting {
    frame: Frame,
    /// On which connection it was sent last.
    sent_on: u64,
    parts: Vec<Reply>,
    size: usize,
    answer: SyncSender<Result<Vec<Reply>, VaultError>>,
}

type Stream = TlsStream<TcpStream>;

/// A connection that was greeted. The reader may hold what came behind the greeting.
struct Greeted {
    reader: connection::Reading<Stream>,
    writer: connection::Writing<Stream>,
    welcome: Welcome,
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, why: impl ToString) -> VaultError {
        VaultError::Store {
            what: format!("the link to vault {}", self.target.vault),
            why: why.to_string(),
            transient: true,
        }
    }

    /// Nothing works any more.
    fn die(&self, error: VaultError) {
        let mut state = self.state();
        let error = state.dead.get_or_insert(error).clone();
        for (_, waiting) in std::mem::take(&mut state.waiting) {
            let _ = waiting.answer.send(Err(error.clone()));
        }
    }

    /// Connects to the first address that leads to the right node, and greets.
    async fn connect(&self) -> Result<Greeted, String> {
        let mut failures = Vec::new();
        for address in &self.target.addresses {
            match timeout(CONNECT_LIMIT + GREETING_LIMIT, self.connect_to(*address)).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(why)) => failures.push(format!("{address}: {why}")),
                Err(_) => failures.push(format!("{address}: no answer in time")),
            }
        }
        Err(if failures.is_empty() { "no address is known".to_owned() } else { failures.join("; ") })
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Greeted, String> {
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
        connection::tune(&stream).map_err(|error| error.to_string())?;
        let stream = self.connector.connect(tls::server_name(), stream).await;
        let stream = stream.map_err(|error| tls::explain_io(&error))?;
        let peer =
            tls::peer_identity(stream.get_ref().1.peer_certificates()).map_err(|error| error.to_string())?;
        if peer.node != self.target.server {
            return Err(format!("{peer} answers where node {} was expected", self.target.server));
        }
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            domain: self.target.domain,
            session: self.session,
            vault: self.target.vault.clone(),
            build: crate::VERSION.into(),
        };
        let (mut reader, mut writer) = connection::halves(stream);
        writer.send(&hello.encode()).await.map_err(|error| error.to_string())?;
        let welcome = reader.expect("the welcome", GREETING_LIMIT).await.map_err(|error| match error {
            LinkError::Io(error) => tls::explain_io(&error),
            error => error.to_string(),
        })?;
        let welcome = Welcome::decode(&welcome).map_err(|error| error.to_string())?;
        Ok(Greeted { reader, writer, welcome })
    }

    /// Connects until the server answers or patience is at its end.
    async fn reach(&self, patience: Duration) -> Result<Greeted, String> {
        let until = Instant::now() + patience;
        let mut pause = PAUSE_FIRST;
        loop {
            match self.connect().await {
                Ok(connected) => return Ok(connected),
                Err(why) if Instant::now() + pause >= until => return Err(why),
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Speaks over one connection after the other.
    async fn keep(&self, first: Greeted, mut queue: mpsc::Receiver<u64>) {
        let mut greeted = first;
        loop {
            let Err(error) = self.speak(greeted, &mut queue).await else { return };
            tracing::warn!(vault = self.target.vault, %error, "the link to a vault broke; trying to come back");
            greeted = match self.reach(self.patience.resume).await {
                Ok(greeted) => greeted,
                Err(why) => return self.die(self.broken(why)),
            };
            match &greeted.welcome {
                Welcome::Refused { why } => return self.die(VaultError::Refused(why.clone())),
                Welcome::Served { resumed: false, .. } if self.state().relied => {
                    let why = "its process was started again, and what was on its way is uncertain";
                    return self.die(self.broken(why));
                }
                Welcome::Served { .. } => {}
            }
        }
    }

    /// Speaks until the connection breaks, or the keeper was dropped, which is no error.
    async fn speak(&self, greeted: Greeted, queue: &mut mpsc::Receiver<u64>) -> Result<(), LinkError> {
        let Greeted { mut reader, writer, .. } = greeted;
        let (frames, to_write) = mpsc::channel(2);
        let writing = connection::write_queue(writer, to_write);
        let feeding = self.feed(queue, frames);
        tokio::pin!(writing, feeding);
        let mut fed = false;
        loop {
            let ended = tokio::select! {
                written = &mut writing => written.and(Err(LinkError::Closed)),
                () = &mut feeding, if !fed => {
                    fed = true;
                    Ok(())
                }
                frame = connection::next(&mut reader) => frame.and_then(|frame| {
                    let part = Part::decode(&frame).map_err(|error| LinkError::Protocol(error.to_string()))?;
                    part.map_or(Ok(()), |part| self.take(part, frame.body.len()))
                }),
            };
            match ended {
                Ok(()) => {}
                Err(_) if fed => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands every call to the writer: first those that have no answer from before, then new ones.
    async fn feed(&self, queue: &mut mpsc::Receiver<u64>, frames: mpsc::Sender<Frame>) {
        let (connection, old): (u64, Vec<u64>) = {
            let mut state = self.state();
            state.connection += 1;
            (state.connection, state.waiting.keys().copied().collect())
        };
        for number in old {
            if let Some(frame) = self.frame_of(number, connection)
                && frames.send(frame).await.is_err()
            {
                return;
            }
        }
        while let Some(number) = queue.recv().await {
            if let Some(frame) = self.frame_of(number, connection)
                && frames.send(frame).await.is_err()
            {
                return;
            }
        }
        // The keeper is gone, and says so.
        let _ = frames.send(Call::Leave.encode(u64::MAX)).await;
    }

    /// The call's frame, unless it was answered, or sent on this connection already.
    fn frame_of(&self, number: u64, connection: u64) -> Option<Frame> {
        let mut state = self.state();
        let waiting = state.waiting.get_mut(&number).filter(|waiting| waiting.sent_on != connection)?;
        waiting.sent_on = connection;
        // Parts of an answer that broke off are sent again.
        waiting.parts.clear();
        waiting.size = 0;
        Some(waiting.frame.clone())
    }

    /// Takes a part of an answer.
    fn take(&self, part: Part, size: usize) -> Result<(), LinkError> {
        let mut state = self.state();
        let Some(waiting) = state.waiting.get_mut(&part.number) else {
            return Err(LinkError::Protocol("an answer to what was not asked".into()));
        };
        waiting.size += size;
        if waiting.size > ANSWER_SIZE_MAX {
            return Err(LinkError::Protocol("an answer that is too long".into()));
        }
        if let (false, Some(last)) = (part.last, waiting.parts.last())
            && std::mem::discriminant(last) != std::mem::discriminant(&part.reply)
        {
            return Err(LinkError::Protocol("an answer of several kinds".into()));
        }
        waiting.parts.push(part.reply);
        if part.last
            && let Some(waiting) = state.waiting.remove(&part.number)
        {
            let failed = waiting.parts.iter().find_map(|reply| match reply {
                Reply::Failed(error) => Some(error.clone()),
                _ => None,
            });
            // Whoever asked may be gone.
            let _ = waiting.answer.send(failed.map_or(Ok(waiting.parts), Err));
        }
        Ok(())
    }
}

impl RemoteKeeper {
    /// Opens a session with the process that serves the vault.
    ///
    /// # Errors
    /// `vault-unreachable`, or `vault-refused` with the server's reason.
    pub fn connect<I: Identity>(
        credentials: &CredentialsOf<I>,
        target: Target,
        patience: Patience,
    ) -> Result<Self, Problem> {
        let failed =
            |why: String| Problem::new("vault-link", format!("the link to a vault cannot be made: {why}"));
        let mut session = [0; 16];
        getrandom::fill(&mut session).map_err(|error| failed(error.to_string()))?;
        let connector = TlsConnector::from(tls::client_config(credentials)?);
        let line = Arc::new(Line { target, patience, connector, session, state: Mutex::default() });
        // Of its own, so that callers may be plain threads or inside another runtime's blocking calls.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("vault-link")
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let (tell, told) = sync_channel(1);
        let (queue, numbers) = mpsc::channel(QUEUE_MAX);
        let (end, ended) = sync_channel(1);
        let spoken = line.clone();
        runtime.spawn(async move {
            match spoken.reach(patience.first).await {
                Ok(greeted) => {
                    let served = matches!(greeted.welcome, Welcome::Served { .. });
                    if tell.send(Ok(greeted.welcome.clone())).is_ok() && served {
                        spoken.keep(greeted, numbers).await;
                    }
                }
                Err(why) => drop(tell.send(Err(why))),
            }
            let _ = end.send(());
        });
        let name = line.target.vault.clone();
        match told.recv() {
            Ok(Ok(Welcome::Served { vault, shared, client, .. })) => Ok(Self {
                line,
                queue: Some(queue),
                runtime: Some(runtime),
                ended: Mutex::new(ended),
                vault,
                client,
                shared,
            }),
            Ok(Ok(Welcome::Refused { why })) => {
                runtime.shutdown_background();
                Err(Problem::new(
                    "vault-refused",
                    format!("vault {name} does not let this machine in: {why}"),
                ))
            }
            Ok(Err(why)) => {
                runtime.shutdown_background();
                Err(Problem::new("vault-unreachable", format!("vault {name} cannot be reached: {why}"))
                    .hint("is its node up, and does `anshin run vault` run there?"))
            }
            Err(_) => {
                runtime.shutdown_background();
                Err(failed("it ended at once".into()))
            }
        }
    }

    /// Which vault it is, by its own id.
    #[must_use]
    pub const fn vault(&self) -> [u8; 16] {
        self.vault
    }

    fn ask(&self, call: &Call) -> Result<Vec<Reply>, VaultError> {
        let (answer, wait) = sync_channel(1);
        let number = {
            let mut state = self.line.state();
            if let Some(error) = &state.dead {
                return Err(error.clone());
            }
            state.next += 1;
            let number = state.next;
            let frame = call.encode(number);
            let waiting = Waiting { frame, sent_on: 0, parts: Vec::new(), size: 0, answer };
            state.waiting.insert(number, waiting);
            number
        };
        // The queue is only closed once the line is dead, and then the answer says why.
        if let Some(queue) = &self.queue {
            let _ = queue.blocking_send(number);
        }
        wait.recv().unwrap_or_else(|_| Err(self.line.broken("it was given up")))
    }

    fn odd(&self) -> VaultError {
        self.line.broken("it answered something else than was asked")
    }

    fn done(&self, call: &Call) -> Result<(), VaultError> {
        match &self.ask(call)?[..] {
            [Reply::Done] => Ok(()),
            _ => Err(self.odd()),
        }
    }

    fn flags(&self, call: &Call, count: usize) -> Result<Vec<bool>, VaultError> {
        let replies = self.ask(call)?;
        match <[Reply; 1]>::try_from(replies) {
            Ok([Reply::Flags(flags)]) if flags.len() == count => Ok(flags),
            _ => Err(self.odd()),
        }
    }

    fn rely(&self) {
        self.line.state().relied = true;
    }
}

impl Drop for RemoteKeeper {
    fn drop(&mut self) {
        // Closing the queue makes the connection say that the session ends; a moment for it to get out.
        self.queue = None;
        let _ = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(LEAVE_LIMIT);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Keeper for RemoteKeeper {
    fn domain(&self) -> DomainId {
        self.line.target.domain
    }

    fn client(&self) -> String {
        self.client.clone()
    }

    fn is_near(&self) -> bool {
        false
    }

    fn is_shared(&self) -> bool {
        self.shared
    }

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<bool>, VaultError> {
        let flags = self.flags(&Call::Missing(ids.to_vec()), ids.len())?;
        if flags.contains(&false) {
            self.rely();
        }
        Ok(flags)
    }

    fn prove(&self, claims: &[(ChunkId, [u8; 32])]) -> Result<Vec<bool>, VaultError> {
        let flags = self.flags(&Call::Prove(claims.to_vec()), claims.len())?;
        self.rely();
        Ok(flags)
    }

    fn put(&self, objects: Vec<Sealed>) -> Result<(), VaultError> {
        self.rely();
        let (mut group, mut size) = (Vec::new(), 0);
        for object in objects {
            let length = object.bytes().len();
            if size + length > OBJECTS_SIZE && !group.is_empty() {
                self.done(&Call::Put(std::mem::take(&mut group)))?;
                size = 0;
            }
            size += length;
            group.push(object);
        }
        self.done(&Call::Put(group))
    }

    fn flush(&self) -> Result<(), VaultError> {
        self.done(&Call::Flush)
    }

    fn seal_snapshot(&self, record: SnapshotRecord) -> Result<Snapshot, VaultError> {
        record.check()?;
        let asked = Snapshot { record, sealed: 0, forgotten: None };
        let replies = self.ask(&Call::Seal(Box::new(asked)))?;
        let Ok([Reply::Snapshots(mut sealed)]) = <[Reply; 1]>::try_from(replies) else {
            return Err(self.odd());
        };
        self.line.state().relied = false;
        sealed.pop().ok_or_else(|| self.odd())
    }

    fn get(&self, ids: &[ChunkId]) -> Result<Vec<Sealed>, VaultError> {
        let mut all = Vec::with_capacity(ids.len());
        for reply in self.ask(&Call::Get(ids.to_vec()))? {
            let Reply::Objects(objects) = reply else { return Err(self.odd()) };
            all.extend(objects);
        }
        let as_asked = all.len() == ids.len() && all.iter().zip(ids).all(|(object, id)| object.id() == *id);
        if as_asked { Ok(all) } else { Err(self.odd()) }
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, VaultError> {
        let mut all = Vec::new();
        for reply in self.ask(&Call::Snapshots)? {
            let Reply::Snapshots(snapshots) = reply else { return Err(self.odd()) };
            all.extend(snapshots);
        }
        Ok(all)
    }

    fn forget(&self, id: SnapshotId) -> Result<(), VaultError> {
        self.done(&Call::Forget(id))
    }

    fn remember(&self, id: SnapshotId) -> Result<(), VaultError> {
        self.done(&Call::Remember(id))
    }

    fn key_files(&self) -> Result<Vec<Vec<u8>>, VaultError> {
        let mut all = Vec::new();
        for reply in self.ask(&Call::KeyFiles)? {
            let Reply::Blobs(blobs) = reply else { return Err(self.odd()) };
            all.extend(blobs.iter().map(|blob| blob.to_vec()));
        }
        Ok(all)
    }

    fn add_key_file(&self, bytes: &[u8]) -> Result<(), VaultError> {
        self.done(&Call::AddKeyFile(Bytes::copy_from_slice(bytes)))
    }
}
