"""Authentication by name and password."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path

import bcrypt
import pytest
from trio.testing import MockClock

from tests.auth.methods import auth_services, caller
from tests.client import request
from tests.clients.program import program, run
from tests.rejections import async_outcome, challenges, rejection_body, without_id
from tests.serving import Served, backend, config_of, serving, written
from wsbridge.auth import passwords
from wsbridge.auth.basic import BasicAuth, BasicConfig, load_users
from wsbridge.auth.identity import ANONYMOUS, Identity, unauthenticated
from wsbridge.config.errors import ConfigError
from wsbridge.reasons import Reason, Rejected
from wsbridge.reloading_file import CHECK_INTERVAL

CHALLENGE = 'Basic realm="wsbridge", charset="UTF-8"'


def line(name: str, password: str) -> str:
    """Write a user with a hash that costs little."""
    return f"{name}:{passwords.hash_password(password.encode(), ln=12).text}\n"


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """Give a file with two users, one of each kind."""
    path = tmp_path / "users"
    path.write_text(line("alice", "wonder:land") + f"bob:{bcrypt.hashpw(b'builder', bcrypt.gensalt(4)).decode()}\n")
    return path


def authenticator(users: Path, **keys: object) -> BasicAuth:
    """Build one."""
    return BasicAuth(BasicConfig.model_validate({"users": users, **keys}), auth_services(ANONYMOUS)[0])


def shown(name: str, password: str) -> tuple[bytes, bytes]:
    """Write the header of a request."""
    return b"authorization", b"Basic " + base64.b64encode(f"{name}:{password}".encode())


@pytest.mark.parametrize(("name", "password"), [("alice", "wonder:land"), ("bob", "builder")])
async def test_the_right_password_comes_in(users: Path, name: str, password: str) -> None:
    """The identity is the user; twice, by the hash and by what is known of it."""
    auth = authenticator(users)
    for _ in range(2):
        assert await async_outcome(auth.identify(caller(shown(name, password)))) == Identity(name, "basic")


@pytest.mark.parametrize(
    ("name", "password", "detail"),
    [
        ("alice", "builder", 'a wrong password for the user "alice"'),
        ("alice", "", 'a wrong password for the user "alice"'),
        ("bob", "b" * 100, 'a wrong password for the user "bob"'),
        ("Alice", "wonder:land", "an unknown user"),
        ("", "wonder:land", "an unknown user"),
        ("\u200balice", "wonder:land", "an unknown user"),
    ],
)
async def test_wrong_credentials_are_failed_logins(users: Path, name: str, password: str, detail: str) -> None:
    """A wrong name and a wrong password get the same response; the log says which it was, without what was sent."""
    found = await async_outcome(authenticator(users).identify(caller(shown(name, password))))
    assert found.args == unauthenticated(detail, failed_login=True, challenges=(CHALLENGE,)).args


async def test_malformed_credentials_are_wrong_ones(users: Path) -> None:
    """They count as a failed login; no credentials, or those of another scheme, do not."""
    auth = authenticator(users, realm="the office")
    for value, tried in ((b"Basic !", True), (b"Bearer abc", False), (None, False)):
        found = await async_outcome(auth.identify(caller(*([] if value is None else [(b"authorization", value)]))))
        assert isinstance(found, Rejected)
        assert (found.reason, found.failed_login) == (Reason.UNAUTHENTICATED, tried)
        assert challenges(found) == ('Basic realm="the office", charset="UTF-8"',)
        other = "; Authorization has the scheme Bearer, not Basic"
        assert found.detail.endswith(other) == (value == b"Bearer abc")


async def test_a_user_who_is_not_there_is_verified_too(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name always meets the same hash, by which no password comes in: not even that of the one it is of."""
    asked: list[str] = []
    verify = passwords.ScryptHash.verify

    def counted(stored: passwords.ScryptHash, password: bytes) -> bool:
        asked.append(stored.text)
        return verify(stored, password)

    monkeypatch.setattr(passwords.ScryptHash, "verify", counted)
    users.write_text(line("alice", "x") + line("carol", "x") + line("dora", "x"))
    auth = authenticator(users)
    for _ in range(3):
        assert isinstance(await async_outcome(auth.identify(caller(shown("mallory", "x")))), Rejected)
    assert len(asked) == 3
    assert len(set(asked)) == 1
    for number in range(20):
        assert isinstance(await async_outcome(auth.identify(caller(shown(f"mallory{number}", "x")))), Rejected)
    assert len(set(asked)) == 3


async def test_another_password_ends_the_old_one(users: Path, mock_clock: MockClock) -> None:
    """When the file has changed, what was known of the old hash is of no use."""
    auth = authenticator(users)
    old = caller(shown("alice", "wonder:land"))
    assert isinstance(await async_outcome(auth.identify(old)), Identity)
    users.write_text(line("alice", "looking:glass"))
    mock_clock.jump(CHECK_INTERVAL)
    assert isinstance(await async_outcome(auth.identify(old)), Rejected)
    assert isinstance(await async_outcome(auth.identify(caller(shown("alice", "looking:glass")))), Identity)
    assert isinstance(await async_outcome(auth.identify(caller(shown("bob", "builder")))), Rejected)


async def test_an_emptied_file_lets_nobody_in(users: Path, mock_clock: MockClock) -> None:
    """An operator who removes all users means it; at the start it would be an oversight."""
    auth = authenticator(users)
    users.write_text("# nobody\n")
    mock_clock.jump(CHECK_INTERVAL)
    found = await async_outcome(auth.identify(caller(shown("alice", "wonder:land"))))
    assert isinstance(found, Rejected)
    assert found.failed_login
    with pytest.raises(ValueError, match="has no users"):
        authenticator(users)


async def test_a_file_that_went_bad_leaves_the_users(users: Path, mock_clock: MockClock) -> None:
    """Half a file neither admits nor rejects anyone."""
    auth = authenticator(users)
    users.write_text("alice:plain\n")
    mock_clock.jump(CHECK_INTERVAL)
    assert isinstance(await async_outcome(auth.identify(caller(shown("alice", "wonder:land")))), Identity)
    assert isinstance(await async_outcome(auth.identify(caller(shown("alice", "plain")))), Rejected)


def config(users: Path, **keys: object) -> str:
    """Write a configuration with a route that asks for a user."""
    return written(route={"backend": "tcp://127.0.0.1:9", "auth": {"kind": "basic", "users": str(users), **keys}})


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"", r"users: has no users"),
        (b"alice:$apr1$x$y\n", r"users: line 1: .* MD5 hash \(apr1\)"),
        (b"# \xe4\nalice:x\n", r"users: line 1: is not UTF-8"),
        (b"#\n" * 9_000_000, r"users: has more than 16777216 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_configuration_error(users: Path, text: bytes, wrong: str) -> None:
    """It is reported at the start, at the key that names the file."""
    users.write_bytes(text)
    with pytest.raises(ConfigError, match=rf"routes\.app\.auth\.users: .*{wrong}") as refused:
        config_of(config(users))
    assert [problem.code for problem in refused.value.problems] == ["E033"]
    users.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        config_of(config(users))


def test_a_missing_library_is_a_configuration_error(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that installs it is named; a file without such hashes needs none."""
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(ConfigError, match=re.escape("bcrypt, which need a library: pip install bcrypt")):
        config_of(config(users))
    users.write_text(line("alice", "x"))
    assert list(load_users(users).names) == ["alice"]
    config_of(config(users))


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"realm": 'a"b'}, "realm: must be 1 to 255 characters"),
        ({"realm": "büro"}, "realm: must be"),
        ({"realm": ""}, "realm: must be"),
        ({"cache": "off"}, 'cache: cannot be "off"'),
        ({"cache": "61m"}, "cache: must not be more than 1h"),
        ({"user": "alice"}, "user: unknown key"),
    ],
)
def test_keys(users: Path, keys: dict[str, str], wrong: str) -> None:
    """What is written wrong is pointed at."""
    with pytest.raises(ConfigError, match=rf"routes\.app\.auth\.{wrong}"):
        config_of(config(users, **keys))
    config_of(config(users, realm="the office", cache="0s"))


async def ask(served: Served, *headers: str) -> str:
    """Ask for an upgrade and give the whole answer to a refusal."""
    with await served.connect() as client:
        await client.send(request("/", *headers))
        return (await client.everything()).decode()


def authorization(name: str, password: str) -> str:
    """Write a header line."""
    return "Authorization: " + shown(name, password)[1].decode()


async def test_through_a_route(tmp_path: Path) -> None:
    """Only the right pair dials; every refusal is the same to the byte, with a challenge; no secret is logged."""
    users = tmp_path / "users"
    run(program("htpasswd"), "-c", "-B", "-b", str(users), "alice", "swordfish")
    wrong = [
        authorization("alice", "catfish-1"),
        authorization("mallory-1", "swordfish"),
        authorization("alice", "swordfish" * 20),
        "Authorization: Basic catfish-1",
        "Authorization: Bearer swordfish",
        "X-None: at-all",
    ]
    async with backend() as back:
        route = {"backend": back.url, "auth": {"kind": "basic", "users": str(users)}}
        async with serving(written(route=route)) as served:
            answers = {without_id(await ask(served, header)) for header in wrong}
            await served.records.ended(len(wrong))
            assert back.dials == 0
            (answer,) = answers
            assert answer.startswith("HTTP/1.1 401 ")
            assert f"\r\nWWW-Authenticate: {CHALLENGE}\r\n" in answer
            assert answer.endswith("\r\n\r\n" + rejection_body("unauthenticated"))
            client = await served.upgraded("/", authorization("alice", "swordfish"))
            await client.echoed(b"hello")
            await client.close(1000)
            assert (await served.records.wait("connection.closed"))["identity"] == "alice"
            assert back.dials == 1
            logged = str(served.records.all)
    assert not re.search("swordfish|catfish|mallory|\\$2y\\$", logged)
    assert base64.b64encode(b"alice:swordfish").decode() not in logged


async def test_too_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no more may wait the client gets a 503, may come again, and it is no failed login."""
    users = tmp_path / "users"
    users.write_text(line("alice", "x"))
    route = {"backend": "tcp://127.0.0.1:9", "auth": {"kind": "basic", "users": str(users)}}
    limits = {"password_threads": "1", "password_queue": "0"}
    async with serving(written(route=route, limits=limits)) as served:
        passwords = served.server.services.password_checker
        assert (passwords.threads, passwords.max_queue) == (1, 0)
        async with passwords._limiter:
            with await served.connect() as client:
                await client.send(request("/", authorization("alice", "x")))
                answer = await client.everything()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in answer
        refused = await served.records.wait("connection.rejected")
        assert (refused["reason"], refused["initiator"]) == ("overload", "wsbridge")
        assert "password_queue" in refused["detail"]
