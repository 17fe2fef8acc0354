//! A deterministic world for the ledger and the replication core: one thread, one seed, simulated clock, network, disks
//! and processes. The cores that run in it are the ones that run in the real processes.

pub mod build;
pub mod client;
pub mod disk;
pub mod faults;
pub mod finish;
pub mod links;
pub mod members;
pub mod model;
pub mod network;
pub mod oracles;
pub mod progress;
pub mod prove;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod trace;
pub mod volumes;
pub mod voters;
pub mod world;
