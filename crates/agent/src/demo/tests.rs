use super::*;
use std::fs;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anshin-demo-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn lines_come_back_in_order_after_opening_again() {
    let dir = Dir::new("order");
    let mut store = Store::open(&dir.0).unwrap();
    assert_eq!(store.append("one").unwrap(), 1);
    assert_eq!(store.append("two words, 安心").unwrap(), 2);
    assert!(matches!(Store::open(&dir.0), Err(StoreError::Busy)));
    drop(store);
    assert_eq!(Store::open(&dir.0).unwrap().lines(), ["one", "two words, 安心"]);
}

#[test]
fn a_torn_last_line_is_cut_wherever_it_tore_and_writing_goes_on() {
    let dir = Dir::new("torn");
    let mut store = Store::open(&dir.0).unwrap();
    store.append("kept").unwrap();
    store.append("torn").unwrap();
    drop(store);
    let whole = fs::read(dir.0.join("lines")).unwrap();
    let kept = whole.len() / 2;
    for cut in kept..whole.len() {
        fs::write(dir.0.join("lines"), &whole[..cut]).unwrap();
        let mut store = Store::open(&dir.0).unwrap();
        assert_eq!(store.lines(), ["kept"], "cut at {cut}");
        assert_eq!(store.append("next").unwrap(), 2);
        drop(store);
        assert_eq!(Store::open(&dir.0).unwrap().lines(), ["kept", "next"]);
    }
}

#[test]
fn a_damaged_acknowledged_line_is_refused_and_named() {
    let dir = Dir::new("damaged");
    let mut store = Store::open(&dir.0).unwrap();
    for text in ["one", "two", "three"] {
        store.append(text).unwrap();
    }
    drop(store);
    let mut bytes = fs::read(dir.0.join("lines")).unwrap();
    let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 10;
    bytes[second] ^= 1;
    fs::write(dir.0.join("lines"), &bytes).unwrap();
    assert!(matches!(Store::open(&dir.0), Err(StoreError::Damaged { line: 2 })));
}

#[test]
fn clients_speak_lines_or_http() {
    let dir = Dir::new("clients");
    let store = Store::open(&dir.0).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(&listener, store));
    let talk = |text: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut out = String::new();
        stream.read_to_string(&mut out).unwrap();
        out
    };
    assert_eq!(talk("APPEND a\nAPPEND b c\r\nCOUNT\n"), "OK 1\nOK 2\nOK 2\n");
    assert!(talk("APPEND cut off by the client").starts_with("ERROR"));
    assert!(talk("DROP TABLE\n").starts_with("ERROR"));
    let posted = talk("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\nd\ne f g");
    assert!(posted.starts_with("HTTP/1.1 200") && posted.ends_with("\r\n\r\nOK 3\nOK 4\n"), "{posted}");
    assert!(talk("GET / HTTP/1.1\r\n\r\n").ends_with("\r\n\r\na\nb c\nd\ne f g\n"));
    assert_eq!(talk("LIST\n"), "OK 4\na\nb c\nd\ne f g\n");
}

#[test]
fn the_resource_becomes_a_command_with_quoted_words() {
    let resource =
        Resource::new("d", Class::Builtin, "demo").with("dir", "/srv/it's").with("listen", "0.0.0.0:7700");
    let command = as_command(&resource, Path::new("/usr/bin/anshin")).unwrap();
    let line = r"exec '/usr/bin/anshin' run demo --dir '/srv/it'\''s' --listen 0.0.0.0:7700";
    assert_eq!(command.parameter("start"), Some(line));
    let missing = Resource::new("d", Class::Builtin, "demo").with("dir", "/srv");
    assert_eq!(as_command(&missing, Path::new("x")).unwrap_err().code, "missing-parameter");
}
