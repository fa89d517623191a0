"""Attackers, as processes of their own: many clients in one epoll set, at a set pace.

`python -m tests.process.attackers PLAN` with a JSON object: at the end it prints its counts as one JSON line. It ends
after `count` clients, or when its standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any, Self

RESET = struct.pack("ii", 1, 0)
NO_PORT_YET = 24  # IP_BIND_ADDRESS_NO_PORT (linux/in.h): the port is chosen with the connection
WAITS = 30.0
"""Seconds after which a client gives up."""


class Client:
    """One connection on its way."""

    def __init__(self, source: str, port: int, data: bytes) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.setsockopt(socket.IPPROTO_IP, NO_PORT_YET, 1)
        self.sock.bind((source, 0))
        self.sock.connect_ex(("127.0.0.1", port))
        self.fd = self.sock.fileno()
        self.data = data
        self.began = time.monotonic()
        self.sent = False


class Attack:
    """Clients at a pace.

    Args:
        plan: `port`; `sources`, the addresses they come from in turn; `head`, what each sends, with {n} for its number;
            and either `rate` a second with at most `most` concurrent ones, or `hold`, a number that is kept open and
            sends one more byte each `drip` seconds. With `count` it ends after so many clients; with `least` it makes
            at least so many, goes on until its standard input is closed, and waits for the answers of all.
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.answers: Counter[str] = Counter()
        self.clients: dict[int, Client] = {}
        self.drips: deque[tuple[float, Client]] = deque()
        self.epoll = select.epoll()
        self.made = 0

    def make(self) -> None:
        """Start one client."""
        plan = self.plan
        sources = plan["sources"]
        number = self.made
        head = plan["head"].replace("{n}", f"{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
        client = Client(sources[number % len(sources)], plan["port"], head.encode())
        self.made += 1
        self.clients[client.fd] = client
        self.epoll.register(client.fd, select.EPOLLIN | select.EPOLLOUT)

    def over(self, client: Client, how: str) -> None:
        """One client has its answer."""
        self.answers[how] += 1
        self.clients.pop(client.fd, None)
        client.sock.close()

    def hear(self, fd: int, event: int) -> None:
        """Something happened to a client."""
        client = self.clients.get(fd)
        if client is None:
            return
        try:
            if event & select.EPOLLOUT and not client.sent:
                client.sent = True
                self.epoll.modify(fd, select.EPOLLIN)
                if client.data:
                    client.sock.send(client.data)
                if "hold" in self.plan:
                    self.drips.append((time.monotonic() + self.plan["drip"], client))
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                data = client.sock.recv(65536)
                self.over(client, data[9:12].decode() if data.startswith(b"HTTP/1.1 ") else "end")
        except BlockingIOError:
            pass
        except OSError:
            self.over(client, "reset")

    def drip(self, now: float) -> None:
        """Have slow clients send one byte more."""
        while self.drips and self.drips[0][0] <= now:
            _, client = self.drips.popleft()
            if self.clients.get(client.fd) is client:
                with contextlib.suppress(OSError):
                    client.sock.send(b"a")
                self.drips.append((now + self.plan["drip"], client))

    def run(self) -> dict[str, Any]:
        """Attack until the count is reached or standard input ends; return the counts."""
        plan = self.plan
        began = time.monotonic()
        self.epoll.register(0, select.EPOLLIN)
        count = plan.get("count", sys.maxsize)
        going = True
        while going:
            now = time.monotonic()
            if "hold" in plan:
                wanted = min(plan["hold"] - len(self.clients), 50)
                self.drip(now)
            else:
                due = min(int((now - began) * plan["rate"]), count)
                wanted = min(due - self.made, plan["most"] - len(self.clients))
                going = self.made < count or bool(self.clients)
            for _ in range(wanted):
                self.make()
            for fd, event in self.epoll.poll(0.005, 256):
                if fd != 0:
                    self.hear(fd, event)
                elif "least" in plan:
                    self.epoll.unregister(0)
                    count = max(plan["least"], self.made)
                else:
                    going = False
        held = len(self.clients)
        for client in list(self.clients.values()):
            client.sock.close()
        return {"made": self.made, "held": held, "seconds": time.monotonic() - began, "answers": self.answers}


class Attackers:
    """An attack that runs in a process of its own while the `with` block lasts, or to its end by `wait`."""

    def __init__(self, core: int | None, **plan: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.attackers", json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        if core is not None:
            os.sched_setaffinity(self.process.pid, {core})
        self.found: dict[str, Any] = {}

    def wait(self, seconds: float = WAITS) -> dict[str, Any]:
        """Wait for the end; give what came of it."""
        if not self.found:
            assert self.process.stdin is not None
            out, _ = self.process.communicate(timeout=seconds)
            self.found = json.loads(out)
        return self.found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()  # closes its standard input
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()


if __name__ == "__main__":
    print(json.dumps(Attack(json.loads(sys.argv[1])).run()))  # noqa: T201  (its result)
