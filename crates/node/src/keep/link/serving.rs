//! One connection of a client, at the server.

use super::{
    connection::{self, ALIVE_EVERY, GREETING_LIMIT, Reading},
    doorkeeper::{Admission, Doorkeeper, Pass},
    greeting::{Hello, Welcome},
    sessions::{SessionKey, Sessions},
    wire::{BODY_LENGTH_MAX, Call, OBJECTS_SIZE, Part, Reply, VERSION},
};
use anshin_base::frame::Frame;
use anshin_link::{LinkError, Party};
use anshin_vault::{Handle, Keeper, Sealed, Vault, VaultError};
use bytes::Bytes;
use std::{sync::Arc, time::Instant};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, mpsc},
    time::{MissedTickBehavior, interval},
};

/// Calls of one connection that are carried out at once.
const CALLS_AT_ONCE: usize = 16;
/// KiB of calls of one connection that may be in memory at once.
const MEMORY_KIB: usize = 3 * BODY_LENGTH_MAX / 1024;
/// Answers that wait to be written.
const QUEUE_MAX: usize = 4;
/// Objects read together to answer a call: bounds memory, and still lets neighbours be read at once.
const READ_AT_ONCE: usize = 32;
/// Items of one part of a list.
const LIST_PART: usize = 256;

/// What a server works with.
pub(super) struct Context {
    pub vault: Arc<Vault>,
    /// The vault's name in the site.
    pub name: String,
    pub doorkeeper: Arc<dyn Doorkeeper>,
    pub admission: Arc<dyn Admission>,
    pub sessions: Sessions,
}

/// A call with what it needs, on a thread that may wait.
struct Work {
    context: Arc<Context>,
    handle: Arc<Handle>,
    party: Party,
    key: SessionKey,
    answers: mpsc::Sender<Frame>,
}

fn protocol(why: impl ToString) -> LinkError {
    LinkError::Protocol(why.to_string())
}

/// Greets and serves until the connection ends, which it always does with an error: [`LinkError::Closed`] is the usual one.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(
    context: Arc<Context>,
    party: Party,
    stream: S,
) -> LinkError {
    let (mut reader, mut writer) = connection::halves(stream);
    let greeted = async {
        let frame = reader.expect("the hello", GREETING_LIMIT).await?;
        let hello = Hello::decode(&frame).map_err(protocol)?;
        let (welcome, entered) = enter(&context, &party, &hello).await;
        if let Err(error) = writer.send(&welcome.encode()).await {
            // It has joined already; without this the session would never be given up.
            if let Ok((_, key)) = &entered {
                context.sessions.leave(key, Instant::now());
            }
            return Err(error);
        }
        entered.map(|(handle, key)| (handle, key, hello.build))
    };
    let (handle, key, build) = match greeted.await {
        Ok(entered) => entered,
        Err(error) => return error,
    };
    tracing::info!(%party, build = build.escape_debug().to_string(), "a session");
    let (answers, queue) = mpsc::channel(QUEUE_MAX);
    let writing = tokio::spawn(connection::write_queue(writer, queue));
    let work = Arc::new(Work { context: context.clone(), handle, party, key: key.clone(), answers });
    let ended = tokio::select! {
        error = read_calls(&mut reader, &work) => error,
        why = watch_the_door(&work) => protocol(why),
    };
    writing.abort();
    drop(work);
    if let Some(handle) = context.sessions.leave(&key, Instant::now()) {
        // What was sent so far spares the next attempt sending it again, whoever makes it.
        let flushed = tokio::task::spawn_blocking(move || handle.flush()).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "what a broken session had sent could not be made durable");
        }
    }
    ended
}

/// Decides on a hello: the answer, and the session if it is let in.
async fn enter(
    context: &Arc<Context>,
    party: &Party,
    hello: &Hello,
) -> (Welcome, Result<(Arc<Handle>, SessionKey), LinkError>) {
    let refuse = |why: String| (Welcome::Refused { why: why.clone() }, Err(LinkError::Protocol(why)));
    if !(hello.version_min..=hello.version_max).contains(&VERSION) {
        return refuse(format!(
            "versions {} to {} of the vault link are spoken there, {VERSION} here",
            hello.version_min, hello.version_max
        ));
    }
    if hello.vault != context.name {
        return refuse(format!("vault `{}` is not served here", hello.vault.escape_debug()));
    }
    let (all, who, domain, random) = (context.clone(), party.clone(), hello.domain, hello.session);
    let joined = tokio::task::spawn_blocking(move || {
        let pass = all.doorkeeper.admit(&who, domain)?;
        let key = SessionKey { party: who, domain, random };
        let (handle, resumed) =
            all.sessions.join(&all.vault, &key, &pass).map_err(|error| error.to_string())?;
        Ok::<(Arc<Handle>, SessionKey, bool, Pass), String>((handle, key, resumed, pass))
    });
    match joined.await {
        Ok(Ok((handle, key, resumed, pass))) => {
            let welcome = Welcome::Served {
                version: VERSION,
                vault: context.vault.descriptor().id,
                resumed,
                shared: pass.shared,
                client: pass.client,
            };
            (welcome, Ok((handle, key)))
        }
        Ok(Err(why)) => refuse(why),
        Err(_) => refuse("the vault cannot be opened".into()),
    }
}

/// Ends when the party may no longer be here.
async fn watch_the_door(work: &Arc<Work>) -> String {
    let mut tick = interval(ALIVE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let asked = work.clone();
        let admitted = tokio::task::spawn_blocking(move || {
            asked.context.doorkeeper.admit(&asked.party, asked.key.domain)
        });
        if let Ok(Err(why)) = admitted.await {
            work.context.sessions.end(&work.key);
            return why;
        }
    }
}

async fn read_calls<S: AsyncRead + AsyncWrite>(reader: &mut Reading<S>, work: &Arc<Work>) -> LinkError {
    let (calls, memory) = (Arc::new(Semaphore::new(CALLS_AT_ONCE)), Arc::new(Semaphore::new(MEMORY_KIB)));
    loop {
        let frame = match connection::next(reader).await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        let kib = u32::try_from(frame.body.len().div_ceil(1024)).unwrap_or(u32::MAX);
        let (number, call) = match Call::decode(&frame) {
            Ok(Some(numbered)) => numbered,
            Ok(None) => continue,
            Err(error) => return protocol(error),
        };
        if matches!(call, Call::Leave) {
            work.context.sessions.end(&work.key);
            return LinkError::Closed;
        }
        // Not read on until there is room: the client's writing waits then.
        let (Ok(place), Ok(room)) =
            (calls.clone().acquire_owned().await, memory.clone().acquire_many_owned(kib).await)
        else {
            return LinkError::Closed;
        };
        let work = work.clone();
        tokio::task::spawn_blocking(move || {
            work.carry_out(number, call);
            drop((place, room));
        });
    }
}

impl Work {
    /// Sends a part of an answer; false if the connection is gone.
    fn tell(&self, number: u64, last: bool, reply: Reply) -> bool {
        self.answers.blocking_send(Part { number, last, reply }.encode()).is_ok()
    }

    fn carry_out(&self, number: u64, call: Call) {
        let done = |result: Result<Reply, VaultError>| {
            self.tell(number, true, result.unwrap_or_else(Reply::Failed));
        };
        match call {
            Call::Missing(ids) => done(self.handle.missing(&ids).map(Reply::Flags)),
            Call::Prove(claims) => done(self.handle.prove(&claims).map(Reply::Flags)),
            Call::Put(objects) => done(self.handle.put(objects).map(|()| Reply::Done)),
            Call::Flush => done(self.handle.flush().map(|()| Reply::Done)),
            Call::Seal(snapshot) => done(self.seal(*snapshot)),
            Call::Get(ids) => self.get(number, &ids),
            Call::Snapshots => match self.handle.snapshots() {
                Ok(all) => self.list(number, all, Reply::Snapshots),
                Err(error) => done(Err(error)),
            },
            Call::Forget(id) => done(self.handle.forget(id).map(|()| Reply::Done)),
            Call::Remember(id) => done(self.handle.remember(id).map(|()| Reply::Done)),
            Call::KeyFiles => match self.handle.key_files() {
                Ok(all) => self.list(number, all.into_iter().map(Bytes::from).collect(), Reply::Blobs),
                Err(error) => done(Err(error)),
            },
            Call::AddKeyFile(bytes) => done(self.handle.add_key_file(&bytes).map(|()| Reply::Done)),
            Call::Leave => {}
        }
    }

    fn seal(&self, snapshot: anshin_vault::Snapshot) -> Result<Reply, VaultError> {
        let record = snapshot.record;
        let admitted = self
            .context
            .doorkeeper
            .admit(&self.party, self.key.domain)
            .and_then(|_| self.context.admission.may_seal(&self.party, &record));
        if let Err(why) = admitted {
            tracing::warn!(party = %self.party, run = record.run.escape_debug().to_string(), why, "a snapshot was not sealed");
            return Err(VaultError::Refused(why));
        }
        self.handle.seal_snapshot(record).map(|sealed| Reply::Snapshots(vec![sealed]))
    }

    /// A list in parts.
    fn list<T: Clone>(&self, number: u64, all: Vec<T>, reply: impl Fn(Vec<T>) -> Reply) {
        let parts = all.len().div_ceil(LIST_PART).max(1);
        for at in 0..parts {
            let part: Vec<T> = all.iter().skip(at * LIST_PART).take(LIST_PART).cloned().collect();
            if !self.tell(number, at + 1 == parts, reply(part)) {
                return;
            }
        }
    }

    /// Objects as they are read, in parts.
    fn get(&self, number: u64, ids: &[anshin_vault::ChunkId]) {
        if ids.len() > anshin_vault::keeper::GET_MAX {
            let error = VaultError::TooLarge {
                what: "a question",
                size: ids.len(),
                max: anshin_vault::keeper::GET_MAX,
            };
            self.tell(number, true, Reply::Failed(error));
            return;
        }
        let (mut waiting, mut size): (Vec<Sealed>, usize) = (Vec::new(), 0);
        for group in ids.chunks(READ_AT_ONCE) {
            let objects = match self.handle.get(group) {
                Ok(objects) => objects,
                Err(error) => {
                    self.tell(number, true, Reply::Failed(error));
                    return;
                }
            };
            for object in objects {
                let length = object.bytes().len();
                if size + length > OBJECTS_SIZE && !waiting.is_empty() {
                    if !self.tell(number, false, Reply::Objects(std::mem::take(&mut waiting))) {
                        return;
                    }
                    size = 0;
                }
                size += length;
                waiting.push(object);
            }
        }
        self.tell(number, true, Reply::Objects(waiting));
    }
}
