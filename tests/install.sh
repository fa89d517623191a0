#!/bin/sh
# Installs the Debian packages of packages.txt that are missing, as root or through sudo. Quick when none is.
set -eu
list="$(dirname "$0")/packages.txt"

# A program of the package's name, wherever it comes from, is enough.
installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ] || command -v "$1" >/dev/null
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "tests/install.sh: no apt-get here; the tests need the programs of these Debian packages: tests/packages.txt" >&2
    exit 0
fi

# Each line has a package, or several with | between them of which one is enough: the first is installed if none is.
missing=""
while read -r line; do
    line="${line%%#*}"
    first=""
    for name in $line; do
        [ "$name" = "|" ] && continue
        if installed "$name"; then
            first=""
            break
        fi
        first="${first:-$name}"
    done
    missing="$missing${first:+ $first}"
done <"$list"
[ -z "$missing" ] && exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "tests/install.sh: these Debian packages are missing, and there is no sudo: run as root: apt-get install$missing" >&2
        exit 1
    fi
    as_root="sudo"
fi

echo "installing:$missing"
log="$(mktemp)"
policy=/usr/sbin/policy-rc.d
ours=""
cleanup() {
    rm -f "$log"
    [ -z "$ours" ] || $as_root rm -f "$policy"
}
trap cleanup EXIT

# The tests run the programs themselves: Debian's packages must not start their services, which would also take ports.
if [ ! -e "$policy" ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' | $as_root sh -c "cat >$policy && chmod 755 $policy"
fi
install() {
    # shellcheck disable=SC2086  # a list of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq -y \
        --no-install-recommends install $missing >"$log" 2>&1 </dev/null
}
update() {
    $as_root apt-get -o DPkg::Lock::Timeout=300 -qq update
}

# Package lists may be absent or old: a first failure is answered by fetching them.
if ! install; then
    update
    install || { cat "$log" >&2; exit 1; }
fi
