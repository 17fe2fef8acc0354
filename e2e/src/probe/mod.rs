//! Watching from outside what a site promises.
//!
//! | file | what it sees |
//! |---|---|
//! | [`program`] | one connection to a protected program: append a row, list the rows |
//! | [`writer`] | a client that appends without pause, reconnects, and remembers every acknowledged row |
//! | [`machine`] | which machine holds the address, has the device, has the file system mounted, and when |
//! | [`takeover`] | how long an address is away when its machine goes, whatever program moves it |
//! | [`honesty`] | whether a status ever claims more than is true |
//! | [`spans`] | periods of time and whether they overlap (pure) |

pub mod honesty;
pub mod machine;
pub mod program;
pub mod spans;
pub mod takeover;
pub mod writer;
