//! The lab: a whole site on one machine, with real processes on simulated machines.
//!
//! [`lab`] makes machines out of namespaces and takes them away again.

pub mod control;
pub mod error;
pub mod faultdisk;
pub mod lab;
pub mod proxy;
pub mod rng;
pub mod sys;
