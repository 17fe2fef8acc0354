//! The lab: a whole site on one machine, with real processes on simulated machines.
//!
//! [`lab`] makes machines out of namespaces and takes them away again.

pub mod control;
pub mod error;
pub mod faultdisk;
pub mod lab;
pub mod probe;
pub mod proxy;
pub mod report;
pub mod rng;
pub mod scenario;
pub mod site;
pub mod sys;
