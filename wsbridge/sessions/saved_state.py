r"""The state of resumable sessions as bytes, for the next process: one list of sessions, and one state for each.

```
"wsbridge session\n"   u32 version   SHA-256 of all that follows   u32 length   JSON   replay bytes   pending bytes
```

Integers are big-endian. The digest finds damage, and is no protection against others, who must not have these bytes at
all: token hashes are in them, and payload in clear. Points of time are durations, since no clock is the same in another
process but the kernel's: `saved_at` is a reading of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import struct
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from wsbridge.protocol.resume_frames import SESSION_ID_BYTES

SAVED_STATE_VERSION: Final = 3
"""Version of both formats, and of what is agreed besides: what the digest of a route is made of, and that the
connection to the backend is reset when it is closed, until the session is adopted."""

MAX_JSON_BYTES: Final = 65536
"""Of one session."""
MAX_REPLAY_BYTES: Final = 16777216
"""Bytes that wait to be sent, again or at last: the largest window that a route may have."""
MAX_SAVED_PENDING_BYTES: Final = 1048576
"""Bytes that have come from the backend, and for which there was no room in the window."""
MAX_SECONDS: Final = 2**40
"""Of a duration: 34,000 years."""
MAX_SESSIONS: Final = 100000
"""Sessions of one process."""

SESSION_MAGIC: Final = b"wsbridge session\n"
LIST_MAGIC: Final = b"wsbridge sessions\n"

_NUMBER: Final = struct.Struct(">I")
_HEAD_BYTES: Final = len(SESSION_MAGIC) + _NUMBER.size + hashlib.sha256().digest_size
MAX_STATE_BYTES: Final = _HEAD_BYTES + _NUMBER.size + MAX_JSON_BYTES + MAX_REPLAY_BYTES + MAX_SAVED_PENDING_BYTES
_LISTED_ID_BYTES: Final = len('["", ""], ') + SESSION_ID_BYTES * 2
MAX_LIST_BYTES: Final = 64 + _HEAD_BYTES + MAX_SESSIONS * _LISTED_ID_BYTES

_MACHINE: Final[dict[str, tuple[type, ...]]] = {
    "version": (int,),
    "epoch": (int,),
    "session_id": (bytes,),
    "ttl": (int,),
    "node": (str,),
    "window": (int,),
    "ack_ms": (int,),
    "keepalive": (int,),
    "send_window": (int,),
    "token_hash": (bytes,),
    "previous_token_hash": (bytes,),
    "attempt": (int,),
    "detached_seconds": (float, int),
    "transports": (int,),
    "replayed_bytes": (int,),
    "buffer_start": (int,),
    "finished": (bool,),
    "sent": (int,),
    "acked": (int,),
    "consumed": (int,),
    "ack_sent": (int,),
    "peer_finished": (bool,),
}
"""What `ServerSession.export_state` gives, but for the replay bytes, the failure and the end."""


class StateError(Exception):
    """These bytes are no state that can be used; one sentence."""


class UnknownVersionError(StateError):
    """They are of another version."""


@dataclass(frozen=True, slots=True)
class SavedIdentity:
    """Who a client is; see `auth.identity.Identity`.

    Attributes:
        name: See there.
        method: See there.
        expires_in: Seconds until it is no longer valid, 0 if it is not; None for never.
        target: See there.
        token_name: See there; also the token by which a target was chosen.
        entries: Of lists that must go on to hold: kind, file, entry, and what the log calls it. The parts of an entry
            are texts, or the bytes of a digest.
    """

    name: str
    method: str
    expires_in: float | None
    target: str | None
    token_name: str | None
    entries: tuple[tuple[str, str, tuple[str | bytes, ...], str], ...]


@dataclass(frozen=True, slots=True)
class SavedSession:
    """One session.

    Attributes:
        saved_at: When it was saved, by CLOCK_MONOTONIC, in seconds.
        machine: See `ServerSession.export_state`.
        pending: What has come from the backend, and is to be sent behind what the machine has.
        backend_is_reset: See `MovedBackend.is_reset`.
        route: Name of its route.
        route_digest: See `handover.digest_route`.
        identity: Who its client is.
        target: URL that the client chose; None where the route decides.
        backend: Name of the backend, for the log.
        backend_address: Where it is connected; None if that is unknown.
        listener: Name of the listener of its latest connection.
        peer_host: Address of its client; empty for a Unix socket.
        peer_port: Port of its client.
        peer_family: Address family of its client.
        via: See `Peer.via`.
        tls: Version of TLS of its latest connection.
        age: Seconds since it was opened.
        idle: Seconds since payload last moved.
        bytes_to_backend: Payload from the client so far.
        bytes_to_client: Payload from the backend so far.
    """

    saved_at: float
    machine: dict[str, Any]
    pending: bytes
    backend_is_reset: bool
    route: str
    route_digest: bytes
    identity: SavedIdentity
    target: str | None
    backend: str
    backend_address: str | None
    listener: str
    peer_host: str
    peer_port: int
    peer_family: int
    via: tuple[str, ...]
    tls: str
    age: float
    idle: float
    bytes_to_backend: int
    bytes_to_client: int


@dataclass(frozen=True, slots=True)
class SavedList:
    """All sessions of a process that have not ended, also those that it does not hand over.

    Attributes:
        epoch: The epoch of that process.
        session_ids: The id of each session.
    """

    epoch: int
    session_ids: tuple[bytes, ...]


# ------------------------------------------------------------------ writing


def encode_session(session: SavedSession) -> list[bytes]:
    """Return the parts of the state of a session.

    Raises:
        StateError: It is larger than what is read.
    """
    values = {field.name: getattr(session, field.name) for field in fields(session)}
    replay, pending = session.machine["buffer"], values.pop("pending")
    values["machine"] = {key: value for key, value in session.machine.items() if key != "buffer"}
    values["identity"] = asdict(session.identity)
    values["replay_bytes"] = len(replay)
    text = _encode_json(values)
    _check_sizes(len(text), len(replay), len(pending))
    return _seal(SESSION_MAGIC, [_NUMBER.pack(len(text)), text, replay, pending])


def encode_list(sessions: SavedList) -> list[bytes]:
    """Return the parts of a list."""
    return _seal(LIST_MAGIC, [_encode_json({"epoch": sessions.epoch, "session_ids": sessions.session_ids})])


def _seal(magic: bytes, parts: list[bytes]) -> list[bytes]:
    """Put magic, version and digest before the content."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return [magic + _NUMBER.pack(SAVED_STATE_VERSION) + digest.digest(), *parts]


def _encode_json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, default=_encode_bytes, allow_nan=False).encode()


def _encode_bytes(value: object) -> list[str]:
    """Encode what JSON has no type for; texts are never lists of one text beside numbers, so that this is unique."""
    assert isinstance(value, bytes)  # noqa: S101 (there is nothing else)
    return ["", value.hex()]


def _check_sizes(text: int, replay: int, pending: int) -> None:
    for name, size, most in (
        ("description", text, MAX_JSON_BYTES),
        ("bytes to be sent again", replay, MAX_REPLAY_BYTES),
        ("bytes from the backend", pending, MAX_SAVED_PENDING_BYTES),
    ):
        if size > most:
            raise StateError(f"the {name} of a session would take {size} bytes, and the most is {most}")


# ------------------------------------------------------------------ reading


def decode_session(data: bytes) -> SavedSession:
    """Read the state of a session.

    Args:
        data: At most MAX_STATE_BYTES.

    Raises:
        UnknownVersionError: It is of another version.
        StateError: It is damaged.
    """
    content = _unseal(SESSION_MAGIC, data)
    if len(content) < _NUMBER.size:
        raise StateError("the state of a session is cut off")
    (length,) = _NUMBER.unpack_from(content)
    text, payload = content[_NUMBER.size : _NUMBER.size + length], content[_NUMBER.size + length :]
    values = _Reader(_decode_json(text))
    replay = values.number("replay_bytes")
    _check_sizes(length, replay, max(0, len(payload) - replay))
    if replay > len(payload):
        raise StateError("the payload in the state of a session is cut off")
    identity = _Reader(values.take("identity", (dict,)))
    session = SavedSession(
        saved_at=values.seconds("saved_at"),
        machine={**_read_machine(values.take("machine", (dict,))), "buffer": payload[:replay]},
        pending=payload[replay:],
        backend_is_reset=values.take("backend_is_reset", (bool,)),
        route=values.take("route", (str,)),
        route_digest=values.data("route_digest"),
        identity=SavedIdentity(
            name=identity.take("name", (str,)),
            method=identity.take("method", (str,)),
            expires_in=None if identity.is_null("expires_in") else identity.seconds("expires_in"),
            target=identity.optional("target", (str,)),
            token_name=identity.optional("token_name", (str,)),
            entries=tuple(_read_entry(one) for one in identity.take("entries", (list,))),
        ),
        target=values.optional("target", (str,)),
        backend=values.take("backend", (str,)),
        backend_address=values.optional("backend_address", (str,)),
        listener=values.take("listener", (str,)),
        peer_host=values.take("peer_host", (str,)),
        peer_port=values.number("peer_port"),
        peer_family=values.number("peer_family"),
        via=_read_texts(values.take("via", (list,))),
        tls=values.take("tls", (str,)),
        age=values.seconds("age"),
        idle=values.seconds("idle"),
        bytes_to_backend=values.number("bytes_to_backend"),
        bytes_to_client=values.number("bytes_to_client"),
    )
    identity.check_empty()
    values.check_empty()
    return session


def decode_list(data: bytes) -> SavedList:
    """Read a list.

    Args:
        data: At most MAX_LIST_BYTES.

    Raises:
        UnknownVersionError: It is of another version.
        StateError: It is damaged.
    """
    values = _Reader(_decode_json(_unseal(LIST_MAGIC, data)))
    found = SavedList(
        values.number("epoch"), tuple(_read_session_id(one) for one in values.take("session_ids", (list,)))
    )
    values.check_empty()
    return found


def _unseal(magic: bytes, data: bytes) -> bytes:
    """Return the content behind magic, version and digest."""
    if not data.startswith(magic) or len(data) < len(magic) + _NUMBER.size:
        raise StateError("these bytes are no state of sessions")
    (version,) = _NUMBER.unpack_from(data, len(magic))
    if version != SAVED_STATE_VERSION:
        raise UnknownVersionError(
            f"the state of sessions is of version {version}, and this process has {SAVED_STATE_VERSION}"
        )
    at = len(magic) + _NUMBER.size
    digest, content = data[at : at + 32], data[at + 32 :]
    if hashlib.sha256(content).digest() != digest:
        raise StateError("the state of sessions is damaged: its digest is that of other bytes")
    return content


def _decode_json(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise StateError("the description in the state of sessions is no JSON") from None
    if not isinstance(found, dict):
        raise StateError("the description in the state of sessions is no object")
    return found


def _read_machine(found: dict[str, Any]) -> dict[str, Any]:
    """Check the types of the state of a machine; whether its positions fit together is for the machine to say."""
    values = _Reader(found)
    machine: dict[str, Any] = {
        key: values.data(key) if bytes in kinds else values.take(key, kinds) for key, kinds in _MACHINE.items()
    }
    for key, value in machine.items():
        if isinstance(value, int | float) and not 0 <= value < 2**64:
            raise StateError(f'"{key}" in the state of a session is out of range')
    failure, ended = values.optional("failure", (list,)), values.optional("ended", (list,))
    if failure is not None and [type(part) for part in failure] != [int, str]:
        raise StateError('"failure" in the state of a session is malformed')
    if ended is not None:
        raise StateError("a session that has ended was handed over")
    values.check_empty()
    if len(machine["session_id"]) != SESSION_ID_BYTES:
        raise StateError('"session_id" in the state of a session is malformed')
    return {**machine, "failure": failure, "ended": None}


def _read_entry(found: object) -> tuple[str, str, tuple[str | bytes, ...], str]:
    """Read an entry of a list of users or tokens."""
    if isinstance(found, list) and len(found) == 4:
        kind, file, key, subject = found
        if isinstance(key, list) and all(isinstance(part, str) for part in (kind, file, subject)):
            return kind, file, tuple(one if isinstance(one, str) else _read_bytes(one) for one in key), subject
    raise StateError('"entries" in the state of a session are malformed')


def _read_texts(found: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(one, str) for one in found):
        raise StateError("a list of texts in the state of a session is malformed")
    return tuple(found)


def _read_session_id(found: object) -> bytes:
    session_id = _read_bytes(found)
    if len(session_id) != SESSION_ID_BYTES:
        raise StateError("an id in the list of sessions is malformed")
    return session_id


def _read_bytes(found: object) -> bytes:
    if isinstance(found, list) and len(found) == 2 and found[0] == "" and isinstance(found[1], str):
        try:
            return binascii.unhexlify(found[1])
        except ValueError:
            pass
    raise StateError("bytes in the state of sessions are malformed")


class _Reader:
    """Takes values of the right types out of a decoded object."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = dict(values)

    def take(self, key: str, kinds: tuple[type, ...]) -> Any:
        """Take a value of one of some types."""
        value = self._values.pop(key, None)
        if type(value) not in kinds:
            raise StateError(f'"{key}" in the state of sessions is missing or malformed')
        return value

    def optional(self, key: str, kinds: tuple[type, ...]) -> Any:
        """Take a value that may be null."""
        return None if self.is_null(key) else self.take(key, kinds)

    def is_null(self, key: str) -> bool:
        """Take a value that is null; return whether it was there."""
        if key in self._values and self._values[key] is None:
            del self._values[key]
            return True
        return False

    def number(self, key: str) -> int:
        """Take a number of 64 bits, not negative."""
        value: int = self.take(key, (int,))
        if not 0 <= value < 2**64:
            raise StateError(f'"{key}" in the state of sessions is out of range')
        return value

    def seconds(self, key: str) -> float:
        """Take a duration or a point of time."""
        value = self.take(key, (float, int))
        if not 0 <= value < MAX_SECONDS:
            raise StateError(f'"{key}" in the state of sessions is out of range')
        return float(value)

    def data(self, key: str) -> bytes:
        """Take bytes."""
        return _read_bytes(self.take(key, (list,)))

    def check_empty(self) -> None:
        """Check that nothing is left, which only another version could know."""
        if self._values:
            raise StateError(f'"{min(self._values)}" in the state of sessions is unknown')
