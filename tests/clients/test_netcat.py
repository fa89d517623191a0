"""netcat through a tunnel: the end of the request arrives, and then the answer comes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.program import program, run
from tests.clients.servers import answer_at_end, serving
from tests.process.daemon import Daemon


@pytest.fixture
def tunnel() -> Iterator[tuple[Daemon, Daemon]]:
    """TCP to WebSocket to TCP, in two processes."""
    with (
        serving(answer_at_end) as port,
        Daemon(
            f"""
            listeners: {{gate: {{bind: '127.0.0.1:0'}}}}
            routes:
              late: {{match: {{path: /late}}, backend: 'tcp://127.0.0.1:{port}', on_client_close: deliver, auth: none}}
            """,
        ) as far,
        Daemon(
            f"""
            listeners: {{old: {{bind: '127.0.0.1:0', protocol: tcp, route: far}}}}
            routes: {{far: {{backend: 'ws://127.0.0.1:{far.port()}/late', auth: none}}}}
            """,
        ) as near,
    ):
        yield near, far


@pytest.mark.parametrize("size", [4, 1_000_000], ids=["small", "large"])
def test_answer_after_end(tunnel: tuple[Daemon, Daemon], size: int) -> None:
    """`nc -N` ends its side after the request; a server that answers only then is heard in full."""
    near, _ = tunnel
    request = (b"req\n" * (size // 4 + 1))[:size]

    answer = run(program("nc"), "-N", "127.0.0.1", str(near.port()), input=request)

    assert answer == b"heard: " + request.upper()
    assert near.wait("connection.closed")["bytes_to_client"] == len(answer)
