"""Recorded sessions in tests/vectors/resume: runs the steps of a case, and gives it with what came out.

`python -m tests.protocol.resume_vectors` records all files again; look at the difference. Their format is described in
tests/vectors/resume/README.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.protocol.resume_peers import PLENTY, joined
from wsbridge.protocol.resume import (
    Ended,
    Event,
    GoingAway,
    PeerFinished,
    Received,
    ResumeMessage,
    Session,
    SessionOpened,
    SessionResumed,
    TransportUseless,
)
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import Open, decode_message
from wsbridge.protocol.resume_server import ServerSession, SessionTerms

VECTORS = Path(__file__).parents[1] / "vectors/resume"
MAX_PLAIN_BYTES = 64
"""Payload up to this many bytes is written out, a longer one as its SHA-256."""


def payload_of(written: str | dict[str, Any]) -> bytes:
    """Give the bytes of a payload that is given to the machine."""
    if isinstance(written, str):
        return bytes.fromhex(written)
    return bytes.fromhex(written["repeat"]) * written["count"]


def message_of(written: str | dict[str, Any]) -> bytes:
    """Give the bytes of a message that is given to the machine."""
    return bytes.fromhex(written) if isinstance(written, str) else b"\x05" + payload_of(written["data"])


def describe(payload: bytes) -> str | dict[str, Any]:
    """Describe payload that the machine gave."""
    if len(payload) <= MAX_PLAIN_BYTES:
        return payload.hex()
    return {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}


def describe_messages(messages: Iterable[ResumeMessage]) -> list[Any]:
    """Describe messages, neighbouring DATA as one."""
    out: list[Any] = []
    data = b""
    for message in map(joined, messages):
        if message[0] == 0x05:
            data += message[1:]
            continue
        if data:
            out.append({"data": describe(data)})
            data = b""
        out.append(message.hex())
    return [*out, {"data": describe(data)}] if data else out


def describe_event(event: Event) -> dict[str, Any]:
    """Describe an event."""
    match event:
        case Received(payloads):
            return {"event": "received", "payload": describe(b"".join(map(bytes, payloads)))}
        case PeerFinished():
            return {"event": "peer_finished"}
        case SessionOpened():
            return {"event": "opened"}
        case SessionResumed(replayed):
            return {"event": "resumed", "replayed": replayed}
        case GoingAway(after, jitter):
            return {"event": "going_away", "after": after, "jitter": jitter}
        case TransportUseless(text):
            return {"event": "transport_useless", "text": text}
        case Ended(code, text, by, complete):
            return {"event": "ended", "code": code, "text": text, "by": by, "complete": complete}


def new_session(case: dict[str, Any]) -> Session:
    """Build the session of a case."""
    if case["role"] == "client":
        return ClientSession(case["window"])
    tokens = iter(case["tokens"])
    opening = decode_message(bytes.fromhex(case["open"]))
    assert isinstance(opening, Open)
    return ServerSession(
        opening,
        epoch=case["epoch"],
        session_id=bytes.fromhex(case["session_id"]),
        terms=SessionTerms(**case["terms"]),
        new_token=lambda: bytes.fromhex(next(tokens)),
    )


CALLS: dict[str, Callable[[Any, float, dict[str, Any]], list[Event] | None]] = {
    "connect": lambda session, now, step: session.connect(now),
    "opened": lambda session, now, step: session.opened(now),
    "receive": lambda session, now, step: session.receive(
        [decode_message(message_of(one)) for one in step["messages"]], now
    ),
    "send": lambda session, now, step: session.send(payload_of(step["payload"])),
    "finish": lambda session, now, step: session.finish(),
    "consumed": lambda session, now, step: session.consumed(step["bytes"], now),
    "consumed_fin": lambda session, now, step: session.consumed_fin(),
    "transport_lost": lambda session, now, step: session.transport_lost(now, step["code"], step.get("text", "")),
    "end": lambda session, now, step: session.end(step["code"], step["text"], now),
    "end_after_data": lambda session, now, step: session.end_after_data(step["code"], step["text"]),
    "deadline": lambda session, now, step: session.on_deadline(now),
    "go_away": lambda session, now, step: session.go_away(step["after_ms"], step["jitter_ms"]),
}
"""Steps that are one call; `resume` is the other."""


def run_step(session: Any, step: dict[str, Any]) -> dict[str, Any]:
    """Do what a step says; gives what it returned."""
    if step["do"] != "resume":
        events = CALLS[step["do"]](session, step["at"], step)
        return {"events": [describe_event(event) for event in events]} if events else {}
    result = session.resume(decode_message(bytes.fromhex(step["message"])), step["at"])
    refusal = result.refusal and list(result.refusal)
    return {
        "refusal": refusal,
        "replaced": result.replaced,
        "bad_token": result.bad_token,
        "replayed": result.replayed,
    }


INPUTS = {"at", "do", "messages", "payload", "bytes", "code", "text", "after_ms", "jitter_ms", "message", "take"}
"""Keys of a step that are given; the others are recorded."""


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Run the steps of a case; gives the case with what came out now."""
    session = new_session(case)
    steps = []
    for step in case["steps"]:
        given = {key: value for key, value in step.items() if key in INPUTS}
        out = run_step(session, given)
        sends = describe_messages(session.take(given.get("take", PLENTY), given["at"]))
        out |= {"sends": sends} if sends else {}
        out |= {"closing": list(session.closing)} if session.closing else {}
        deadline = session.deadline
        out |= {"state": session.state.value, "room": session.room}
        out |= {} if deadline is None else {"deadline": round(deadline, 3)}
        steps.append(given | out)
    return case | {"steps": steps}


def load(path: Path) -> list[dict[str, Any]]:
    """Read the cases of a file."""
    cases: list[dict[str, Any]] = json.loads(path.read_text())
    return cases


def dump(cases: list[dict[str, Any]]) -> str:
    """Write cases, a step on a line."""
    lines = ["["]
    for number, case in enumerate(cases):
        heads = [f"    {json.dumps(key)}: {json.dumps(value)}," for key, value in case.items() if key != "steps"]
        steps = ",\n".join(f"      {json.dumps(step)}" for step in case["steps"])
        comma = "," if number < len(cases) - 1 else ""
        lines += ["  {", *heads, '    "steps": [', steps, "    ]", "  }" + comma]
    return "\n".join([*lines, "]", ""])


if __name__ == "__main__":
    for file in sorted(VECTORS.glob("*.json")):
        file.write_text(dump([run_case(case) for case in load(file)]))
