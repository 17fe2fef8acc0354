# Servers that speak S3, for the test of the vault's storages; sourced by parts.sh. Each is installed beneath the target
# directory, the first time it is needed; one that cannot be had is left out by the test, which says so.

SERVERS=$(target)/test-servers

# What is built from crates takes many minutes, so only a long run asks for it.
s3_servers() {
    export PATH=$SERVERS/bin:$SERVERS/venv/bin:$SERVERS/node_modules/.bin:$PATH
    mkdir -p "$SERVERS"
    moto_server --help >/dev/null 2>&1 || install_moto || echo "moto cannot be installed"
    s3rver --help >/dev/null 2>&1 || install_s3rver || echo "s3rver cannot be installed"
    [ -n "$LONG" ] || return 0
    # Its next version wants a newer compiler than the tree.
    command -v s3s-fs >/dev/null || install_crate s3s-fs@0.14.1 --features binary || echo "s3s-fs cannot be built"
    command -v garage >/dev/null || install_crate garage || echo "garage cannot be built"
}

install_moto() {
    (need_packages python3-venv) || return
    python3 -m venv "$SERVERS/venv" && "$SERVERS/venv/bin/pip" install --quiet 'moto[server,s3]'
}

# Not worth the hundreds of packages that npm itself is made of.
install_s3rver() {
    command -v npm >/dev/null || return
    npm install --silent --no-audit --no-fund --prefix "$SERVERS" s3rver >/dev/null
}

# Beside the tree's own builds: what these crates want of shared dependencies must not touch them.
install_crate() { # crate options…
    local crate=$1 code=0; shift
    CARGO_TARGET_DIR=$SERVERS/build nice -n 10 cargo install --quiet --locked "$@" --root "$SERVERS" "$crate" || code=$?
    rm -rf "$SERVERS/build"
    return "$code"
}

s3() {
    s3_servers
    moto_server --help >/dev/null 2>&1 || skip "moto, without which no server is asked, cannot be installed"
    cargo nextest run --release --workspace --success-output final --no-fail-fast -E 'package(anshin-vault) & binary(stores)'
}
