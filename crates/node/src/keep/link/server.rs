//! The listening end of the vault link.

use super::{
    connection::{self, GREETING_LIMIT},
    doorkeeper::{Admission, Doorkeeper},
    serving::{Context, serve},
    sessions::Sessions,
};
use anshin_base::Problem;
use anshin_link::{Credentials, LinkError, clock, limiter::LogLimiter, tls};
use anshin_vault::Vault;
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Connections that may be in their handshake at once; more are closed unread.
const HANDSHAKES_MAX: usize = 64;
/// Those of one address: whoever has no certificate must not keep all others out. Many clients may be behind one.
const HANDSHAKES_OF_ONE_MAX: usize = 16;
/// Connections at once: those of a site and of its clients while they back up.
const CONNECTIONS_MAX: usize = 1024;
/// How often sessions whose client does not come back are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What is served, and to whom.
pub struct Served {
    /// The vault.
    pub vault: Arc<Vault>,
    /// Its name in the site.
    pub name: String,
    /// Who may come in.
    pub doorkeeper: Arc<dyn Doorkeeper>,
    /// Which snapshots may come to be.
    pub admission: Arc<dyn Admission>,
}

/// A server; dropping it ends it.
pub struct Server {
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
    context: Arc<Context>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Reception {
    acceptor: TlsAcceptor,
    context: Arc<Context>,
    handshakes: Semaphore,
    // Handshakes under way by where they come from; held for a moment only.
    strangers: Mutex<HashMap<IpAddr, usize>>,
    connections: Semaphore,
    // Held for a moment only: which lines may still be written.
    limiter: Mutex<LogLimiter>,
}

impl Server {
    /// Listens. Port 0 takes a free one.
    ///
    /// # Errors
    /// If the address cannot be listened on, or the credentials cannot be used.
    pub async fn start(
        served: Served,
        credentials: &Credentials,
        address: SocketAddr,
    ) -> Result<Self, Problem> {
        let failed = |error: io::Error| {
            Problem::new("listen", format!("cannot listen on {address} for the vault's clients: {error}"))
                .hint("another process may have the port: is the vault served already?")
        };
        let context = Arc::new(Context {
            vault: served.vault,
            name: served.name,
            doorkeeper: served.doorkeeper,
            admission: served.admission,
            sessions: Sessions::default(),
        });
        let reception = Arc::new(Reception {
            acceptor: tls::party_server_config(credentials)?.into(),
            context: context.clone(),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            strangers: Mutex::default(),
            connections: Semaphore::new(CONNECTIONS_MAX),
            limiter: Mutex::default(),
        });
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let swept = context.clone();
        let sweeping = tokio::spawn(async move {
            loop {
                sleep(SWEEP_EVERY).await;
                swept.sessions.sweep(Instant::now());
            }
        });
        Ok(Self { address, tasks: vec![tokio::spawn(accept(listener, reception)), sweeping], context })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections and makes durable what sessions hold.
    pub async fn stop(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        let context = self.context.clone();
        let _ = tokio::task::spawn_blocking(move || context.sessions.flush()).await;
    }
}

async fn accept(listener: TcpListener, reception: Arc<Reception>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                tokio::spawn(reception.clone().receive(stream, from));
            }
            Err(error) => {
                // Out of descriptors, or a connection that broke before it was taken: neither ends the listening.
                reception.log(|left_out| tracing::warn!(left_out, "cannot accept a connection: {error}"));
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A handshake under way from an address.
struct Stranger<'r> {
    all: &'r Mutex<HashMap<IpAddr, usize>>,
    from: IpAddr,
}

impl<'r> Stranger<'r> {
    fn come(all: &'r Mutex<HashMap<IpAddr, usize>>, from: IpAddr) -> Option<Self> {
        let mut known = all.lock().unwrap_or_else(PoisonError::into_inner);
        let count = known.entry(from).or_default();
        (*count < HANDSHAKES_OF_ONE_MAX).then(|| {
            *count += 1;
            Self { all, from }
        })
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        let mut known = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = known.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                known.remove(&self.from);
            }
        }
    }
}

impl Reception {
    async fn receive(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let (Some(stranger), Ok(handshake), Ok(_connection)) = (
            Stranger::come(&self.strangers, from.ip()),
            self.handshakes.try_acquire(),
            self.connections.try_acquire(),
        ) else {
            self.log(|left_out| tracing::warn!(%from, left_out, "refused a connection: too many at once"));
            return;
        };
        let shaken = timeout(GREETING_LIMIT, async {
            connection::tune(&stream)?;
            self.acceptor.accept(stream).await
        });
        let shaken = shaken.await;
        drop((handshake, stranger));
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let why = tls::explain_io(&error);
                self.log(|left_out| tracing::warn!(%from, left_out, "refused a connection: {why}"));
                return;
            }
            Err(_) => {
                self.log(|left_out| tracing::warn!(%from, left_out, "refused a connection: no TLS handshake in time"));
                return;
            }
        };
        let party = match tls::party(stream.get_ref().1.peer_certificates()) {
            Ok(party) => party,
            Err(error) => {
                self.log(|left_out| tracing::warn!(%from, left_out, "refused a connection: {error}"));
                return;
            }
        };
        match serve(self.context.clone(), party.clone(), stream).await {
            LinkError::Closed => tracing::debug!(%party, "a connection ended"),
            error => {
                self.log(|left_out| tracing::warn!(%from, %party, left_out, "a connection ended: {error}"))
            }
        }
    }

    fn log(&self, write: impl FnOnce(u64)) {
        let allowed = self.limiter.lock().unwrap_or_else(PoisonError::into_inner).allow(clock::now());
        if let Some(left_out) = allowed {
            write(left_out);
        }
    }
}
