"""Revocation: open connections whose user or token leaves its list, and all that must not end them."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.client import Client
from tests.serving import Backend, Served, backend, config_of, serving, written
from wsbridge import reloading_file, revocation
from wsbridge.auth import access_list
from wsbridge.auth.bearer import BearerToken, token_digest
from wsbridge.auth.passwords import hash_password
from wsbridge.reasons import Reason

DELAY = 0.4
INTERVAL = 0.02


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check often, and wait shortly."""
    monkeypatch.setattr(access_list, "REVOCATION_DELAY", DELAY)
    monkeypatch.setattr(revocation, "REVOCATION_INTERVAL", INTERVAL)
    monkeypatch.setattr(reloading_file, "CHECK_INTERVAL", INTERVAL)


HASHES = {name: hash_password(b"secret", ln=15, r=1).text for name in ("a", "b")}
"""Two of the same password, as cheap as is accepted."""


def users(**lines: str) -> str:
    """Write a users file."""
    return "".join(f"{name}:{stored}\n" for name, stored in lines.items())


BOTH = users(alice=HASHES["a"], bob=HASHES["a"])
BOB = users(bob=HASHES["a"])


def basic(name: str) -> str:
    """Write the header of a user."""
    return "Authorization: Basic " + base64.b64encode(f"{name}:secret".encode()).decode()


def replace_file(path: Path, text: str) -> None:
    """Replace a file at once."""
    new = path.with_name("new")
    new.write_text(text)
    new.chmod(0o600)
    new.rename(path)


def config(back: Backend, auth: dict[str, Any], **route: Any) -> str:
    """Write a configuration with one route."""
    text: dict[str, Any] = json.loads(written(route={"backend": back.url, "auth": auth, **route}))
    return json.dumps(text)


class Revoking:
    """A server with a list.

    Attributes:
        served: The server.
        path: The list.
        back: The backend.
    """

    def __init__(self, served: Served, path: Path, back: Backend) -> None:
        self.served = served
        self.path = path
        self.back = back

    async def login(self, header: str) -> Client:
        """Connect a client."""
        client = await self.served.upgraded("/", header)
        await client.echoed()
        return client

    async def revoked(self, client: Client) -> dict[str, Any]:
        """Wait until a client is disconnected for that; give the line."""
        assert await client.closing() == (1008, "access_revoked")
        client.drop()
        return await self.served.records.wait("connection.closed", reason="access_revoked")

    async def unharmed(self, *clients: Client) -> None:
        """Wait for long enough, and see that clients are connected."""
        await trio.sleep(DELAY + 10 * INTERVAL)
        for client in clients:
            await client.echoed()


@contextlib.asynccontextmanager
async def revoking(
    folder: Path, text: str, auth: Callable[[Path], dict[str, Any]], **route: Any
) -> AsyncIterator[Revoking]:
    """Run a server that watches a list."""
    path = folder / "list"
    replace_file(path, text)
    async with backend() as back, serving(config(back, auth(path), **route)) as served, trio.open_nursery() as nursery:
        nursery.start_soon(revocation.watch_access_lists, served.server)
        yield Revoking(served, path, back)
        nursery.cancel_scope.cancel()


def by_basic(path: Path) -> dict[str, Any]:
    """Write the section of a users file."""
    return {"kind": "basic", "users": str(path), "on_revoke": "close"}


def by_bearer(path: Path) -> dict[str, Any]:
    """Write the section of a token file."""
    return {"kind": "bearer", "tokens": str(path), "on_revoke": "close"}


async def test_a_user_that_is_removed_is_disconnected(tmp_path):
    """The others stay; the log names user and file; the backend is reset."""
    async with revoking(tmp_path, BOTH, by_basic) as one:
        alice, bob = await one.login(basic("alice")), await one.login(basic("bob"))
        replace_file(one.path, BOB)
        record = await one.revoked(alice)
        assert (record["initiator"], record["level"]) == ("wsbridge", "info")
        assert record["detail"] == f'user "alice" was removed from {one.path}, or its line has changed'
        await one.back.until(lost=1)
        await one.unharmed(bob)
        await bob.close()


async def test_another_password_counts_as_removed(tmp_path):
    """What the client has presented is not valid any more."""
    async with revoking(tmp_path, BOTH, by_basic) as one:
        alice, bob = await one.login(basic("alice")), await one.login(basic("bob"))
        replace_file(one.path, users(alice=HASHES["b"], bob=HASHES["a"], carol=HASHES["b"]))
        await one.revoked(alice)
        await one.unharmed(bob)
        await bob.close()


def damaged(path: Path) -> None:
    """Write what is no list."""
    path.write_text("alice\n")


def emptied(path: Path) -> None:
    """Empty it, as a full disk does."""
    path.write_text("")


def removed(path: Path) -> None:
    """Remove it."""
    path.unlink()


def directory(path: Path) -> None:
    """Put something else in its place."""
    path.unlink()
    path.mkdir()


def touched(path: Path) -> None:
    """Write the same again."""
    path.write_text(BOTH)


@pytest.mark.parametrize("harm", [damaged, emptied, removed, directory, touched])
async def test_what_ends_nobody(tmp_path, harm):
    """A file that is missing, unreadable, invalid or empty; a later valid list counts again."""
    async with revoking(tmp_path, BOTH, by_basic) as one:
        alice, bob = await one.login(basic("alice")), await one.login(basic("bob"))
        harm(one.path)
        await one.unharmed(alice, bob)
        if one.path.is_dir():
            one.path.rmdir()
        replace_file(one.path, BOB)
        await one.revoked(alice)
        await bob.close()


async def test_a_file_that_is_being_written_ends_nobody(tmp_path):
    """One that keeps changing, each time valid and without the user, as if more lines were to come."""
    async with revoking(tmp_path, BOTH, by_basic) as one:
        alice = await one.login(basic("alice"))
        lines = users(bob=HASHES["a"])
        for number in range(6):
            lines += users(**{f"user{number}": HASHES["b"]})
            replace_file(one.path, lines)
            await trio.sleep(DELAY / 2)
        await alice.echoed()
        replace_file(one.path, lines + users(alice=HASHES["a"]))
        await one.unharmed(alice)
        await alice.close()


async def test_without_the_setting_connections_stay(tmp_path):
    """The default."""
    async with revoking(tmp_path, BOTH, lambda path: {"kind": "basic", "users": str(path)}) as one:
        alice = await one.login(basic("alice"))
        replace_file(one.path, BOB)
        await one.unharmed(alice)
        await alice.close()


def token_line(name: str, token: str, **rest: Any) -> str:
    """Write the line of a token."""
    return BearerToken(name, token_digest(token), **rest).to_line() + "\n"


@pytest.mark.parametrize(
    "left",
    [
        token_line("ci", "other"),
        token_line("ci", "secret", expires=1.0) + token_line("ci", "other"),
        token_line("ci", "secret", routes=frozenset({"elsewhere"})) + token_line("ci", "other"),
    ],
)
async def test_a_token_that_is_not_valid_any_more(tmp_path, left):
    """Its line removed, expired or for other routes, though its name has another token."""
    text = token_line("ci", "secret") + token_line("ci", "other")
    async with revoking(tmp_path, text, by_bearer) as one:
        first, second = await one.login("Authorization: Bearer secret"), await one.login("Authorization: Bearer other")
        replace_file(one.path, left)
        record = await one.revoked(first)
        fingerprint = token_digest("secret")[:8].hex()
        assert (
            record["detail"] == f'the token {fingerprint} of "ci" was removed from {one.path}, or its line has changed'
        )
        await one.unharmed(second)
        await second.close()


async def test_in_a_combination_of_methods(tmp_path):
    """Of `any_of` the entry of the method that was used, of `all_of` each of them."""
    tokens = tmp_path / "tokens"
    replace_file(tokens, token_line("ci", "secret") + token_line("other", "other"))

    def either(path: Path) -> dict[str, Any]:
        return {
            "any_of": [by_basic(path), {"all_of": [by_bearer(tokens), {"kind": "network", "allow": ["0.0.0.0/0"]}]}]
        }

    async with revoking(tmp_path, BOTH, either) as one:
        alice, robot = await one.login(basic("alice")), await one.login("Authorization: Bearer secret")
        replace_file(tokens, token_line("other", "other"))
        await one.revoked(robot)
        await one.unharmed(alice)
        replace_file(one.path, BOB)
        await one.revoked(alice)


async def test_a_dial_of_a_revoked_user_ends(tmp_path):
    """A client that is not relayed yet: 403."""
    async with revoking(tmp_path, BOTH, by_basic, backend="tcp://127.0.0.1:1", dial={"retry_for": "60s"}) as one:
        client = await one.served.connect()
        await client.send(
            f"GET / HTTP/1.1\r\nHost: localhost\r\n{basic('alice')}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await one.served.records.wait("backend.retry")
        replace_file(one.path, BOB)
        assert (await client.head()).startswith("HTTP/1.1 403 ")
        client.drop()
        assert (await one.served.records.wait("connection.rejected"))["reason"] == Reason.ACCESS_REVOKED


async def test_a_reload_with_another_file(tmp_path):
    """The list of the route as it is configured now counts, and the old one no more."""
    async with revoking(tmp_path, BOTH, by_basic) as one:
        alice, bob = await one.login(basic("alice")), await one.login(basic("bob"))
        other = tmp_path / "other"
        replace_file(other, BOB)
        await one.served.server.apply(config_of(config(one.back, by_basic(other))))
        await one.revoked(alice)
        replace_file(one.path, users(carol=HASHES["a"]))
        await one.unharmed(bob)
        replace_file(other, users(carol=HASHES["a"]))
        await one.revoked(bob)


@pytest.mark.parametrize("auth", ["none", {"kind": "network", "allow": ["0.0.0.0/0"]}, None])
async def test_a_reload_that_removes_the_method(tmp_path, auth):
    """The list that connections began with counts."""
    async with revoking(tmp_path, BOTH, by_basic) as one:
        alice, bob = await one.login(basic("alice")), await one.login(basic("bob"))
        routes = {"else": {"match": {"path": "/else"}, "backend": one.back.url, "auth": "none"}}
        section = written(routes=routes) if auth is None else written(route={"backend": one.back.url, "auth": auth})
        await one.served.server.apply(config_of(section))
        await one.unharmed(alice, bob)
        replace_file(one.path, BOB)
        await one.revoked(alice)
        await one.unharmed(bob)
        await bob.close()


async def test_a_reload_that_changes_nothing_of_it(tmp_path):
    """Generations share the list; connections of both end."""
    async with revoking(tmp_path, BOTH, by_basic) as one:
        first = await one.login(basic("alice"))
        await one.served.server.apply(config_of(config(one.back, by_basic(one.path), subprotocols=["a"])))
        assert len(one.served.server.services.access_lists) == 1
        second = await one.login(basic("alice"))
        await one.unharmed(first, second)
        replace_file(one.path, BOB)
        await one.revoked(first)
        await one.revoked(second)


async def test_lists_of_a_reload_are_watched(tmp_path):
    """Also where there was none before."""
    async with revoking(tmp_path, BOTH, lambda _: {"kind": "network", "allow": ["0.0.0.0/0"]}) as one:
        await one.served.server.apply(config_of(config(one.back, by_basic(one.path))))
        alice = await one.login(basic("alice"))
        replace_file(one.path, BOB)
        await one.revoked(alice)
