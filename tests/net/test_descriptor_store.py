"""The file descriptor store of systemd, with a socket of the test in its place."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator

import pytest
import trio

from wsbridge.net import descriptor_store
from wsbridge.net.descriptor_store import DescriptorStore, DescriptorStoreError, DescriptorStoreFullError


class Systemd:
    """What is notified.

    Attributes:
        environ: For `DescriptorStore`.
    """

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(f"\0wsbridge-store-{os.getpid()}-{id(self)}")
        self.environ = {"NOTIFY_SOCKET": f"@{self.sock.getsockname()[1:].decode()}", "FDSTORE": "3"}

    def received(self) -> tuple[dict[str, str], list[int]]:
        """Return a message, and the descriptors that came with it."""
        data, ancillary, _, _ = self.sock.recvmsg(4096, 4096)
        passed = array.array("i")
        for _, _, value in ancillary:
            passed.frombytes(value)
        return dict(line.split("=", 1) for line in data.decode().splitlines()), list(passed)


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    """One that is notified."""
    found = Systemd()
    yield found
    found.sock.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 0),
        ({"FDSTORE": "10"}, 0),
        ({"NOTIFY_SOCKET": "@x"}, 0),
        ({"NOTIFY_SOCKET": "@x", "FDSTORE": ""}, 0),
        ({"NOTIFY_SOCKET": "@x", "FDSTORE": "many"}, 0),
        ({"NOTIFY_SOCKET": "vsock:2:1", "FDSTORE": "10"}, 0),
        ({"NOTIFY_SOCKET": "/run/x", "FDSTORE": "10"}, 10),
    ],
)
def test_where_there_is_a_store(environ: dict[str, str], expected: int) -> None:
    """Both variables, and an address that can be connected to."""
    assert DescriptorStore(environ).max_descriptors == expected


async def test_descriptors_are_put_and_removed(systemd: Systemd) -> None:
    """Under a name, and without being watched; as many as there is room for."""
    store = DescriptorStore(systemd.environ)
    reader, writer = os.pipe()
    try:
        await store.put("one", [reader, writer])
        state, passed = systemd.received()
        assert state == {"FDSTORE": "1", "FDNAME": "one", "FDPOLL": "0"}
        os.write(passed[1], b"x")
        assert os.read(reader, 1) == b"x"
        for number in passed:
            os.close(number)
        with pytest.raises(DescriptorStoreFullError, match="FileDescriptorStoreMax is 3"):
            await store.put("two", [reader, writer])
        await store.remove("one")
        assert systemd.received() == ({"FDSTOREREMOVE": "1", "FDNAME": "one"}, [])
    finally:
        os.close(reader)
        os.close(writer)
        store.close()


async def test_a_barrier_waits_for_systemd(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it closes the descriptor; but not for ever."""
    store = DescriptorStore(systemd.environ)
    try:
        with trio.fail_after(9):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.wait_until_stored)
                state, (writer,) = await trio.to_thread.run_sync(systemd.received)
                assert state == {"BARRIER": "1"}
                os.close(writer)
        monkeypatch.setattr(descriptor_store, "STORE_TIMEOUT", 0.05)
        with pytest.raises(DescriptorStoreError, match="has not taken the descriptors"):
            await store.wait_until_stored()
    finally:
        store.close()


async def test_a_systemd_that_reads_nothing(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is full after some messages, and the next one is an error in time; so is a socket that is gone."""
    monkeypatch.setattr(descriptor_store, "STORE_TIMEOUT", 0.1)
    store = DescriptorStore(systemd.environ)
    try:
        with pytest.raises(DescriptorStoreError, match="has not taken a message within"):
            for _ in range(10_000):
                await store.remove("x" * 200)
        systemd.sock.close()
        with pytest.raises(DescriptorStoreError, match="cannot be notified"):
            await store.remove("x")
    finally:
        store.close()
