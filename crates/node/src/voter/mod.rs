//! stub until merged
use anshin_base::{Problem, VoterId};
use anshin_ledger::state::{Command, Node};
use std::path::Path;
pub fn bootstrap_first(_: &Path, _: &[Command]) -> Result<(), Problem> { Ok(()) }
pub fn bootstrap_join(_: &Path, _: VoterId, _: &[Node]) -> Result<(), Problem> { Ok(()) }
