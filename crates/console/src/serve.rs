//! The router and the two places where it listens.

use crate::{answer::Refusal, api, assets, gate, live, page, plans, restores};
use anshin_base::Problem;
use anshin_node::control::Control;
use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{delete, get, post, put},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::unix::fs::PermissionsExt,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Longest request body: far above any request of the API.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Connections to the console at once.
const CONNECTIONS_MAX: usize = 128;
/// Open event streams at once, over everybody; each costs one status per second.
const STREAMS_MAX: usize = 64;

/// Over what a request comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// The node's socket, which only its administrator can open: everything is allowed.
    UnixSocket,
    /// 127.0.0.1: only reading, and only under the machine's own names.
    Loopback,
}

/// What every handler gets.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) control: Arc<dyn Control>,
    pub(crate) streams: Arc<Semaphore>,
}

/// Everything a node serves, as seen over `surface`.
pub fn router(control: Arc<dyn Control>, surface: Surface) -> Router {
    let api = Router::new()
        .route("/status", get(api::status))
        .route("/events", get(live::events))
        .route("/tokens", get(api::token_list).post(api::token_create))
        .route("/tokens/{id}", delete(api::token_revoke))
        .route("/volumes", get(api::volume_list).post(api::volume_create))
        .route("/services", get(api::service_list).post(api::service_create))
        .route("/services/{name}", get(api::service_show))
        .route("/services/{name}/move", post(api::service_move))
        .route("/services/{name}/state", put(api::service_set_state))
        .route("/nodes/{name}/state", put(api::node_set_state))
        .route("/site/timing", put(api::set_timing))
        .route("/explain/{subject}", get(api::explain))
        .route("/drills", post(api::drill))
        .route("/plans", get(plans::list).post(plans::add))
        .route("/plans/{name}", get(plans::show).put(plans::replace).delete(plans::remove))
        .route("/plans/{name}/runs", post(plans::run))
        .route("/runs", get(plans::runs))
        .route("/runs/{id}", get(plans::run_show))
        .route("/runs/{id}/cancel", post(plans::run_cancel))
        .route("/runs/{id}/hasten", post(plans::run_hasten))
        .route("/plans/{name}/retention", get(plans::retention))
        .route("/catalog/rebuild", post(plans::catalog_rebuild))
        .route("/calendar", get(plans::calendar))
        .route("/restores", get(restores::list).post(restores::start))
        .route("/restores/{id}", get(restores::show))
        .route("/restores/{id}/cancel", post(restores::cancel))
        .route("/openapi.json", get(api::openapi))
        .layer(middleware::from_fn_with_state(control.clone(), gate::settle));
    Router::new()
        .route("/", get(page::page))
        .route("/live", get(live::page))
        .route("/assets/{name}", get(assets::asset))
        .nest("/api/v1", api)
        .fallback(async || Refusal(Problem::new("path-unknown", "there is nothing under this path")))
        .method_not_allowed_fallback(async || {
            let problem = Problem::new("method-unknown", "this path does not take this method");
            Refusal(problem)
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(surface, gate::gate))
        .with_state(Shared { control, streams: Arc::new(Semaphore::new(STREAMS_MAX)) })
}

/// Serves the API on a Unix socket until the task is dropped. A socket left by an earlier daemon is replaced.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve_unix(path: &Path, control: Arc<dyn Control>) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The directory above belongs to the administrator too, so nobody slips in between the two calls.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    axum::serve(listener, router(control, Surface::UnixSocket)).await
}

/// Serves the console on 127.0.0.1 until the task is dropped.
///
/// # Errors
/// When the port cannot be had.
pub async fn serve_loopback(port: u16, control: Arc<dyn Control>) -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).await?;
    axum::serve(Bounded::new(listener), router(control, Surface::Loopback)).await
}

/// A listener with a limited number of connections, the next of which waits to be accepted: any user of the machine can connect,
/// and what the daemon does needs descriptors too.
struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Bounded {
    fn new(listener: TcpListener) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        let room = self.room.clone().acquire_owned().await.expect("invariant: never closed");
        let (stream, from) = axum::serve::Listener::accept(&mut self.listener).await;
        (Counted { stream, _room: room }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection, and its place among those that there may be.
struct Counted {
    stream: TcpStream,
    _room: OwnedSemaphorePermit,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener;

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_until_one_ends() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut bounded = Bounded::new(listener);
        let mut clients = Vec::new();
        let mut served = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            clients.push(TcpStream::connect(at).await.unwrap());
            served.push(bounded.accept().await);
        }
        clients.push(TcpStream::connect(at).await.unwrap());
        let soon = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, bounded.accept()).await.is_err());
        served.pop();
        assert!(tokio::time::timeout(soon * 100, bounded.accept()).await.is_ok());
    }
}
