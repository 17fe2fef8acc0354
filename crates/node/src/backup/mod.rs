//! Executing backups on the machine that holds the data, in processes of their own: one that fails, or that is killed,
//! takes nothing else with it.

pub mod job;
