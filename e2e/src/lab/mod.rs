//! Machines made of namespaces: nodes, the switch between them, and a client's place.
//!
//! | file | what |
//! |---|---|
//! | [`state`] | what exists, in a JSON file, so that every command can be a process of its own |
//! | [`process`] | processes named so that a recycled pid is never mistaken for them |
//! | [`switch`] | the bridge, the cables, and every kind of cut |
//! | [`machine`] | what runs inside: the keeper of the namespaces and the node's process 1 |
//! | [`node`] | start, kill, freeze, and running commands inside |
//! | [`loops`] | loop devices that a dead node leaves behind |
//! | [`limited`] | commands that end within a limit |
//! | [`forward`] | publishing a node's port on the host's loopback |
//! | [`up`] | a whole lab up and down |

pub mod forward;
pub mod limited;
pub mod loops;
pub mod machine;
pub mod node;
pub mod process;
pub mod state;
pub mod switch;
pub mod up;

pub use state::Lab;
