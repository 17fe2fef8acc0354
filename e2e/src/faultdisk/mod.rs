//! A disk with a volatile cache, as a directory that programs can use: what was not flushed may be lost, torn or
//! reordered at a crash, and operations fail or crawl when told to.
//!
//! Names and directories are passed through and count as durable at once; only the content of files is volatile.

pub mod cache;
pub mod disk;
pub mod fs;

pub use disk::Disk;
