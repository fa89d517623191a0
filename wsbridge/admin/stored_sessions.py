"""Resumable sessions in systemd's descriptor store: they go on after a restart of the service.

Of each session the store has two descriptors under its name: its state, and the connection to its backend. One more
entry is the list of all sessions. The next process takes them out before it adopts them, so that after a crash no
session goes on from a state that is not its last one.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from typing import Final

import trio

from wsbridge.log.logger import log
from wsbridge.net.descriptor_store import DescriptorStore, DescriptorStoreError, DescriptorStoreFullError
from wsbridge.net.transport import reset_socket
from wsbridge.server import Server
from wsbridge.sessions.handover import (
    NotTakenError,
    ReceiverGoneError,
    SessionAdopter,
    StoppedSession,
    begin_handover,
    end_left,
    give_away,
    read_list,
    write_list,
)
from wsbridge.sessions.saved_state import StateError

STORED_NAME_PREFIX: Final = "wsbridge-session"
"""What the names of all entries begin with."""
LIST_NAME: Final = "wsbridge-sessions"
_SESSION_NAME: Final = "wsbridge-session-"


class _StoreReceiver:
    """Puts sessions into the store; see `SessionReceiver`.

    Args:
        store: The store.
    """

    def __init__(self, store: DescriptorStore) -> None:
        self._store = store

    async def put(self, session: StoppedSession, state: int) -> None:
        """See `SessionReceiver.put`."""
        descriptors = [state] if session.backend is None else [state, session.backend.fileno()]
        try:
            await self._store.put(f"{_SESSION_NAME}{session.session_id.hex()}", descriptors)
            session.is_taken = True
        except DescriptorStoreFullError as error:
            raise NotTakenError(str(error)) from None
        except DescriptorStoreError as error:
            raise ReceiverGoneError(str(error)) from None


class StoredSessions:
    """The sessions that an earlier process has left in the store, and those that this one will leave there.

    Args:
        server: Whose sessions they are. Where there is a store, a graceful shutdown of it saves them from now on.
        environ: See `DescriptorStore`.
    """

    def __init__(self, server: Server, environ: Mapping[str, str]) -> None:
        self._server = server
        self._store = DescriptorStore(environ)
        self._entries = server.passed_sockets.take(STORED_NAME_PREFIX)
        self._lists = self._entries.pop(LIST_NAME, [])
        self._problem = "there is no list of the sessions"
        self._is_stored = False
        self._unremoved: list[str] = []  # entries that systemd did not remove yet
        self._adopting: trio.Event | None = None
        if self._store.max_descriptors:
            server.save_sessions = self._save

    # ------------------------------------------------------------------ from an earlier process

    async def read_list(self) -> None:
        """Read which sessions there are: from then on clients that come for one of them wait. Before all clients."""
        if not (self._lists or self._entries):
            return
        self._is_stored = True
        try:
            for descriptor in self._lists[:1]:  # systemd passes the latest first
                found = await read_list(descriptor)
                self._server.services.sessions.expect(found.epoch, found.session_ids)
                self._problem = ""
        except StateError as error:
            self._problem = str(error)
        while self._lists:
            os.close(self._lists.pop())

    async def adopt_sessions(self, adopter: SessionAdopter) -> None:
        """Adopt the sessions, one after the other, and empty the store."""
        self._adopting = trio.Event()
        try:
            if self._is_stored:  # until now, the next process finds all of it if this one ends
                await self._remove(LIST_NAME)
            while self._entries:
                await trio.lowlevel.checkpoint()
                name = next(reversed(self._entries))  # systemd passes the latest first
                await self._remove(name)
                await self._adopt_one(adopter, name.removeprefix(_SESSION_NAME), self._entries.pop(name))
        finally:
            adopter.finish()
            self.close()
            self._adopting.set()

    async def _adopt_one(self, adopter: SessionAdopter, session_id: str, descriptors: list[int]) -> None:
        states = [one for one in descriptors if not stat.S_ISSOCK(os.fstat(one).st_mode)]
        backends = [socket.socket(fileno=one) for one in descriptors if one not in states]
        try:
            if self._problem or len(states) != 1 or len(backends) > 1:
                detail = self._problem or f"{len(states)} states and {len(backends)} connections are in the store"
                log.warning("session.lost", session=session_id, detail=detail)
                adopter.counts.lost += bool(self._problem)  # else it is expected, and counted in the end
                for backend in backends:
                    reset_socket(backend)
            else:
                await adopter.adopt(session_id, states[0], backends[0] if backends else None)
        finally:
            for state in states:
                os.close(state)

    async def _remove(self, name: str) -> None:
        """Remove an entry, or else note that this is still to be done."""
        if not self._unremoved:  # with another wait for each session, their clients would wait as well
            try:
                await self._store.remove(name)
            except DescriptorStoreError as error:
                log.warning("sessions.not_removed", detail=str(error))
            else:
                return
        self._unremoved.append(name)

    def close(self) -> None:
        """Close what was not adopted, and the connection to systemd. Safe to call twice."""
        for descriptor in [*self._lists, *(one for descriptors in self._entries.values() for one in descriptors)]:
            os.close(descriptor)
        self._lists, self._entries = [], {}
        self._store.close()

    # ------------------------------------------------------------------ for the next process

    async def _save(self) -> None:
        """Put all sessions that can move into the store, and end the others (4004)."""
        if self._adopting is not None:
            await self._adopting.wait()  # the next process would not expect what is in the store still
        sessions, timeouts = self._server.services.sessions, self._server.generation.config.timeouts
        try:
            while self._unremoved:
                await self._store.remove(self._unremoved.pop())
            if not sessions.sessions:
                return
            descriptor = await write_list(begin_handover(sessions))
            try:
                await self._store.put(LIST_NAME, [descriptor])
            finally:
                os.close(descriptor)
            receiver = _StoreReceiver(self._store)
            counts = await give_away(sessions, receiver, timeouts.retry_after, timeouts.drain_spread)
            counts.lost += end_left(sessions, counts.problem)
            facts = {"detail": counts.problem} if counts.problem else {}
            log.info("sessions.handed_over", count=counts.moved, lost=counts.lost, left=0, **facts)
            await self._store.wait_until_stored()
        except (DescriptorStoreError, OSError) as error:
            log.error("sessions.not_stored", detail=str(error))
            end_left(sessions, str(error))
        finally:
            sessions.end_handover()
