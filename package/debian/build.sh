#!/bin/sh
# Builds the Debian package from a wheel, with the libraries of package/requirements.txt, for the Python of this Debian.
# Usage: package/debian/build.sh WHEEL DIRECTORY
#
# Needs python3-venv and dpkg-dev. The result depends only on the wheel, these files and the release of Debian: times are
# those of the changelog, unless SOURCE_DATE_EPOCH says otherwise. DEBEMAIL and DEBFULLNAME name the maintainer, as for the
# tools of Debian; without them it is the address of the changelog, which is none that mail reaches.
set -eu
umask 022
wheel="$(realpath "$1")"
target="$(realpath "$2")"
here="$(dirname "$(realpath "$0")")"
source="$(realpath "$here/../..")"
python=/usr/bin/python3

changelog() { dpkg-parsechangelog -l "$here/changelog" -S "$1"; }
version="$(changelog Version)"
maintainer="$(changelog Maintainer)"
[ -z "${DEBEMAIL:-}" ] || maintainer="${DEBFULLNAME:-${maintainer% <*}} <$DEBEMAIL>"
maintainer="$(printf '%s' "$maintainer" | sed 's/[&|\\]/\\&/g')"
architecture="$(dpkg --print-architecture)"
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(changelog Timestamp)}"
export SOURCE_DATE_EPOCH
case "$(basename "$wheel")" in
    "wsbridged-${version%-*}-"*) ;;
    *) echo "build.sh: $wheel is not version ${version%-*} of package/debian/changelog" >&2; exit 1 ;;
esac

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
root="$work/root"
lib="$root/usr/lib/wsbridge"
doc="$root/usr/share/doc/wsbridge"

# The environment. What refers to the directory of the build goes: the programs, which python3 -I replaces.
"$python" -m venv "$lib"
pip="$lib/bin/python -m pip --quiet --disable-pip-version-check"
$pip install --only-binary :all: --require-hashes -r "$source/package/requirements.txt"
$pip install --no-deps --no-index "$wheel"
$pip uninstall --yes setuptools pip
site="$("$lib/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
release="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
next="${release%.*}.$((${release#*.} + 1))"
find "$lib/bin" -mindepth 1 -delete
sed -i '\|^\.\./\.\./\.\./bin/|d' "$site"/*.dist-info/RECORD
rm -rf "${lib:?}/include" "${lib:?}/lib64" "$site"/wsbridged-*.dist-info/direct_url.json
find "$lib" -name __pycache__ -prune -exec rm -rf {} +
ln -s "$python" "$lib/bin/python3"
printf '#!/usr/lib/wsbridge/bin/python3 -I\nfrom wsbridge.cli.main import main\n\nmain()\n' >"$lib/bin/wsbridge"
chmod 0755 "$lib/bin/wsbridge"
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >"$lib/pyvenv.cfg"
# They are no programs, and /usr/bin/python is none in Debian.
find "$site" -name '*.py' -exec sed -i '1{/^#!/d}' {} +
# Bytecode that is checked against its source: times of files do not matter. The same bytes each time: sets of constants
# are in the order of the hash seed, and references among them depend on what a process has compiled before.
PYTHONHASHSEED=0 "$python" -m compileall -q --invalidation-mode checked-hash -s "$root" "$site"

# What the wheel has beside its package.
mkdir -p "$root/usr/bin" "$root/usr/share"
ln -s ../lib/wsbridge/bin/wsbridge "$root/usr/bin/wsbridge"
cp -r "$lib/share/." "$root/usr/share"
rm -r "$lib/share"
mv "$root/usr/share/zsh/site-functions" "$root/usr/share/zsh/vendor-completions"
ln -s conf "$doc/examples"
gzip -9n "$root"/usr/share/man/man?/*
gzip -9n <"$here/changelog" >"$doc/changelog.Debian.gz"
sed -e '1,/^$/d' -e 's/^$/./' -e 's/^/ /' "$source/LICENSE" >"$work/license"
sed -e "/@LICENSE@/{r $work/license" -e 'd}' "$here/copyright" >"$doc/copyright"

# Units: where the program and the documentation are, and a user that exists while the service does not run.
units="$root/lib/systemd/system"
mkdir -p "$units"
for unit in "$source"/systemd/wsbridge*; do
    { echo "# Change settings with systemctl edit, so that they survive updates of this file. See docs/systemd.md in"
      echo "# /usr/share/doc/wsbridge; beside it are drop-ins for common cases, in systemd/drop-ins."
      echo
      sed -n '/^\[Unit\]/,$p' "$unit" |
        sed -e 's|/usr/local/bin/|/usr/bin/|' \
            -e 's|^Documentation=.*|Documentation=man:wsbridge(1) man:wsbridge.yaml(5) file:///usr/share/doc/wsbridge|'
    } >"$units/$(basename "$unit")"
done
sed -i -e "/^# A user that exists only/,/^DynamicUser=yes/{/^DynamicUser=yes/r $here/user.conf
    d}" "$units/wsbridge.service"
if grep -rq /usr/local "$units" || grep -q DynamicUser "$units/wsbridge.service"; then
    echo "build.sh: the units of systemd/ have changed: adapt what it replaces in them" >&2
    exit 1
fi

install -D -m 0644 "$here/wsbridge.yaml" "$root/etc/wsbridge/wsbridge.yaml"
install -D -m 0644 "$here/logrotate" "$root/etc/logrotate.d/wsbridge"
install -d "$root/etc/wsbridge/conf.d"
install -D -m 0644 "$here/sysusers.conf" "$root/usr/lib/sysusers.d/wsbridge.conf"
install -D -m 0644 "$here/tmpfiles.conf" "$root/usr/lib/tmpfiles.d/wsbridge.conf"
install -D -m 0644 "$here/lintian-overrides" "$root/usr/share/lintian/overrides/wsbridge"

# Control files. The C libraries that the extension modules need are those of this Debian.
install -d "$root/DEBIAN" "$work/debian"
printf 'Source: wsbridge\n\nPackage: wsbridge\nArchitecture: any\n' >"$work/debian/control"
libraries="$(cd "$work" && find root/usr/lib/wsbridge -name '*.so*' -type f -exec dpkg-shlibdeps -O --warnings=0 --ignore-missing-info {} + |
    sed -n 's/^shlibs:Depends=//p')"
# As dpkg-gencontrol counts: files in whole KiB, and one for everything else; du counts what a file system gives to
# directories.
size="$(find "$root" -mindepth 1 -path "$root/DEBIAN" -prune -o -printf '%y %s\n' |
    awk '{ total += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print total }')"
sed -e "s|@VERSION@|$version|" -e "s|@ARCHITECTURE@|$architecture|" -e "s|@MAINTAINER@|$maintainer|" \
    -e "s|@SIZE@|$size|" \
    -e "s#@DEPENDS@#python3 (>= $release), python3 (<< $next), $libraries#" "$here/control.in" >"$root/DEBIAN/control"
printf '/etc/wsbridge/wsbridge.yaml\n/etc/logrotate.d/wsbridge\n' >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 0755 "$here/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find . -path ./DEBIAN -prune -o -path ./etc -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) \
    >"$root/DEBIAN/md5sums"

find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz -z3 --build "$root" "$target" >&2
echo "$target/wsbridge_${version}_$architecture.deb"
