"""The memory limits of the process, read from directories that look like those of the kernel."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from wsbridge.limits.loop_lag import WINDOW, WINDOWS, Lag, LoopLag
from wsbridge.limits.memory import MemoryLimits, MemoryUsage


def cgroup(directory: Path, current: int = 0, stat: str = "", **limits: object) -> Path:
    """Write the files of a cgroup."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.current").write_text(f"{current}\n")
    (directory / "memory.stat").write_text(stat)
    for name in ("max", "high"):
        (directory / f"memory.{name}").write_text(f"{limits.get(name, 'max')}\n")
    return directory


def process(folder: Path, membership: str) -> Path:
    """Write the files of a process."""
    folder.mkdir(exist_ok=True)
    (folder / "cgroup").write_text(membership)
    (folder / "statm").write_text("1000 500 100 1 0 400 0\n")
    return folder


def test_the_own_cgroup_and_those_above_count(tmp_path):
    """The limit that is nearest counts, whoever set it; the cgroup at the root of the host has none."""
    root = tmp_path / "cgroup"
    own = cgroup(root / "system.slice" / "wsbridge.service", 50, max=100)
    slice_ = cgroup(root / "system.slice", 900, max=1000)
    limits = MemoryLimits(root, process(tmp_path / "self", "4:memory:/elsewhere\n0::/system.slice/wsbridge.service\n"))
    assert limits.tightest() == MemoryUsage(900, 1000, f"{slice_}/memory.max")
    (own / "memory.high").write_text("52\n")
    assert limits.tightest() == MemoryUsage(50, 52, f"{own}/memory.high")


def test_file_cache_that_the_kernel_drops_does_not_count(tmp_path):
    """A process that has read large files is not short of memory."""
    root = cgroup(tmp_path / "cgroup", 95, "anon 10\ninactive_file 80\nactive_file 5\n", max=100)
    usage = MemoryLimits(root, process(tmp_path / "self", "0::/\n")).tightest()
    assert usage is not None
    assert (usage.used, usage.share) == (15, 0.15)


@pytest.mark.parametrize("membership", ["0::/docker/abc\n", "0::/../../other\n", "", "nonsense\n"])
def test_in_a_container_its_cgroup_is_the_root(membership, tmp_path):
    """There the path of the host leads nowhere."""
    root = cgroup(tmp_path / "cgroup", 1, max=100)
    assert MemoryLimits(root, process(tmp_path / "self", membership)).tightest() is not None


def test_without_limits_there_is_nothing_to_report(tmp_path):
    """No cgroup, no limit in it, files that are gone or unreadable."""
    alone = process(tmp_path / "self", "0::/a\n")
    assert MemoryLimits(tmp_path / "missing", alone).tightest() is None
    assert MemoryLimits(tmp_path / "missing", tmp_path / "missing").tightest() is None
    limits = MemoryLimits(cgroup(tmp_path / "cgroup"), alone)
    assert limits.tightest() is None
    (tmp_path / "cgroup" / "memory.max").write_text("100\n")
    assert limits.tightest() is not None
    (tmp_path / "cgroup" / "memory.current").unlink()
    assert limits.tightest() is None


def test_a_cgroup_may_change_later(tmp_path):
    """A service manager enables the controller with the first limit, and a process can be moved."""
    own = process(tmp_path / "self", "0::/a\n")
    limits = MemoryLimits(tmp_path / "cgroup", own)
    assert limits.tightest() is None
    first = cgroup(tmp_path / "cgroup" / "a", 1, max=100)
    assert limits.tightest() == MemoryUsage(1, 100, f"{first}/memory.max")
    second = cgroup(tmp_path / "cgroup" / "b", 1, max=200)
    (own / "cgroup").write_text("0::/b\n")
    assert limits.tightest() == MemoryUsage(1, 200, f"{second}/memory.max")


def test_the_address_space(tmp_path, monkeypatch):
    """RLIMIT_AS counts like a cgroup."""
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (8_000_000, resource.RLIM_INFINITY))
    usage = MemoryLimits(tmp_path, process(tmp_path / "self", "")).tightest()
    assert usage == MemoryUsage(1000 * resource.getpagesize(), 8_000_000, "RLIMIT_AS")


def test_a_limit_of_nothing_is_used_up():
    """A limit of 0 bytes is no division by zero."""
    assert MemoryUsage(0, 0, "").share == 1


def test_the_longest_lag_is_kept_for_a_minute():
    """And since the start."""
    lag = LoopLag()
    lag.record(0.5, 1.0)
    lag.record(0.2, 2.0)
    assert (lag.recent, lag.longest) == (0.5, 0.5)
    for number in range(WINDOWS):
        lag.record(0.1, 2.0 + WINDOW * (number + 1))
    assert (lag.recent, lag.longest) == (0.1, 0.5)


def test_a_stall_is_a_lag_without_work():
    """What the process did not compute in was no fault of the loop."""
    assert Lag(1.0, 0.1).is_stall
    assert not Lag(1.0, 0.9).is_stall


CHURN = """
import resource, sys
from wsbridge.limits.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory(16777216, 524288)
for each in range(40):
    if each == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [bytes(200000 + 10000 * (each % 4)) for _ in range(20)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_kept():
    """Bytes that are allocated and freed again and again have no page of the kernel zeroed for them."""
    faults = {}
    for kind in ("keep", "give"):
        command = [sys.executable, "-c", CHURN, kind]
        faults[kind] = int(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    assert faults["keep"] < faults["give"] / 10
