"""A real systemd as PID 1 of namespaces of its own, with the units of this tree installed; nothing of the host changes.

The root is an overlay over that of the host, whose changes are lost at the end; ports are those of the host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
SYSTEMD = "/lib/systemd/systemd"
TARGET = "wsbridge-test.target"
SECONDS = 60.0

BOOT = r"""
set -e
work=$1 root=$work/t/root
mount --make-rprivate /
mount -t tmpfs tmpfs "$work/t"
mkdir "$work/t/upper" "$work/t/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/t/upper,workdir=$work/t/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
for directory in dev run tmp sys/fs/cgroup; do mount -t tmpfs tmpfs "$root/$directory"; done
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mkdir "$root/dev/pts" "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for device in null:3 zero:5 full:7 random:8 urandom:9; do
  mknod -m 666 "$root/dev/${device%:*}" c 1 "${device#*:}"
done
mknod -m 666 "$root/dev/tty" c 5 0
mkdir -p "$root/opt/python" "$root/opt/site" "$root/opt/source"
mount --bind "$2" "$root/opt/python"
mount --bind "$3" "$root/opt/site"
mount --bind "$4" "$root/opt/source"
cp -r "$work/files/." "$root/"
cd "$root"
mkdir old
pivot_root . old
cd /
umount -l /old
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test TERM=dumb \
  "$5" --system "--unit=$6" --log-target=journal --show-status=no
"""

WSBRIDGE = """#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/source:/opt/site PYTHONDONTWRITEBYTECODE=1
exec /opt/python/bin/python{version} -m wsbridge "$@"
"""


class CannotBootError(Exception):
    """systemd cannot be booted here; the text says why."""


class BootedSystemd:
    """A systemd that runs; use it as a context manager.

    Args:
        files: What is put into its root, by absolute path: a text, or a file to copy.
        installed: Whether the units of this tree and a command that runs it are installed.
    """

    def __init__(self, files: Mapping[str, str | Path], *, installed: bool = True) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="wsbridge-systemd-")
        self._work = Path(self._temporary.name)
        self._cgroup: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        (self._work / "t").mkdir()
        target = "[Unit]\nDescription=test\nRequires=systemd-journald.service\nAfter=systemd-journald.service\n"
        files = {f"/etc/systemd/system/{TARGET}": target, **(self._installed() if installed else {}), **files}
        for name, content in files.items():
            path = self._work / "files" / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, path)
            else:
                path.write_text(content)
            path.chmod(0o755 if "/bin/" in name else 0o644)

    @staticmethod
    def _installed() -> dict[str, str]:
        """Return the units of this tree, and a command that runs it."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        units = {f"/etc/systemd/system/{path.name}": path.read_text() for path in (ROOT / "systemd").glob("wsbridge*")}
        return {**units, "/usr/local/bin/wsbridge": WSBRIDGE.format(version=version)}

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _boot(self) -> None:
        if os.geteuid() != 0 or not Path(SYSTEMD).exists() or shutil.which("unshare") is None:
            raise CannotBootError("needs root, systemd and unshare")
        rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        mounted = next((row[1] for row in rows if row[2] == "cgroup2"), None)
        if mounted is None:
            raise CannotBootError("needs cgroup2")
        self._cgroup = Path(mounted) / self._work.name
        try:
            self._cgroup.mkdir()
        except OSError as error:
            raise CannotBootError(f"no control group: {error}") from None
        namespaces = ["--fork", "--kill-child", "--pid", "--mount", "--cgroup", "--uts", "--ipc"]
        command = ["unshare", *namespaces, "/bin/sh", "-c", BOOT, "boot", str(self._work), sys.base_prefix]
        command += [sysconfig.get_path("purelib"), str(ROOT), SYSTEMD, TARGET]
        join = f'echo $$ > "{self._cgroup}/cgroup.procs" && exec "$@"'
        with (self._work / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", join, "join", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + SECONDS
        while self.run("systemctl", "is-active", TARGET).stdout.strip() != "active":
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CannotBootError((self._work / "log").read_text()[-500:])
            time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        pid = self._pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)  # ends all processes of the namespace
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
            self._process.wait(SECONDS)
        if self._cgroup is not None:
            deadline = time.monotonic() + SECONDS
            while self._cgroup.exists() and time.monotonic() < deadline:
                for path in sorted(self._cgroup.rglob("*"), reverse=True):
                    if path.is_dir():
                        with contextlib.suppress(OSError):
                            path.rmdir()
                with contextlib.suppress(OSError):  # processes are still ending
                    self._cgroup.rmdir()
                time.sleep(0.02)
        self._temporary.cleanup()

    @property
    def _pid(self) -> int | None:
        """That of systemd as the host sees it; None if it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-p", "-u", "-i", "-C", "-r", "-w"]
        environ = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, check=False, timeout=SECONDS, env=environ
        )

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl, which must succeed; return what it prints."""
        done = self.run("systemctl", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr + self.journal()
        return done.stdout.strip()

    def show(self, unit: str, key: str) -> str:
        """Return a property of a unit."""
        return self.systemctl("show", "--value", "-p", key, unit)

    def journal(self) -> str:
        """Return the journal."""
        return self.run("journalctl", "--no-pager", "-n", "60").stdout
