"""HAProxy and nginx in front of two bridges that are restarted one after the other: no client notices."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.clients.program import free_port, run
from tests.clients.proxies import haproxy, nginx, temporary
from tests.process.daemon import Daemon
from tests.process.plain import Clients, Socket, Transfer, backend, served
from tests.serving import written


class Bridge:
    """A bridge that can be restarted; use it as a context manager.

    Attributes:
        port: Where it listens.
        monitoring: Where it answers health checks.
        daemon: The process.
    """

    def __init__(self, url: str, drain_delay: str) -> None:
        self.port, self.monitoring = free_port(), free_port()
        self._text = written(
            listeners={"web": {"bind": f"127.0.0.1:{self.port}"}},
            route={"backend": url},
            monitoring={"bind": f"127.0.0.1:{self.monitoring}"},
            admin={"bind": "unix:@FOLDER@/admin.sock"},
            timeouts={"drain_delay": drain_delay, "drain": "60s", "drain_spread": "1s"},
        )
        self._daemons = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        """Start it."""
        self.daemon = self._daemons.enter_context(Daemon(self._text))

    def control(self, command: str) -> None:
        """Run a command of the admin API."""
        run(sys.executable, "-m", "wsbridge", command, "--admin", f"{self.daemon.folder}/admin.sock")

    def reasons(self, event: str) -> set[object]:
        """Give the reasons in the log."""
        return {line["reason"] for line in self.daemon.log_lines(event)}

    def close(self) -> None:
        """End it."""
        self._daemons.close()


@contextlib.contextmanager
def bridges(drain_delay: str) -> Iterator[tuple[Bridge, Bridge]]:
    """Run two bridges to the same echo."""
    with (
        backend() as back,
        contextlib.closing(Bridge(back.url, drain_delay)) as first,
        contextlib.closing(Bridge(back.url, drain_delay)) as second,
    ):
        yield first, second


def go_on(crowd: list[Clients], long: list[Transfer] | None = None) -> None:
    """Have some more clients served, and some more bytes relayed."""
    for transfer in long or ():
        transfer.step()
    for clients in crowd:
        clients.reach(clients.served + 20)


def test_haproxy_follows_readyz(tmp_path: Path) -> None:
    """A bridge that drains gets no more clients before it would reject one, by `wsbridge drain` and by SIGTERM."""
    port = free_port()
    with bridges("1500ms") as both, contextlib.ExitStack() as stack:
        servers = "".join(
            f"server s{bridge.port} 127.0.0.1:{bridge.port} check port {bridge.monitoring} inter 100ms fall 1 rise 1\n"
            for bridge in both
        )
        text = (
            "defaults\nmode http\ntimeout connect 5s\ntimeout client 60s\ntimeout server 60s\ntimeout tunnel 60s\n"
            "timeout check 10s\n"
            f"listen front\nbind 127.0.0.1:{port}\noption httpchk GET /readyz\n{servers}"
        )
        stack.enter_context(haproxy(tmp_path, port, text))
        crowd = [stack.enter_context(Clients(partial(served, port))) for _ in range(2)]
        long = [Transfer(port) for _ in range(4)]
        go_on(crowd, long)
        both[0].control("drain")
        go_on(crowd, long)
        late = Socket.connect(both[0].port)
        go_on(crowd, long)
        for bridge in both:
            bridge.daemon.term()
            go_on(crowd, long)
            while long:
                long.pop().end()
            late.close()
            assert bridge.daemon.ended(30) == 0
            assert bridge.reasons("connection.closed") == {"client_closed"}
            assert bridge.reasons("connection.rejected") == set()
            go_on(crowd)
            bridge.start()
            bridge.daemon.wait("connection.closed")  # HAProxy has seen that it is ready, before the other one is ended
            long = [Transfer(port) for _ in range(4)]
        go_on(crowd, long)
        for transfer in long:
            transfer.end()


def test_nginx_sends_rejected_clients_to_the_other(tmp_path: Path) -> None:
    """It checks no health in this edition, but it has proxy_next_upstream, as docs/upgrade.md says."""
    port = free_port()
    with bridges("0s") as both, contextlib.ExitStack() as stack:
        servers = "".join(f"server 127.0.0.1:{bridge.port} fail_timeout=1s; " for bridge in both)
        text = f"""http {{
            access_log off; {temporary(tmp_path)}
            upstream wsbridge {{ {servers} }}
            server {{ listen 127.0.0.1:{port}; location / {{
                proxy_pass http://wsbridge; proxy_http_version 1.1;
                proxy_next_upstream error timeout http_503;
                proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
                proxy_set_header Host $host;
            }} }}
        }}"""
        stack.enter_context(nginx(tmp_path, port, text))
        crowd = [stack.enter_context(Clients(partial(served, port))) for _ in range(2)]
        for bridge in both:
            long = [Transfer(port) for _ in range(4)]
            with Socket.upgraded(bridge.port) as client:
                go_on(crowd, long)
                bridge.daemon.term()
                bridge.daemon.wait("connection.rejected")
                go_on(crowd, long)
                client.echoed()
            while long:
                long.pop().end()
            assert bridge.daemon.ended(30) == 0
            assert bridge.reasons("connection.rejected") == {"draining"}
            go_on(crowd)
            bridge.start()
            bridge.daemon.wait("connection.closed")  # fail_timeout is over
        go_on(crowd)
