//! Dialling: TCP, TLS, hello.

use super::{MeshTimes, link::Greeter, link::tune, wire::FRAME_LENGTH_MAX, wire::Hello};
use crate::{
    framed::{FrameReader, FrameWriter, LinkError, frames},
    tls,
};
use anshin_base::NodeId;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A link that stands.
pub(super) struct Connection {
    pub(super) hello: Hello,
    pub(super) reader: FrameReader<ReadHalf<TlsStream<TcpStream>>>,
    pub(super) writer: FrameWriter<WriteHalf<TlsStream<TcpStream>>>,
}

/// Makes links.
pub(super) struct Dialer {
    connector: TlsConnector,
    greeter: Greeter,
}

impl Dialer {
    pub(super) fn new(config: Arc<rustls::ClientConfig>, greeter: Greeter) -> Self {
        Self { connector: config.into(), greeter }
    }

    pub(super) fn times(&self) -> MeshTimes {
        self.greeter.times
    }

    /// A link to `node` at `address`.
    pub(super) async fn dial(&self, address: &str, node: NodeId) -> Result<Connection, LinkError> {
        let times = self.times();
        let stream = timeout(times.connect, connect(address))
            .await
            .map_err(|_| LinkError::Timeout("connecting"))??;
        tune(&stream, times.write)?;
        timeout(times.handshake, self.greet(stream, node))
            .await
            .map_err(|_| LinkError::Timeout("the handshake"))?
    }

    async fn greet(&self, stream: TcpStream, node: NodeId) -> Result<Connection, LinkError> {
        let stream = self.connector.connect(tls::server_name(), stream).await?;
        let peer = tls::peer_identity(stream.get_ref().1.peer_certificates())
            .map_err(|error| LinkError::Protocol(error.to_string()))?;
        if peer.node != node {
            return Err(LinkError::Protocol(format!("there is {peer} where {node} was expected")));
        }
        let (mut reader, mut writer) = frames(stream, FRAME_LENGTH_MAX, self.times().write);
        writer.send(&self.greeter.hello()).await?;
        let answer = reader.expect("the hello", self.times().handshake).await?;
        Ok(Connection { hello: Greeter::check(&answer, &peer)?, reader, writer })
    }
}

async fn connect(address: &str) -> Result<TcpStream, LinkError> {
    // Addresses of nodes are normally numbers: no link may depend on a name server.
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Ok(TcpStream::connect(address).await?);
    }
    let mut addresses = lookup_host(address).await?;
    let address =
        addresses.next().ok_or_else(|| LinkError::Protocol("the name has no address".to_owned()))?;
    Ok(TcpStream::connect(address).await?)
}
