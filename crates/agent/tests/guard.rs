//! The guard as a process, with a real kernel in namespaces of its own and a neighbour on the other end of a wire.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_agent::guard::{self, Client, FROZEN_GUARD_BOUND, Happened, Hold, Options};
use anshin_base::{Generation, GroupId, Mono, lease::LeaseRecord};
use common::{Dir, Running, in_namespaces, sh, wait_until};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const V4: &str = "10.77.0.50/24";
const V6: &str = "fd77::50/64";
const RUN_DIR: &str = "ANSHIN_TEST_GUARD_DIR";

/// The guard process of the tests below.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn guard_process() {
    let run_dir = std::env::var(RUN_DIR).expect("only run by the other tests");
    guard::run(&Options::new(run_dir)).unwrap();
}

/// A node with a guard and an interface, and a neighbour in another namespace.
struct Node {
    dir: Dir,
    guard: Option<Running>,
    neighbour: Running,
}

impl Node {
    fn new(name: &str) -> Self {
        let dir = Dir::new(name);
        let neighbour = Running::start(Command::new("unshare").args(["--net", "sleep", "1000"]));
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", neighbour.pid());
        wait_until("the neighbour's namespace", Duration::from_secs(10), || {
            fs::read_link(&theirs).is_ok_and(|at| at != own)
        });
        sh(&format!("ip link add wire0 type veth peer name wire1 netns {}", neighbour.pid()));
        sh(
            "ip addr add 10.77.0.1/24 dev wire0 && ip addr add fd77::1/64 dev wire0 nodad && ip link set wire0 up",
        );
        sh(&format!("nsenter -t {} -n ip link set wire1 up", neighbour.pid()));
        let mut node = Self { dir, guard: None, neighbour };
        node.start_guard();
        node
    }

    fn start_guard(&mut self) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "guard_process", "--nocapture"]).env(RUN_DIR, &self.dir.0);
        self.guard = Some(Running::start(command.stdout(Stdio::null())));
        let socket = self.socket();
        wait_until("the guard's socket", Duration::from_secs(10), || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    fn guard(&self) -> &Running {
        self.guard.as_ref().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path("guard.sock")
    }

    fn lease(&self) -> Lease {
        Lease(self.dir.path("lease"))
    }

    fn hold(&self, address: &str) -> Hold {
        Hold { address: address.parse().unwrap(), interface: None, lease: self.lease().0, not_before: None }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket()).await.unwrap()
    }
}

/// The volume process's part.
#[derive(Clone)]
struct Lease(PathBuf);

impl Lease {
    fn until(&self, until: Mono) {
        let record = LeaseRecord { group: GroupId(1), generation: Generation(1), until, sequence: 1 };
        let fresh = self.0.with_extension("new");
        fs::write(&fresh, record.encode()).unwrap();
        fs::rename(fresh, &self.0).unwrap();
    }

    /// Valid for `ms` from now; gives its end.
    fn grant(&self, ms: u64) -> Mono {
        let until = now().after(anshin_base::Millis(ms));
        self.until(until);
        until
    }
}

fn now() -> Mono {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Mono(u64::try_from(at.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(at.tv_nsec).unwrap())
}

fn present(address: &str) -> bool {
    sh("ip -o addr show dev wire0").contains(&format!(" {address} "))
}

fn wait_held(address: &str) {
    wait_until(&format!("{address} held"), Duration::from_secs(5), || present(address));
}

#[tokio::test]
async fn an_address_lives_with_its_lease_and_is_gone_when_the_lease_ends() {
    if !in_namespaces("an_address_lives_with_its_lease_and_is_gone_when_the_lease_ends") {
        return;
    }
    let node = Node::new("lease");
    let mut client = node.client().await;
    let mut events = node.client().await;
    events.events().await.unwrap();
    for address in [V4, V6] {
        client.hold(node.hold(address)).await.unwrap();
    }
    assert!(!present(V4) && !present(V6), "without a lease there is no address");
    let until = node.lease().grant(1_500);
    for address in [V4, V6] {
        wait_held(address);
        assert!(
            !sh(&format!("ip -o addr show to {}", address.split('/').next().unwrap()))
                .contains("valid_lft forever")
        );
    }
    let held = [events.next_event().await.unwrap(), events.next_event().await.unwrap()];
    assert!(held.iter().all(|event| event.happened == Happened::Held));
    wait_until("both addresses gone", Duration::from_secs(5), || !present(V4) && !present(V6));
    let late_ms = (now().0 as f64 - until.0 as f64) / 1e6;
    println!("gone {late_ms:.1} ms after the end of the lease (negative: before)");
    assert!(late_ms < 50.0, "gone {late_ms} ms after the end of the lease");
    assert_eq!(events.next_event().await.unwrap().happened, Happened::LeaseEnded);
    node.lease().grant(60_000);
    wait_held(V4);
    client.release(V4.parse().unwrap()).await.unwrap();
    assert!(!present(V4), "a release is answered when the address is gone");
    assert_eq!(client.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_frozen_guard_loses_its_address_to_the_kernel() {
    if !in_namespaces("a_frozen_guard_loses_its_address_to_the_kernel") {
        return;
    }
    let node = Node::new("frozen");
    node.lease().grant(3_600_000);
    for address in [V4, V6] {
        node.client().await.hold(node.hold(address)).await.unwrap();
        wait_held(address);
    }
    std::thread::sleep(Duration::from_millis(1_200));
    assert!(present(V4) && present(V6), "a living guard renews");
    node.guard().signal("STOP");
    let bound = Duration::from_millis(FROZEN_GUARD_BOUND.0 + 200);
    let took = wait_until("the kernel to remove both", bound, || !present(V4) && !present(V6));
    println!("the kernel removed the addresses {took:?} after the guard froze");
    node.guard().signal("CONT");
    wait_held(V4);
    wait_held(V6);
}

#[tokio::test]
async fn a_new_guard_takes_over_or_drops_what_a_killed_one_held() {
    if !in_namespaces("a_new_guard_takes_over_or_drops_what_a_killed_one_held") {
        return;
    }
    let mut node = Node::new("killed");
    node.lease().grant(3_600_000);
    node.client().await.hold(node.hold(V4)).await.unwrap();
    wait_held(V4);
    node.guard = None;
    node.start_guard();
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(present(V4), "the new guard renews what the killed one added");
    node.guard = None;
    assert!(present(V4), "for a moment the address outlives the guard");
    node.lease().until(Mono(0));
    node.start_guard();
    wait_until("dropped by the new guard", Duration::from_millis(500), || !present(V4));
}

#[tokio::test]
async fn neighbours_see_gratuitous_arp_and_neighbour_advertisements() {
    if !in_namespaces("neighbours_see_gratuitous_arp_and_neighbour_advertisements")
        || common::is_missing("/usr/bin/tcpdump", "tcpdump")
    {
        return;
    }
    let node = Node::new("announce");
    let seen = node.dir.path("seen");
    let neighbour = node.neighbour.pid().to_string();
    let mut listener = Command::new("nsenter");
    listener.args(["-t", &neighbour, "-n", "tcpdump", "-i", "wire1", "-n", "-l", "-e", "arp or icmp6"]);
    let said = node.dir.path("listener");
    listener.stdout(fs::File::create(&seen).unwrap()).stderr(fs::File::create(&said).unwrap());
    let _listener = Running::start(&mut listener);
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    wait_until("the listener", Duration::from_secs(10), || text(&said).contains("listening on"));
    node.lease().grant(3_600_000);
    for address in [V4, V6] {
        node.client().await.hold(node.hold(address)).await.unwrap();
    }
    let requests = || text(&seen).matches("Request who-has 10.77.0.50 ").count();
    let replies = || text(&seen).matches("Reply 10.77.0.50 is-at ").count();
    let advertisements =
        || text(&seen).lines().filter(|line| line.contains("advertisement, tgt is fd77::50")).count();
    wait_until("all announcements", Duration::from_secs(10), || {
        requests() >= 6 && replies() >= 6 && advertisements() >= 6
    });
    let table = || sh(&format!("nsenter -t {neighbour} -n ip -6 neigh show dev wire1"));
    println!("{}{}", text(&seen), table());
}

#[tokio::test]
async fn what_can_never_be_held_is_refused_with_a_hint() {
    if !in_namespaces("what_can_never_be_held_is_refused_with_a_hint") {
        return;
    }
    let node = Node::new("refused");
    let mut client = node.client().await;
    let problem = client.hold(node.hold("192.168.99.1/24")).await.unwrap_err();
    assert_eq!(problem.code, "no-interface");
    let problem = client.hold(node.hold("10.77.0.1/24")).await.unwrap_err();
    assert!(["address-configured", "no-interface"].contains(&problem.code.as_str()), "{problem}");
    let missing = Hold { interface: Some("eth77".to_owned()), ..node.hold(V4) };
    assert_eq!(client.hold(missing).await.unwrap_err().code, "no-such-interface");
    assert_eq!(client.list().await.unwrap(), [], "a refused hold is not kept");
}
