"""How a target is picked from a request or an identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.target_requests import asking
from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.backends import dynamic
from wsbridge.backends.dynamic import (
    TargetFromIdentityConfig,
    TokenFileTarget,
    TokensBackendConfig,
    build_selector,
    parse_identity_target,
)
from wsbridge.backends.tcp import TcpBackendConfig, UnixBackendConfig
from wsbridge.protocol.uri import PathPattern

PATH = PathPattern("/to/{host}/{port}")


def url(text: str, scheme: type = TcpBackendConfig) -> TcpBackendConfig:
    """Give the section of a backend."""
    return scheme.model_validate({"url": text})


async def test_by_a_template() -> None:
    """Fields of the request and of the client make a target."""
    found = build_selector(url("tcp://{host}:{port}"), PATH)
    assert str(await found.select(asking("/to/DB/22"), ANONYMOUS)) == "tcp://db:22"
    assert found.redact_target("/to/DB/22") == "/to/DB/22"
    assert not found.names_sockets
    with pytest.raises(ValueError, match="no IPv4 address"):
        await found.select(asking("/to/127.1/22"), ANONYMOUS)


async def test_by_a_claim() -> None:
    """The identity of a client chooses as well as its request."""
    found = build_selector(url("tcp://{claims.host}:{query.p}"), None)
    alice = Identity("alice", claims={"host": "db"})
    assert str(await found.select(asking("/?p=22"), alice)) == "tcp://db:22"
    with pytest.raises(ValueError, match=r"has no claims\.host"):
        await found.select(asking("/?p=22&claims.host=db"), ANONYMOUS)


async def test_a_named_socket_may_be_meant_as_a_token() -> None:
    """It is hidden, and one that is not there is the client's mistake."""
    found = build_selector(url("unix:/run/vnc/{query.token}", UnixBackendConfig), None)
    assert str(await found.select(asking("/?token=a"), ANONYMOUS)) == "unix:/run/vnc/a"
    assert found.redact_target("/?token=a") == "/?token=***"
    assert found.names_sockets


async def test_by_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to be in the list, in just these letters; a changed list holds at once, a broken one does not."""
    monkeypatch.setattr("wsbridge.reloading_file.CHECK_INTERVAL", 0.0)
    file = tmp_path / "tokens"
    file.write_text("s3cret: 10.0.0.1:22\n")
    found = build_selector(TokensBackendConfig.model_validate({"tokens": str(file), "token_from": "query.id"}), None)

    assert str(await found.select(asking("/?id=s3cret"), ANONYMOUS)) == "tcp://10.0.0.1:22"
    assert found.redact_target("/?id=s3cret") == "/?id=***"
    for token in ("S3CRET", "s3cret%20", "s3cret:", "%23", ""):
        with pytest.raises(ValueError, match=r"not in the list|has no query\.id") as caught:
            await found.select(asking(f"/?id={token}"), ANONYMOUS)
        assert "s3cret" not in str(caught.value).lower()

    (tmp_path / "next").write_text("other: 10.0.0.2:22\n")
    (tmp_path / "next").rename(file)
    assert str(await found.select(asking("/?id=other"), ANONYMOUS)) == "tcp://10.0.0.2:22"
    with pytest.raises(ValueError, match="not in the list"):
        await found.select(asking("/?id=s3cret"), ANONYMOUS)

    (tmp_path / "next").write_text("broken\n")
    (tmp_path / "next").rename(file)
    assert str(await found.select(asking("/?id=other"), ANONYMOUS)) == "tcp://10.0.0.2:22"


async def test_a_token_of_the_path_or_of_the_client(tmp_path: Path) -> None:
    """`token_from` says where it is."""
    (tmp_path / "t").write_text("alice: 10.0.0.1:22\n")
    by_path = TokensBackendConfig.model_validate({"tokens": str(tmp_path / "t"), "token_from": "host"})
    by_name = TokensBackendConfig.model_validate({"tokens": str(tmp_path / "t"), "token_from": "identity"})

    assert str(await build_selector(by_path, PATH).select(asking("/to/alice/1"), ANONYMOUS)) == "tcp://10.0.0.1:22"
    assert build_selector(by_path, PATH).target_token(asking("/to/alice/1"), ANONYMOUS) == "alice"
    assert build_selector(by_path, PATH).target_token(asking("/to/bob/1"), ANONYMOUS) is None
    assert build_selector(by_path, PATH).target_token(asking("/"), ANONYMOUS) is None
    assert build_selector(url("tcp://{host}:1"), PATH).target_token(asking("/to/alice/1"), ANONYMOUS) is None
    assert build_selector(by_path, PATH).redact_target("/to/alice/1") == "/to/***/1"
    assert str(await build_selector(by_name, None).select(None, Identity("alice"))) == "tcp://10.0.0.1:22"


async def test_a_token_of_a_cookie(tmp_path: Path) -> None:
    """It is compared as it was sent; a duplicate, which another site could have added, is rejected."""
    (tmp_path / "t").write_text("desk1: 10.0.0.1:22\nd%31: 10.0.0.2:22\n")
    config = TokensBackendConfig.model_validate({"tokens": str(tmp_path / "t"), "token_from": "cookie.desk"})
    selector = build_selector(config, None)

    assert str(await selector.select(asking("/", "a=b; desk=desk1"), ANONYMOUS)) == "tcp://10.0.0.1:22"
    assert str(await selector.select(asking("/", "a=b", 'desk="d%31"'), ANONYMOUS)) == "tcp://10.0.0.2:22"
    assert selector.target_token(asking("/", "desk=desk1"), ANONYMOUS) == "desk1"
    assert selector.redact_target("/?desk=desk1") == "/?desk=desk1"
    for cookies, words in {
        ("desk=desk1; desk=desk1",): "has 2 cookies desk",
        ("desk=desk1", "desk=other"): "has 2 cookies desk",
        ("desk=other",): "not in the list",
        ("Desk=desk1",): r"has no cookie\.desk",
        ("desk=",): r"has no cookie\.desk",
        (): r"has no cookie\.desk",
        ("desk=\xff",): "not UTF-8",
        (f"desk={'x' * 1025}",): "has 1025 characters, and the maximum is 1024",
    }.items():
        with pytest.raises(ValueError, match=words) as caught:
            await selector.select(asking("/?desk=desk1", *cookies), ANONYMOUS)
        assert "desk1" not in str(caught.value)


def test_a_list_is_read_at_the_start(tmp_path: Path) -> None:
    """One that cannot be used stops it."""
    config = TokensBackendConfig.model_validate({"tokens": str(tmp_path / "gone")})
    with pytest.raises(ValueError, match="No such file"):
        TokenFileTarget(config, None)


async def test_by_what_the_identity_is_for() -> None:
    """Its URL, of a scheme that the backend may speak."""
    found = build_selector(TargetFromIdentityConfig.model_validate({"url": "{target}", "schemes": ["tcp"]}), None)
    assert str(await found.select(None, Identity("a", target="tcp://DB:22"))) == "tcp://db:22"
    assert found.redact_target("/x?y=z") == "/x?y=z"
    with pytest.raises(ValueError, match="tls is none of the schemes"):
        await found.select(None, Identity("a", target="tls://db:22"))
    with pytest.raises(ValueError, match="no target goes with the identity"):
        await found.select(None, Identity("a"))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("tcp://[::1]:22", "tcp://[::1]:22"),
        ("TLS://Db.:22", "tls://db:22"),
        ("ws://db", "ws://db:80/"),
        ("wss://db/x?y=z", "wss://db:443/x?y=z"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_urls_of_identities(text: str, target: str) -> None:
    """Their normal form."""
    assert str(parse_identity_target(text)) == target


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "db:22",
            "http://db/",
            "tcp://127.1:22",
            "tcp://2130706433:22",
            "tcp://0x7f.1:22",
            "tcp://[fe80::1%lo]:22",
        ),
        *(
            "tcp://u:s3cret@db:22",
            "tcp://{host}:22",
            "{target}",
            "unix:/run/../x",
            "unix:x",
            "tcp://db:22\n",
            "tcp://db:022",
        ),
        "ws://db/" + "x" * dynamic.MAX_TARGET_URL_LENGTH,
    ],
)
def test_urls_that_cannot_be_dialled(text: str) -> None:
    """Wherever they come from, they are not quoted, since they can contain secrets."""
    with pytest.raises(ValueError, match=r"the identity's target|the host|the port|the path|the address") as caught:
        parse_identity_target(text)
    assert "s3cret" not in str(caught.value)
