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
    as_root timeout --foreground --signal=KILL "${minutes}m" unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        bash -c 'mount --bind "$1" /mnt && cd / && shift && exec linux.uml "$@"' guest "$dir" \
        mem=1G uml_dir=/mnt umid=guest root=/dev/root rootfstype=hostfs rootflags=/ ro init=/mnt/init \
        con=null con0=null,fd:1 ssl=null systemd.gpt_auto=0 "$@" \
        >"$dir/console" 2>&1 </dev/null || code=$?
    [ -e "$dir/log" ] && cat "$dir/log"
    [ "$code" != 124 ] && [ "$code" != 137 ] || { echo "guest: longer than $minutes minutes" >&2; return 124; }
    [ -e "$dir/code" ] || { tail -n 40 "$dir/console" >&2; echo "guest: ended without an answer" >&2; return 125; }
    return "$(cat "$dir/code")"
}
