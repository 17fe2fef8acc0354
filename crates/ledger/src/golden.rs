//! Comparison with the golden files of every format. `ANSHIN_BLESS=1` writes them, which is right only for a new one.

/// Panics unless the file holds exactly `bytes`.
pub fn compare(name: &str, bytes: &[u8]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("ANSHIN_BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    assert_eq!(bytes, golden, "the format of {name} may only change with a new version");
}
