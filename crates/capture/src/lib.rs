//! Capture: reads file trees with every attribute, block devices, images and streams into a vault, and brings them back.

pub mod tree;
