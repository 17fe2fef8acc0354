# What the scripts at the top of the tree share. Sourced with the tree as the working directory.

fail() { echo "$(basename "$0"): $*" >&2; exit 1; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi; }

target() { echo "${CARGO_TARGET_DIR:-$PWD/target}"; }

binary() { echo "$(target)/release/$1"; }

# Builds every program of the tree. The whole workspace at once, here and everywhere, because cargo builds a dependency anew
# for every selection of crates that asks other features of it.
build_programs() { cargo build --release --quiet --workspace --bins "$@"; }

need_toolchain() {
    local needed have
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -1)
    command -v cargo >/dev/null || [ ! -e "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    command -v cargo >/dev/null || fail "Rust is not installed; it needs version $needed or newer (https://rustup.rs)"
    have=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$needed" "$have" | sort -V | head -1)" = "$needed" ] ||
        fail "Rust is $have, but $needed or newer is needed; with rustup: rustup update stable"
}

# Installs what is missing of the named Debian packages, saying which. Never removes anything to do so.
need_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "these Debian packages are needed: ${missing[*]}"
    echo "Installing ${missing[*]} …"
    as_root env DEBIAN_FRONTEND=noninteractive sh -c \
        'add="apt-get install -qq -y --no-install-recommends --no-remove"
         $add "$@" >/dev/null 2>&1 || { apt-get update -qq && $add "$@" >/dev/null; }' sh "${missing[@]}" ||
        fail "these Debian packages could not be installed: ${missing[*]}"
}
