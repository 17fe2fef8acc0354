//! framed
/// x
pub struct FramedStream;
/// x
pub struct LinkError;
