# A whole run that is not a long one ends within this.
RUN_MINUTES_MAX=80

# The parts of ./test: name, limit in minutes, kind (quick: no site is started; site; long: only in long runs).

parts() {
    cat <<'END'
fmt 2 quick
clippy 25 quick
unit 40 quick
licences 25 quick
advisories 5 quick
docs 10 quick
simulator 25 site
simulator-proof 10 site
browser 10 quick
fuzz-smoke 10 quick
s3 20 quick
build 15 site
guest-systemd 25 site
story 15 site
END
    sed -n 's/^    "\([a-z-]*\)", [0-9]*, [0-9]*, .*/\1 10 site/p' e2e/src/scenario/mod.rs
    echo "tree-long 30 long"
    echo "vault-long 30 long"
    echo "bench-volume 60 long"
    echo "bench-failover 60 long"
    echo "bench-backup 60 long"
}

# A change of anything in the tree makes every part due again.
tree_state() { { git rev-parse HEAD; git status --porcelain; git diff HEAD; } 2>/dev/null | sha256sum | cut -c1-16; }

chosen() { # name kind mode wanted…
    local name=$1 kind=$2 mode=$3 one; shift 3
    if [ $# -gt 0 ]; then
        for one in "$@"; do [ "$one" = "$name" ] && return 0; done
        return 1
    fi
    case $mode in quick) [ "$kind" = quick ] ;; long) true ;; *) [ "$kind" != long ] ;; esac
}

allowed_skip() { grep -q "^$1 " test-skips.txt; }

reason() { sed -n 's/^.*SKIPPED: *//p' "$KEPT/$1.log" | tail -1; }

# Runs one part under its limit, its output in a log. Into a file and not through a pipe: a process that outlives its part
# would keep a pipe open, and the whole run with it.
run_part() { # name limit in seconds
    local limit=$2 log=$KEPT/$1.log code=0 end="== end of part $1"
    export LONG KEPT STATE
    : >"$log"
    tail -n +1 -s 0.3 -f "$log" | sed -unE "/^$end\$/q; /median|maximum|passed|FAILED|SKIPPED|cluster-hours|^[a-z-]+ [0-9]+ /s/^(.{0,220}).*/\1/p" &
    local watcher=$!
    timeout --kill-after=30 "$limit" bash -c '. e2e/scripts/common.sh; . e2e/scripts/parts.sh; part "$1"' part "$1" \
        >>"$log" 2>&1 </dev/null || code=$?
    printf '\n%s\n' "$end" >>"$log"
    wait "$watcher" || true
    return "$code"
}

# How long a part may take, in seconds: its own limit (ten times as long in long runs), and no longer than what is left of
# the whole run, so that a run that is too slow ends with its table and its reasons instead of being cut off.
part_limit() { # limit in minutes
    local limit=$(($1 * 60)) left=$((RUN_MINUTES_MAX * 60 - SECONDS))
    if [ "$LONG" ]; then echo $((limit * 10)); else echo $((limit < left ? limit : left)); fi
}

skip() { echo "SKIPPED: $*"; exit 77; }

part() {
    set -euo pipefail
    case $1 in
        fmt) cargo fmt --all --check ;;
        clippy) cargo clippy --release --workspace --all-targets -- -D warnings ;;
        unit) unit ;;
        licences) deny licenses bans sources ;;
        advisories) advisories ;;
        docs) RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps ;;
        simulator) simulator ;;
        simulator-proof) build_programs; "$(binary anshin-sim)" prove ;;
        browser) need_packages chromium; cargo nextest run --release --workspace --run-ignored only -E 'package(anshin-console) & test(browser)' ;;
        fuzz-smoke) fuzz_smoke ;;
        s3) . e2e/scripts/s3.sh; s3 ;;
        tree-long) full_size tree 'package(anshin-capture) & (binary(torture) + binary(many) + binary(property))' ;;
        vault-long) full_size vault '(package(anshin-vault) & (binary(damage) + binary(kill) + binary(robustness))) + (package(anshin) & binary(hardship))' ;;
        build) lab_packages; build_programs ;;
        guest-systemd) . e2e/scripts/guest.sh; guest_systemd ;;
        story) . e2e/scripts/story.sh; story ;;
        bench-volume) bench/volume ;;
        bench-failover) bench/failover ;;
        bench-backup) bench/backup ;;
        *) check "$1" ;;
    esac
}

# A long run goes on where the same build was interrupted; it takes hours, so it has a build that takes longer and runs faster.
simulator() {
    if [ "$LONG" ]; then
        cargo build --profile long --quiet --package anshin-sim
        "$(target)/long/anshin-sim" run --twice 200 --seeds 0..1000000 --progress "$KEPT/simulator.progress"
    else
        build_programs
        "$(binary anshin-sim)" run --twice 200 --seeds 0..10000 --budget 1200
    fi
}

# Tests at their full size: each reads LONG, and those that take long keep their rows (anshin_base::testing::Rows).
full_size() { # name tests
    lab_packages
    nextest
    cargo nextest run --release --workspace --no-fail-fast -E "$2"
    cat "$KEPT/$1"-*.rows
}

nextest() {
    cargo nextest --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-nextest
}

# At the size of CI, in a long run too: what is done at full size has parts of its own.
unit() {
    unset LONG
    lab_packages
    nextest || true
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --release --workspace --no-fail-fast
    else
        cargo test --release --workspace
    fi
}

deny() {
    cargo deny --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-deny || skip "cargo-deny cannot be installed"
    cargo deny check "$@"
}

advisories() {
    cargo deny --version >/dev/null 2>&1 || skip "cargo-deny is not installed"
    cargo deny fetch db >/dev/null 2>&1 || skip "the advisory database cannot be reached"
    deny advisories
}

# Decoders of bytes from networks and disks, on random and on damaged input.
fuzz_smoke() {
    PROPTEST_CASES=$([ "$LONG" ] && echo 200000 || echo 5000) cargo nextest run --release --workspace -E 'test(never_panic) + test(decod) + test(garbage)'
}

lab_packages() {
    need_packages iproute2 iputils-ping nftables e2fsprogs fuse3 procps curl resource-agents postgresql fio libnbd-bin qemu-utils tcpdump bc \
        acl attr libcap2-bin rsync xfsprogs btrfs-progs
}

check() {
    lab_packages
    [ -x "$(binary anshin)" ] && [ -x "$(binary anshin-lab)" ] || build_programs
    local next=()
    [ "$1" != upgrade ] || next=(--next "$(next_build)")
    as_root "$(binary anshin-lab)" check "$1" --dir "/var/tmp/anshin-check-$$" --program "$(binary anshin)" \
        --logs "$KEPT/logs" --rows "$KEPT" "${next[@]}" ${LONG:+--long}
}

# A second build with a higher version and one more optional message field, beside the normal one: only the crates
# that differ are built twice.
next_build() {
    build_programs --features anshin/next >&2
    cp --remove-destination "$(binary anshin)" "$KEPT/anshin-next" >&2
    build_programs >&2
    mkdir -p "$KEPT/next"
    mv "$KEPT/anshin-next" "$KEPT/next/anshin"
    realpath "$KEPT/next/anshin"
}
