//! The link between who owns data and the process that serves a vault: [`anshin_vault::Keeper`] over mutual TLS 1.3.
//!
//! ```text
//!  session ── RemoteKeeper ══ frames over TLS ══ Server ── sessions ── Handle ── store
//!             (numbers, repeats)                (who may what: Doorkeeper; what may be sealed: Admission)
//! ```
//! Every call can be repeated without harm, which is all that resuming after a broken connection rests on: the client sends
//! again what was not answered, the server has kept what it promised to the session. The format is docs/formats/vault-link.md.

mod connection;
pub mod doorkeeper;
mod errors;
mod greeting;
pub mod remote;
pub mod server;
mod serving;
mod sessions;
pub mod wire;

#[cfg(test)]
mod tests;

pub use doorkeeper::{Admission, AdmitAll, Doorkeeper, Pass};
pub use remote::{Patience, RemoteKeeper};
pub use server::{Served, Server};
