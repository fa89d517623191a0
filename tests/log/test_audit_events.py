"""The table of audit events matches its documentation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from wsbridge.log.events import AUDIT_EVENTS, AUDIT_KEYS
from wsbridge.log.format import AUDIT_PROCESSORS, render

DOC = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()


@pytest.mark.parametrize("name", AUDIT_EVENTS)
def test_the_table_is_sound(name: str) -> None:
    """Names are plain words, and each key is explained once."""
    keys = AUDIT_EVENTS[name].keys
    assert re.fullmatch(r"[a-z]+\.[a-z]+", name)
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(AUDIT_KEYS)


def test_no_key_is_explained_in_vain() -> None:
    """Each explained key belongs to an event."""
    assert set(AUDIT_KEYS) == {key for event in AUDIT_EVENTS.values() for key in event.keys}


def test_documentation_has_every_event_and_key() -> None:
    """docs/audit.md shows both tables, whole and in order."""
    events = [
        f"| `{name}` | {event.meaning} | {' '.join(f'`{key}`' for key in event.keys)} |"
        for name, event in AUDIT_EVENTS.items()
    ]
    keys = [f"| `{key}` | {meaning} |" for key, meaning in AUDIT_KEYS.items()]
    assert re.findall(r"^\| `[a-z_.]+` \|.*$", DOC, re.MULTILINE) == [*events, *keys]


def test_commands_of_the_documentation_run(tmp_path: Path) -> None:
    """The commands that read an audit do so."""
    facts = [
        {
            "event": "access.granted",
            "id": 17,
            "peer": "192.0.2.1:5",
            "identity": "alice",
            "backend_address": "10.0.0.5:5900",
        },
        {
            "event": "access.granted",
            "id": 171,
            "peer": "192.0.2.1:6",
            "identity": "alice",
            "backend_address": "10.0.0.5:5900",
        },
        {"event": "access.denied", "id": 18, "peer": "192.0.2.9:5"},
        {"event": "access.denied", "id": 19, "peer": "192.0.2.9:6"},
    ]
    (tmp_path / "audit.jsonl").write_bytes(b"".join(render(AUDIT_PROCESSORS, "info", each) for each in facts))
    who, one, refused = [
        subprocess.run(["sh", "-ec", text], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
        for text in re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL)
    ]
    assert who == ["2", '"identity":"alice"', '"backend_address":"10.0.0.5:5900"']
    assert len(one) == 1
    assert refused == ["2", '"peer":"192.0.2.9"']
