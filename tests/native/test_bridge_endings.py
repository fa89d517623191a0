"""Pairs whose backend the engine connected, and which it has never given back: what wsbridge ends, it ends as always.

Each ending is tried with both engines: the same bytes, the same log line, the same counters, and room for the next.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.client import CLOSE, Client, frame
from tests.native.test_bridge import OWN_OF_EACH_RUN
from tests.serving import Backend, Served, backend, config_of, serving, written
from wsbridge import native, reloading_file, revocation
from wsbridge.auth import access_list
from wsbridge.auth.bearer import token_digest
from wsbridge.reasons import REASONS, Reason

if native.load() is None:
    pytest.skip("the native engine is not installed: there is no cargo", allow_module_level=True)

TOKEN = "0123456789abcdef0123456789abcdef"
QUICK = {"drain": "200ms", "drain_spread": "50ms", "lingering": "100ms"}
ENDINGS = {
    "drain": Reason.DRAINING,
    "stop": Reason.SHUTDOWN,
    "operator": Reason.CLOSED_BY_OPERATOR,
    "revoked": Reason.ACCESS_REVOKED,
    "route removed": Reason.ROUTE_REMOVED,
    "route changed": Reason.ROUTE_REMOVED,
    "route drained": Reason.ROUTE_REMOVED,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at lists often, and wait shortly."""
    monkeypatch.setattr(access_list, "REVOCATION_DELAY", 0.03)
    monkeypatch.setattr(revocation, "REVOCATION_INTERVAL", 0.01)
    monkeypatch.setattr(reloading_file, "CHECK_INTERVAL", 0.01)


def hash_of(token: str) -> str:
    """Write a token as the file has it."""
    return f"sha256:{token_digest(token).hex()}"


def write_tokens(path: Path, text: str) -> None:
    """Replace a token file at once."""
    new = path.with_name("new")
    new.write_text(text)
    new.chmod(0o600)
    new.rename(path)


def configuration(engine: str, back: Backend, tokens: Path, what: str) -> dict[str, Any]:
    """Write a configuration in which one client has room, by three limits."""
    app = {
        "match": {"path": "/app"},
        "backend": back.url,
        "auth": {"kind": "bearer", "tokens": str(tokens), "on_revoke": "close"},
        "allowed_origins": "any",
        "on_remove": "drain" if what == "route drained" else "close",
        "limits": {"connections": 1, "connections_per_identity": 1},
    }
    found: dict[str, Any] = json.loads(
        written(
            routes={"app": app, "other": {"match": {"path": "/other"}, "respond": "204", "auth": "none"}},
            timeouts=QUICK,
            engine=engine,
            limits={"per_address": {"connections": 1, "exempt": []}},
        )
    )
    return found


async def bring_about(what: str, served: Served, config: dict[str, Any], tokens: Path) -> None:
    """Do what ends the connection."""
    if what in ("drain", "stop"):
        served.server.stop(Reason.DRAINING if what == "drain" else Reason.SHUTDOWN)
    elif what == "operator":
        (connection,) = served.server.connections.values()
        assert connection.end(Reason.CLOSED_BY_OPERATOR, "as asked")
        assert not connection.end(Reason.CLOSED_BY_OPERATOR, "twice")
    elif what == "revoked":
        write_tokens(tokens, f"other {hash_of('another token of many characters')}\n")
    else:
        if what == "route removed":
            del config["routes"]["app"]
        else:
            config["routes"]["app"]["subprotocols"] = []
        await served.server.apply(config_of(json.dumps(config)))


async def has_room(served: Served, config: dict[str, Any], tokens: Path) -> None:
    """Hold that the next client is served, under the limits of one."""
    write_tokens(tokens, f"robot {hash_of(TOKEN)}\n")
    await served.server.apply(config_of(json.dumps(config)))
    client = await served.upgraded("/app", f"Authorization: Bearer {TOKEN}")
    await client.echoed()
    await client.close()


async def story(engine: str, what: str, leaves: str, folder: Path) -> dict[str, Any]:
    """Have a connection ended; give what its peers saw, and what is known of it afterwards."""
    tokens = folder / "tokens"
    write_tokens(tokens, f"robot {hash_of(TOKEN)}\n")
    async with backend() as back:
        config = configuration(engine, back, tokens, what)
        whole = json.dumps(config)
        async with serving(whole) as served, trio.open_nursery() as nursery:
            nursery.start_soon(revocation.watch_access_lists, served.server)
            client = await served.upgraded("/app", f"Authorization: Bearer {TOKEN}")
            await client.echoed()
            (number,) = served.server.connections
            services = served.server.services
            if engine == "native":
                assert services.engine.bridges.carried[number].relay is None
            stats = served.server.generation.routes["app"].stats
            assert (stats.active, stats.relayed) == (1, 1)
            await bring_about(what, served, config, tokens)
            seen = await client.take(2 + 2 + len(ENDINGS[what].value))
            seen += await leave(client, leaves)
            await back.until(open=0)
            line = await served.records.wait("connection.closed")
            await served.quiet()
            assert services.engine.connection_ids == []
            assert stats.active == 0
            found = {
                "client": seen,
                "backend": (back.finished, back.lost),
                "closed": dict(stats.closed),
                "bytes": (stats.bytes_to_backend, stats.bytes_to_client),
                "line": [
                    (key, None if key in OWN_OF_EACH_RUN else value) for key, value in line.items() if key != "engine"
                ],
            }
            assert line["engine"] == engine
            if what not in ("drain", "stop"):
                await has_room(served, json.loads(whole), tokens)
            nursery.cancel_scope.cancel()
    return found


async def leave(client: Client, how: str) -> bytes:
    """Answer a close frame, end without an answer, or break the connection; give what came then."""
    if how == "answers":
        await client.send(frame(CLOSE, b"\x03\xf4"))
    elif how == "ends":
        await client.stream.send_eof()
    else:
        client.reset()
        return b""
    rest = await client.everything()
    client.drop()
    return rest


@pytest.mark.parametrize(
    ("what", "leaves"), [*((what, "answers") for what in ENDINGS), ("drain", "ends"), ("operator", "resets")]
)
async def test_an_ending_of_wsbridge_is_the_same_of_a_pair_that_never_came_back(what, leaves, tmp_path):
    """The close frame with its code, the reset of the backend, the line, the counters, and free limits."""
    python, own = [await story(engine, what, leaves, tmp_path) for engine in ("python", "native")]
    assert own == python
    reason = ENDINGS[what]
    code = REASONS[reason].close_code
    assert code is not None
    body = code.to_bytes(2, "big") + reason.value.encode()
    assert own["client"] == bytes((0x88, len(body))) + body
    assert (own["backend"], own["bytes"]) == ((0, 1), (5, 5))
    assert own["closed"] == {(reason, "wsbridge"): 1}
    line = dict(own["line"])
    assert (line["bytes_to_backend"], line["bytes_to_client"], line["reason"]) == (5, 5, reason)
