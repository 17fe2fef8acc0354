# A kernel of our own for what the host's cannot do or must not be asked: user-mode Linux with the host's files as its
# root, read only under a layer of memory, and Debian's systemd as its first process. Sourced after common.sh.

guest_packages() { need_packages user-mode-linux kmod systemd dbus; }

# guest_boot DIR MINUTES COMMAND [KERNEL_ARGUMENT…]
# Boots a guest, runs COMMAND (of bash, as root, under systemd) in it, and gives its exit code; 125 if the guest ended
# without one, 124 if it took too long. What COMMAND prints is in DIR/log, what the kernel and systemd say in
# DIR/console. DIR is /mnt in the guest, the only place where it changes anything outside itself.
# Nothing is left running whatever happens: the guest is the only process of a PID namespace that dies with its parent.
guest_boot() {
    local dir=$1 minutes=$2 command=$3 code=0; shift 3
    mkdir -p "$dir/units"
    rm -f "$dir"/{log,code,console}
    cp e2e/guest/init "$dir/init"
    cp e2e/guest/*.target e2e/guest/*.service "$dir/units/"
    printf '%s\n' "$command" >"$dir/command"
    dir=$(realpath "$dir")
    as_root timeout --foreground --kill-after=5 "${minutes}m" unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        bash -c 'set -e; mount --bind "$1" /mnt; mount -t tmpfs -o size=2G memory /dev/shm; cd /; shift; exec linux.uml "$@"' \
        guest "$dir" mem=1G uml_dir=/mnt umid=guest root=/dev/root rootfstype=hostfs rootflags=/ ro init=/mnt/init \
        con=null con0=null,fd:1 ssl=null systemd.gpt_auto=0 "$@" \
        >"$dir/console" 2>&1 </dev/null || code=$?
    [ -e "$dir/log" ] && cat "$dir/log"
    [ "$code" != 124 ] && [ "$code" != 137 ] || { echo "guest: longer than $minutes minutes" >&2; return 124; }
    [ -e "$dir/code" ] || { tail -n 40 "$dir/console" >&2; echo "guest: ended without an answer" >&2; return 125; }
    return "$(cat "$dir/code")"
}

# The executables of the named test programs, one per line in the same order; built like those of the part unit.
test_programs() {
    local built name flags=()
    for name in "$@"; do flags+=(--test "$name"); done
    built=$(cargo test --release --quiet --workspace "${flags[@]}" --no-run --message-format=json)
    for name in "$@"; do
        sed -n "/\"name\":\"$name\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" <<<"$built"
    done
}

# Units under a real systemd, by themselves and under a whole node.
guest_systemd() {
    lab_packages
    guest_packages
    local dir=$KEPT/guest programs tests
    mapfile -t programs < <(test_programs guest_systemd guest_site)
    [ ${#programs[@]} = 2 ] || fail "the test programs could not be built"
    [ -x "$(binary anshin)" ] || build_programs
    as_root rm -rf "$dir"; mkdir -p "$dir"; truncate -s 1G "$dir/disk"
    tests="set -e
        export ANSHIN_PROGRAM='$(realpath "$(binary anshin)")'
        for round in \$(seq $([ "$LONG" ] && echo 5 || echo 1)); do '${programs[0]}' --ignored --test-threads=1; done
        '${programs[1]}' --ignored --nocapture || { journalctl --no-pager -u 'anshin*' -u 'postgresql*'; exit 1; }"
    guest_boot "$dir" "$([ "$LONG" ] && echo 60 || echo 8)" "$tests" ubd0=/mnt/disk
    rm -f "$dir/disk"
}
