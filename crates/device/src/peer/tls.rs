//! One end of a mutual TLS 1.3 connection, without I/O: ciphertext in and plaintext out, and the other way round.
//! rustls' unbuffered interface decrypts in the receive buffer and encrypts from the caller's memory.

use rustls::{
    ClientConfig, Error, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::{CertificateDer, ServerName},
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
        WriteTraffic,
    },
};
use std::sync::Arc;

/// Handshake records that wait for more than this are not a peer's.
const HANDSHAKE_MAX: usize = 64 << 10;

/// The connection.
pub enum Tls {
    /// This end dialled.
    Client(Box<UnbufferedClientConnection>),
    /// This end was dialled.
    Server(Box<UnbufferedServerConnection>),
}

/// What a call of [`Tls::advance`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The handshake needs more from the peer.
    Handshaking,
    /// Data flows.
    Ready,
    /// The peer said goodbye.
    Closed,
}

impl Tls {
    /// The dialling end.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    pub fn dial(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        Ok(Self::Client(Box::new(UnbufferedClientConnection::new(config, name)?)))
    }

    /// The dialled end.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    pub fn accept(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::Server(Box::new(UnbufferedServerConnection::new(config)?)))
    }

    /// The peer's verified certificates, after the handshake.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Client(connection) => connection.peer_certificates(),
            Self::Server(connection) => connection.peer_certificates(),
        }
    }

    /// Works through `incoming`: says how many bytes at its front are used up, hands every piece of plaintext to `plain`,
    /// and appends what must be sent to `outgoing`.
    ///
    /// # Errors
    /// What rustls has against the peer. `outgoing` may hold an alert worth sending.
    pub fn advance(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
        plain: &mut dyn FnMut(&[u8]),
    ) -> Result<(usize, State), Error> {
        let mut used = 0;
        loop {
            let part = &mut incoming[used..];
            let (discard, state) = match self {
                Self::Client(connection) => one(connection.process_tls_records(part), outgoing, plain),
                Self::Server(connection) => one(connection.process_tls_records(part), outgoing, plain),
            };
            used += discard;
            if let Some(state) = state? {
                if state == State::Handshaking && incoming.len() - used > HANDSHAKE_MAX {
                    return Err(Error::General("a handshake longer than allowed".into()));
                }
                return Ok((used, state));
            }
        }
    }

    /// Appends `plain`, encrypted, to `outgoing`. Only when ready.
    ///
    /// # Errors
    /// If the connection cannot take data (any more).
    pub fn encrypt(&mut self, plain: &[u8], outgoing: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Client(connection) => encrypt(connection.process_tls_records(&mut []), plain, outgoing),
            Self::Server(connection) => encrypt(connection.process_tls_records(&mut []), plain, outgoing),
        }
    }
}

/// Handles one state of the connection: bytes to discard, and where it stands if there is nothing more to do now.
fn one<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Vec<u8>,
    plain: &mut dyn FnMut(&[u8]),
) -> (usize, Result<Option<State>, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let end = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(None),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, outgoing).map(|()| None),
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            // The caller sends `outgoing` when this returns.
            transmit.done();
            Ok(None)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Some(State::Handshaking)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Some(State::Ready)),
        Ok(_) => Ok(Some(State::Closed)),
    };
    (discard, end)
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) -> Result<(), Error> {
    let start = outgoing.len();
    let mut room = 4096;
    loop {
        outgoing.resize(start + room, 0);
        match data.encode(&mut outgoing[start..]) {
            Ok(count) => {
                outgoing.truncate(start + count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > room =>
            {
                room = required_size;
            }
            Err(error) => {
                outgoing.truncate(start);
                return Err(Error::General(error.to_string()));
            }
        }
    }
}

fn encrypt<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &[u8],
    outgoing: &mut Vec<u8>,
) -> Result<(), Error> {
    let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else {
        return Err(Error::General("the connection takes no data".into()));
    };
    let start = outgoing.len();
    // A record holds 16 KiB and adds 22 bytes; a few more for a change of keys.
    let mut room = plain.len() + (plain.len() / (16 << 10) + 1) * 32 + 64;
    loop {
        outgoing.resize(start + room, 0);
        match write(&mut traffic, plain, &mut outgoing[start..]) {
            Ok(count) => {
                outgoing.truncate(start + count);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > room =>
            {
                room = required_size;
            }
            Err(error) => {
                outgoing.truncate(start);
                return Err(Error::General(error.to_string()));
            }
        }
    }
}

fn write<Data>(
    traffic: &mut WriteTraffic<'_, Data>,
    plain: &[u8],
    out: &mut [u8],
) -> Result<usize, EncryptError> {
    traffic.encrypt(plain, out)
}
