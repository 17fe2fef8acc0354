# The README's story, each line as it stands there, and what ./try leaves behind: nothing. Sourced with the tree as the
# working directory.

story() {
    export ANSHIN_TRY_DIR=/var/tmp/anshin-story-$$
    trap './try --stop >/dev/null 2>&1 || true' EXIT
    local line out start lines=()
    mapfile -t lines < <(sed -n 's/^    \$ \(\.\/try[^#]*\).*/\1/p' README.md | sed 's/ *$//')
    [ ${#lines[@]} -ge 10 ] || fail "the README tells no story any more"
    for line in "${lines[@]}"; do
        start=$SECONDS
        out=$(eval "$line" 2>&1 </dev/null) || { echo "$out"; fail "this line of the README fails: $line"; }
        printf 'passed in %s s: %s\n' $((SECONDS - start)) "$line"
        case $line in
            *"curl -s http"*) [ "$out" = hello ] || fail "an acknowledged line is not there: $out" ;;
            *"cat /srv/data/letter") [ "$out" = "not to be lost" ] || fail "the letter did not come back: $out" ;;
        esac
    done
    [ "${lines[-1]}" = "./try --stop" ] || fail "the story does not end with ./try --stop"
    nothing_left
}

# Neither a directory nor a process nor a mount nor a loop device of the site is there any more.
nothing_left() {
    local left
    left=$({ ls -d "$ANSHIN_TRY_DIR"; grep -F "$ANSHIN_TRY_DIR" /proc/mounts; losetup --list --noheadings --output NAME,BACK-FILE | grep -F "$ANSHIN_TRY_DIR"
        pgrep -fa "$ANSHIN_TRY_DIR"; } 2>/dev/null || true)
    [ -z "$left" ] || fail "./try --stop left behind: $left"
}
