"""The state of sessions as bytes: what is written is read again, and any other bytes are a documented error."""

import dataclasses
import hashlib
import json
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsbridge.net.sealed_file import SealedFileError, read_sealed_file, write_sealed_file
from wsbridge.protocol.resume_frames import Ack, Data, Fin, Open
from wsbridge.protocol.resume_server import ServerSession, SessionTerms
from wsbridge.sessions.saved_state import (
    MAX_JSON_BYTES,
    MAX_LIST_BYTES,
    MAX_SAVED_PENDING_BYTES,
    MAX_SESSIONS,
    SAVED_STATE_VERSION,
    SESSION_MAGIC,
    SavedIdentity,
    SavedList,
    SavedSession,
    StateError,
    UnknownVersionError,
    decode_list,
    decode_session,
    encode_list,
    encode_session,
)

FEWER = settings(max_examples=settings.default.max_examples // 5)

TEXTS = st.text(max_size=20)
SECONDS = st.floats(0, 1e9)
COUNTS = st.integers(0, 2**63)


def machine_of(sent=b"", received=b"", acked=0, *, finished=False, peer_finished=False, failing=False):
    """Return a machine with some state."""
    terms = SessionTerms(window=65536, ttl=60, node="one")
    machine = ServerSession(Open(), epoch=7, session_id=bytes(range(16)), terms=terms, new_token=lambda: b"t" * 32)
    machine.opened(10.0)
    machine.send(sent)
    if finished:
        machine.finish()
    machine.take(1 << 20, 10.0)
    machine.receive([Ack(min(acked, len(sent)))], 11.0)
    if received:
        machine.receive([Data(received)], 11.0)
        machine.consumed(len(received), 11.0)
    if peer_finished:
        machine.receive([Fin(len(received))], 11.0)
        machine.consumed_fin()
    if failing:
        machine.end_after_data(4012, "backend_reset")
    return machine


@st.composite
def sessions(draw):
    """States of sessions that can occur."""
    machine = machine_of(
        draw(st.binary(max_size=500)),
        draw(st.binary(max_size=500)),
        draw(st.integers(0, 500)),
        finished=draw(st.booleans()),
        peer_finished=draw(st.booleans()),
        failing=draw(st.booleans()),
    )
    part = st.one_of(TEXTS, st.binary(max_size=32))
    entry = st.tuples(TEXTS, TEXTS, st.lists(part, max_size=3).map(tuple), TEXTS)
    return SavedSession(
        saved_at=draw(SECONDS),
        machine=machine.export_state(12.0),
        pending=draw(st.binary(max_size=500)),
        backend_is_reset=draw(st.booleans()),
        route=draw(TEXTS),
        route_digest=draw(st.binary(min_size=32, max_size=32)),
        identity=SavedIdentity(
            name=draw(TEXTS),
            method=draw(TEXTS),
            expires_in=draw(st.none() | SECONDS),
            target=draw(st.none() | TEXTS),
            token_name=draw(st.none() | TEXTS),
            entries=draw(st.lists(entry, max_size=3).map(tuple)),
        ),
        target=draw(st.none() | TEXTS),
        backend=draw(TEXTS),
        backend_address=draw(st.none() | TEXTS),
        listener=draw(TEXTS),
        peer_host=draw(TEXTS),
        peer_port=draw(st.integers(0, 65535)),
        peer_family=draw(st.integers(0, 10)),
        via=draw(st.lists(TEXTS, max_size=3).map(tuple)),
        tls=draw(TEXTS),
        age=draw(SECONDS),
        idle=draw(SECONDS),
        bytes_to_backend=draw(COUNTS),
        bytes_to_client=draw(COUNTS),
    )


def sealed(text, payload=b"", version=SAVED_STATE_VERSION):
    """Write a state by hand, with a digest that is right."""
    content = struct.pack(">I", len(text)) + text + payload
    return SESSION_MAGIC + struct.pack(">I", version) + hashlib.sha256(content).digest() + content


def description(session):
    """Return the JSON of a state, decoded."""
    data = b"".join(encode_session(session))
    (length,) = struct.unpack_from(">I", data, len(SESSION_MAGIC) + 36)
    at = len(SESSION_MAGIC) + 40
    return json.loads(data[at : at + length]), data[at + length :]


@FEWER
@given(sessions())
def test_what_is_written_is_read_again(session):
    """Every field, and the machine goes on from it."""
    found = decode_session(b"".join(encode_session(session)))
    assert found == session
    machine = ServerSession.restore(found.machine, 100.0, lambda: b"n" * 32)
    again = machine.export_state(100.0)
    assert {**again, "detached_seconds": 0} == {**session.machine, "detached_seconds": 0}


@given(st.integers(0, 2**64 - 1), st.lists(st.binary(min_size=16, max_size=16), max_size=20).map(tuple))
def test_a_list_is_read_again(epoch, ids):
    """Epoch and ids."""
    assert decode_list(b"".join(encode_list(SavedList(epoch, ids)))) == SavedList(epoch, ids)


def test_the_longest_list_is_no_longer_than_what_is_read():
    """As many sessions as a process hands over."""
    longest = SavedList(2**64 - 1, (b"\xff" * 16,) * MAX_SESSIONS)
    assert sum(map(len, encode_list(longest))) <= MAX_LIST_BYTES


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_an_error(data, magic):
    """With the right beginning or without."""
    for decode in (decode_session, decode_list):
        with pytest.raises(StateError):
            decode((SESSION_MAGIC if magic else b"") + data)


@FEWER
@given(sessions(), st.data())
def test_damage_is_an_error(session, data):
    """Each bit counts, and a state that is cut off is none."""
    whole = b"".join(encode_session(session))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    for wrong in (bytes(damaged), whole[:at], whole + b"x"):
        with pytest.raises(StateError):
            decode_session(wrong)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@FEWER
@given(sessions(), st.data())
def test_a_description_that_lies_is_an_error_or_a_state(session, data):
    """A value of another type, missing or unknown, under a digest that is right: an error, or a usable state.

    The machine then says itself whether its positions fit together.
    """
    values, payload = description(session)
    inner = data.draw(st.sampled_from([values, values["machine"], values["identity"]]))
    key = data.draw(st.sampled_from(sorted(inner)) | st.text(max_size=5))
    if data.draw(st.booleans()):
        inner.pop(key, None)
    else:
        inner[key] = data.draw(JSON_VALUES)
    try:
        found = decode_session(sealed(json.dumps(values).encode(), payload))
    except StateError:
        return
    assert decode_session(b"".join(encode_session(found))) == found
    try:
        ServerSession.restore(found.machine, 100.0, lambda: b"n" * 32)
    except ValueError:
        return


@given(JSON_VALUES)
def test_another_description_is_an_error(value):
    """JSON that is no description."""
    with pytest.raises(StateError):
        decode_session(sealed(json.dumps(value).encode()))


def test_another_version_is_told_apart():
    """Whatever follows the number."""
    with pytest.raises(UnknownVersionError, match=f"of version {SAVED_STATE_VERSION + 1}"):
        decode_session(sealed(b"[]", version=SAVED_STATE_VERSION + 1))


def test_a_state_that_is_too_large_is_not_written():
    """What would not be read."""
    session = decode_session(b"".join(encode_session(sample())))
    for change in ({"pending": bytes(MAX_SAVED_PENDING_BYTES + 1)}, {"route": "x" * MAX_JSON_BYTES}):
        with pytest.raises(StateError, match="and the most is"):
            encode_session(dataclasses.replace(session, **change))


def sample():
    """Return some state."""
    identity = SavedIdentity(
        "alice", "basic", None, None, None, (("basic", "/users", ("alice", "$2y$"), "user alice"),)
    )
    return SavedSession(
        1.0, machine_of(b"abc").export_state(12.0), b"", False, "app", bytes(32), identity, None, "tcp://a:1", None,
        "web", "192.0.2.1", 1, 2, (), "", 1.0, 1.0, 0, 0,
    )  # fmt: skip


def test_sealed_files_cannot_be_changed():
    """They are read from their beginning, up to a size; other descriptors are an error."""
    descriptor = write_sealed_file("test", [b"abc", b"", b"def"])
    try:
        assert read_sealed_file(descriptor, 6) == b"abcdef"
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        with pytest.raises(SealedFileError, match="has 6 bytes, and at most 5"):
            read_sealed_file(descriptor, 5)
    finally:
        os.close(descriptor)


def test_what_is_not_sealed_is_not_read(tmp_path):
    """A file of the disk, a pipe, and a file in memory that its writer can still change."""
    reader, writer = os.pipe()
    (tmp_path / "file").write_bytes(b"x")
    opened = [
        reader,
        writer,
        os.open(tmp_path / "file", os.O_RDONLY),
        os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING),
        os.memfd_create("unsealable", os.MFD_CLOEXEC),
    ]
    try:
        for descriptor in opened:
            with pytest.raises(SealedFileError, match="is no sealed file"):
                read_sealed_file(descriptor, 100)
    finally:
        for descriptor in opened:
            os.close(descriptor)
