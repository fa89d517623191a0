"""A stand-in for systemd's file descriptor store, in the process of the test."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import trio

from tests.serving import Served, serving
from wsbridge.admin.stored_sessions import StoredSessions
from wsbridge.net.socket_activation import PassedSockets
from wsbridge.reasons import Reason
from wsbridge.sessions.handover import SessionAdopter


class StandInStore:
    """The store; see `storing`.

    Attributes:
        environ: For `StoredSessions`.
        stored: Names and descriptors, in the order in which they came.
        max_descriptors: How many it takes; further ones are closed.
    """

    def __init__(self, max_descriptors: int) -> None:
        self.max_descriptors = max_descriptors
        self.stored: list[tuple[str, int]] = []
        name = f"wsbridge-store-{os.getpid()}-{id(self)}"
        self.environ = {"NOTIFY_SOCKET": f"@{name}", "FDSTORE": str(max_descriptors)}
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._name = f"\0{name}"
        sock.bind(self._name)
        self._socket = trio.socket.from_stdlib_socket(sock)

    async def run(self) -> None:
        """Take what is sent, until cancelled."""
        while True:
            with trio.CancelScope() as self._taking:
                while True:
                    data, rights, *_ = await self._socket.recvmsg(4096, socket.CMSG_SPACE(4 * 253))
                    passed = array.array("i")
                    for _, _, value in rights:
                        passed.frombytes(value)
                    self._take(dict(line.split("=", 1) for line in data.decode().splitlines()), list(passed))
            await self._resumed.wait()

    def _take(self, state: dict[str, str], passed: list[int]) -> None:
        if "FDSTORE" in state:
            room = self.max_descriptors - len(self.stored)
            self.stored += [(state["FDNAME"], number) for number in passed[:room]]
            passed = passed[room:]
        if "FDSTOREREMOVE" in state:
            passed += [number for name, number in self.stored if name == state["FDNAME"]]
            self.stored = [one for one in self.stored if one[0] != state["FDNAME"]]
        for number in passed:
            os.close(number)

    def stall(self) -> None:
        """Take nothing until `resume`; there is no room for a message either."""
        self._resumed = trio.Event()
        self._taking.cancel()
        for _ in range(10):  # what one sender can have under way is limited as well
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(BlockingIOError):
                sender.setblocking(False)
                sender.connect(self._name)
                while True:
                    sender.send(b"STATUS=x")

    def resume(self) -> None:
        """Take messages again."""
        self._resumed.set()

    def pass_on(self) -> PassedSockets:
        """Give copies to a process that starts."""
        found: dict[str, list[int]] = {}
        for name, number in reversed(self.stored):  # systemd passes the latest first
            found.setdefault(name, []).append(os.dup(number))
        return PassedSockets(found)

    def empty(self) -> None:
        """Close what is stored."""
        while self.stored:
            os.close(self.stored.pop()[1])

    def close(self) -> None:
        """Close what is stored, and take no more."""
        self._socket.close()
        self.empty()

    @contextlib.asynccontextmanager
    async def service(self, text: str) -> AsyncIterator[Served]:
        """Run a server that leaves its sessions here when it is stopped by `stop`."""
        async with serving(text) as served:
            stored = StoredSessions(served.server, self.environ)
            yield served
        stored.close()

    @contextlib.asynccontextmanager
    async def next_service(self, text: str, *expected: int) -> AsyncIterator[Served]:
        """Run a server that gets what is stored, and adopts, ends and loses as many sessions as expected."""
        async with serving(text, passed_sockets=self.pass_on()) as served:
            server = served.server
            stored = StoredSessions(server, self.environ)
            try:
                await stored.read_list()
                adopter = SessionAdopter(server.services, lambda: server.generation, server.acceptor.next_id)
                await stored.adopt_sessions(adopter)
                counts = adopter.counts.adopted, adopter.counts.ended, adopter.counts.lost
                assert counts == expected, f"{counts}, not {expected}"
                yield served
            finally:
                stored.close()


@contextlib.asynccontextmanager
async def storing(max_descriptors: int = 1000) -> AsyncIterator[StandInStore]:
    """Run a store."""
    store = StandInStore(max_descriptors)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        try:
            yield store
        finally:
            nursery.cancel_scope.cancel()
            store.close()


async def stop(served: Served) -> None:
    """Stop a server in order, and wait until it has."""
    served.server.stop(Reason.DRAINING)
    await served.returned.wait()
