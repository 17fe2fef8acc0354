//! The lab: a whole site on one machine, with real processes on simulated machines.
//!
//! [`lab`] makes machines out of namespaces and takes them away again.

pub mod error;
pub mod lab;
pub mod sys;
