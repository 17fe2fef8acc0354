//! The files that the page needs, carried inside the binary.

use crate::answer::Refusal;
use anshin_base::Problem;
use axum::{extract::Path, http::header, response::IntoResponse};

const ASSETS: [(&str, &str, &str); 3] = [
    ("console.css", "text/css; charset=utf-8", include_str!("../assets/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("../assets/console.js")),
    ("icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
];

/// One of the files.
pub async fn asset(Path(name): Path<String>) -> Result<impl IntoResponse, Refusal> {
    let found = ASSETS.iter().find(|(known, ..)| *known == name);
    let (_, kind, text) = found.ok_or_else(|| Problem::new("path-unknown", "there is no such file"))?;
    // Asked for again after each upgrade, and never served stale to a page of another version.
    Ok(([(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")], *text))
}
