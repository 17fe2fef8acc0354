//! Running what a service is made of: resources of four classes (OCF agents, systemd units, plain commands and the
//! built-in ones), the guard that holds service addresses under a lease, and what a deposed node needs to let go.
//!
//! - [`Runner`] runs one operation of one [`Resource`] and gives its result as data.
//! - [`guard`] is a process of its own: it holds addresses only while the volume's lease is valid (R11, R12).
//! - [`release`] finds and kills the users of a mount and unmounts it (R12).
//! - [`demo`] is a small durable program to protect when nothing else is installed.

pub mod address;
mod cgroup;
pub mod command;
pub mod demo;
pub mod guard;
pub mod helpers;
pub mod ocf;
mod process;
mod procfs;
pub mod release;
mod resource;
mod runner;
pub mod systemd;

pub use resource::{Action, Class, Operation, OperationResult, Rc, Resource, Status};
pub use runner::{Options, Runner};
