#!/bin/sh
# Checks the crate of the native engine with cargo: lint | test | fuzz | address.
# Without a cargo that can build it this says so, and succeeds: the Python engine needs none.
set -eu
cd "$(dirname "$0")/../wsbridge/native"

minimum="$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)"
skip() {
    echo "tests/native.sh: $1: the native engine is neither built nor tested (Rust $minimum or later: https://rustup.rs)" >&2
    exit 0
}
command -v cargo >/dev/null || skip "there is no cargo"
version="$(cargo --version | cut -d ' ' -f 2)"
[ "$(printf '%s\n' "$minimum" "${version%%-*}" | sort -V | head -n 1)" = "$minimum" ] || skip "cargo is of version $version"

# Components of Rust that a host may not have.
component() {
    if cargo "$1" --version >/dev/null 2>&1; then
        shift
        "$@"
    else
        echo "tests/native.sh: there is no cargo $1: not checked (rustup component add clippy rustfmt)" >&2
    fi
}

case "${1:-}" in
    lint)
        component fmt cargo fmt --check
        component clippy cargo clippy --quiet --locked --all-targets --features extension-module -- -D warnings
        ;;
    test) cargo test --quiet --locked ;;
    # The tests by proptest with many more examples, new ones each time.
    fuzz)
        export PROPTEST_CASES="${PROPTEST_CASES:-20000}" FUZZ_ROUNDS="${FUZZ_ROUNDS:-50000}"
        cargo test --quiet --locked --release
        ;;
    # The tests with AddressSanitizer, which stable Rust has behind a switch.
    address)
        host="$(rustc -vV | sed -n 's/^host: //p')"
        export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR="$PWD/target/address"
        cargo test --quiet --locked --target "$host"
        ;;
    *) echo "Usage: tests/native.sh lint|test|fuzz|address" >&2; exit 64 ;;
esac
