//! Executors as processes, with a vault in a directory, real volumes, a plugin in Python and a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may end where it fails")]

mod common;
mod machine;
mod postgresql;
mod third_party;
mod volume;
