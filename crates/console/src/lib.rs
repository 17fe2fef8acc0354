//! The public face of a node: the HTTP/JSON API that the command line uses, and the web console.
//!
//! Both are thin: every handler, JSON or HTML, asks [`anshin_node::control::Control`] and shows its answer. The API is
//! complete on the node's Unix socket, which only its administrator can open. On the loopback address, which every local
//! user and every web page in a local browser can reach, it only reads.

mod answer;
mod api;
mod assets;
mod backups;
mod gate;
mod live;
mod openapi;
mod page;
mod plans;
mod restores;
mod serve;
mod words;

pub use openapi::{openapi_json, path as openapi_path};
pub use serve::{Surface, router, serve_loopback, serve_unix};

#[cfg(test)]
mod tests;
