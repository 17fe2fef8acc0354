//! Points of a volume: a frozen instant that can be read while writes go on.
//!
//! Copy before write: while a point is open, the old content of what a write touches for the first time goes into a side file
//! before the core gets the write. The side file is bounded and its space reserved before the point opens. When it is full or
//! fails, the *point* breaks and its readers get errors; a write of the volume never fails because of a point, and never waits
//! for more than one copy of what it touches. Without a point a write passes with one comparison.
//!
//! [`keeper`] decides, without I/O; [`side`] is the file; [`freeze`] holds a mounted file system still for the instant. The
//! engine carries out what the keeper says.

pub mod freeze;
pub mod keeper;
pub mod side;
