//! A site for tests, with its certificates.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each test file uses its part of this")]

use anshin_base::NodeId;
use anshin_link::{Authority, Credentials, NodeKey};
use std::sync::Arc;

pub fn authority(site: &str) -> Authority {
    Authority::create(site).unwrap()
}

pub fn node(authority: &Authority, id: u32, name: &str) -> Arc<Credentials> {
    let key = NodeKey::generate().unwrap();
    let certificate = authority.issue(&key.request_pem().unwrap(), NodeId(id), name).unwrap();
    Arc::new(key.with_certificate(&certificate, authority.certificate_pem()).unwrap())
}
