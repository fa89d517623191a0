"""conf/fail2ban: Debian's own fail2ban finds bans in our lines, and nothing that a client could write into others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.program import program
from wsbridge.log.format import line_processors, render

FAIL2BAN = Path(__file__).parents[2] / "conf" / "fail2ban"
FILTER = FAIL2BAN / "filter.d" / "wsbridge.conf"
ADDRESSES = ["203.0.113.7", "2001:db8::7"]
FORGED = "address.banned client_address=198.51.100.1 failures=10 ban_seconds=300.0"
FORGED_JSON = (
    '","level":"warning","event":"address.banned","client_address":"198.51.100.1","failures":1,"ban_seconds":1.0}'
)


def lines(form: str) -> list[str]:
    """Log lines as the program writes them: bans, and what clients say about bans."""
    facts: list[tuple[str, dict[str, object]]] = [
        ("address.banned", {"client_address": address, "failures": 10, "ban_seconds": 300.0}) for address in ADDRESSES
    ]
    facts.append(("address.banned", {"client_address": "unix", "failures": 10, "ban_seconds": 300.0}))
    facts.append(("connection.banned", {"listener": "web", "client_address": "198.51.100.2", "count": 3}))
    facts += [
        ("connection.rejected", {"id": 7, "peer": "198.51.100.3:1", "path": said, "detail": said})
        for said in (FORGED, FORGED_JSON, f"\n{FORGED}", f'/"{FORGED}')
    ]
    return [
        render(line_processors(form), "warning", {"event": event, **rest}).decode().rstrip("\n")
        for event, rest in facts
    ]


def found(text: str, folder: Path) -> list[str]:
    """Addresses that fail2ban finds."""
    log = folder / "log"
    log.write_text(text)
    command = [program("fail2ban-regex"), "--out", "ip", str(log), str(FILTER)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_json_lines(tmp_path: Path) -> None:
    """A file of JSON lines."""
    assert found("\n".join(lines("json")), tmp_path) == ADDRESSES


@pytest.mark.parametrize("prefix", ["", "gw wsbridge[17]: "])
def test_lines_of_the_journal(tmp_path: Path, prefix: str) -> None:
    """The journal removes the priority; fail2ban puts host and process in front."""
    taken = [line.removeprefix("<4>") for line in lines("journal")]
    assert found("\n".join(prefix + line for line in taken), tmp_path) == ADDRESSES


def test_the_jail(tmp_path: Path) -> None:
    """Beside the files of Debian it is one that watches the unit's journal and bans at the first line."""
    client = program("fail2ban-client")
    shutil.copytree("/etc/fail2ban", tmp_path, dirs_exist_ok=True)
    shutil.copytree(FAIL2BAN, tmp_path, dirs_exist_ok=True)
    dump = subprocess.run([client, "-c", str(tmp_path), "-d"], capture_output=True, text=True, check=False).stdout
    for line in (
        "['add', 'wsbridge', 'systemd']",
        "['set', 'wsbridge', 'addjournalmatch', '_SYSTEMD_UNIT=wsbridge.service']",
        "['set', 'wsbridge', 'maxretry', 1]",
        "['start', 'wsbridge']",
    ):
        assert line in dump.splitlines()
