//! Golden bytes and properties of the codec.
