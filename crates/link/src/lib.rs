//! Links: who a peer is, how two nodes talk, and how control traffic finds its way.
//!
//! * [`identity`], [`Authority`], [`Credentials`], [`JoinToken`]: a site has its own certificate authority; a node is
//!   what its certificate says and nothing else.
//! * [`tls`]: TLS 1.3 configurations for links (mutual) and for joining (the authority pinned by fingerprint).
//! * [`framed`]: frames of [`anshin_base::frame`] over a byte stream, bounded in size and time.
//! * [`mesh`]: one link to every other node, heartbeats, liveness and relay (R13).

pub mod authority;
pub mod clock;
pub mod credentials;
pub mod files;
pub mod framed;
pub mod identity;
pub mod limiter;
pub mod mesh;
pub mod party;
pub mod tls;
pub mod token;
mod verify;

pub use authority::Authority;
pub use credentials::{Credentials, CredentialsOf, Identity, NodeKey};
pub use framed::{FrameReader, FrameWriter, LinkError};
pub use identity::{Fingerprint, PeerIdentity, SiteId};
pub use mesh::{Mesh, MeshEvent, MeshOptions};
pub use party::{ClientIdentity, Party};
pub use token::{ClientToken, JoinToken};
