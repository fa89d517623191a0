"""The opening handshake: what is an upgrade, what is its acceptance, for both roles."""

from __future__ import annotations

import base64
import itertools
from time import thread_time

import pytest

from tests.rejections import outcome
from wsbridge.protocol.handshake import (
    UpgradeRequest,
    accept_key,
    acceptable_subprotocols,
    check_upgrade_response,
    encode_accept_response,
    encode_upgrade_request,
    generate_key,
    is_upgrade_request,
    parse_upgrade,
    upgrade_required,
)
from wsbridge.protocol.http1 import HeadLimits, Request, RequestParser, Response, ResponseParser, encode_response_head
from wsbridge.reasons import Reason, Rejected

LIMITS = HeadLimits()
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
USUAL = {
    "Host": ["gw:8443"],
    "Upgrade": ["websocket"],
    "Connection": ["Upgrade"],
    "Sec-WebSocket-Key": [KEY],
    "Sec-WebSocket-Version": ["13"],
}


def raw(method: str = "GET", target: str = "/ws?a=b", **changed: list[str] | str) -> bytes:
    """Write an upgrade request with some headers changed, given as header_name="value" or a list of lines."""
    headers: dict[str, list[str]] = dict(USUAL)
    for key, value in changed.items():
        name = next((name for name in USUAL if name.lower() == key.replace("_", "-").lower()), key.replace("_", "-"))
        headers[name] = [value] if isinstance(value, str) else value
    lines = [f"{name}: {value}\r\n" for name, values in headers.items() for value in values]
    return f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")


def request(method: str = "GET", target: str = "/ws?a=b", **changed: list[str] | str) -> Request:
    """Read an upgrade request, with some headers changed."""
    found = RequestParser(LIMITS).feed(raw(method, target, **changed))
    assert isinstance(found, Request), found
    return found


def taken(**changed: list[str] | str) -> UpgradeRequest:
    """Hold that such a request is an upgrade."""
    upgrade = parse_upgrade(request("GET", "/ws?a=b", **changed))
    assert isinstance(upgrade, UpgradeRequest), upgrade
    return upgrade


def refused(status: int, method: str = "GET", **changed: list[str] | str) -> Rejected:
    """Hold that such a request is refused with this status."""
    bad = outcome(parse_upgrade, request(method, "/ws?a=b", **changed))
    assert isinstance(bad, Rejected), bad
    assert bad.termination().http_status == status
    return bad


def answer(data: bytes) -> Response:
    """Read an answer of a backend."""
    found = ResponseParser(65536).feed(data)
    assert isinstance(found, Response), found
    return found


def judged(data: bytes, offered: tuple[str, ...] = (), body: bytes = b"") -> str | Rejected | None:
    """Judge an answer of a backend."""
    return outcome(check_upgrade_response, answer(data), KEY, offered, body)


def switch(*lines: str, first: str = "HTTP/1.1 101 Switching Protocols", **changed: str | None) -> bytes:
    """Write a 101, with some headers changed or left out."""
    usual = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept_key(KEY)}
    given = {**usual, **{name.replace("_", "-"): value for name, value in changed.items()}}
    all_lines = [first, *(f"{name}: {value}" for name, value in given.items() if value is not None), *lines, ""]
    return "".join(f"{line}\r\n" for line in all_lines).encode("latin-1")


class TestReadUpgrade:
    def test_usual(self) -> None:
        """A usual request is an upgrade with all its parts."""
        upgrade = taken(Origin="https://gw:8443", Sec_WebSocket_Protocol="binary, base64")

        assert upgrade == UpgradeRequest(("binary", "base64"), "https://gw:8443", "gw:8443", "/ws", "/ws?a=b")

    @pytest.mark.parametrize(
        "connection", ["keep-alive, Upgrade", "UPGRADE", ["keep-alive", "upgrade"], ",, upgrade ,"]
    )
    @pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, WEBSOCKET", ["h2c", "websocket"]])
    def test_token_lists(self, connection: list[str] | str, upgrade: list[str] | str) -> None:
        """Upgrade and Connection are lists over any number of lines, in any case."""
        taken(Connection=connection, Upgrade=upgrade)

    @pytest.mark.parametrize("upgrade", [[], "h2c", "websockets", "web socket", "websocket/13", ""])
    def test_no_upgrade(self, upgrade: list[str] | str) -> None:
        """A request that does not name WebSocket gets 426 and what it needs."""
        assert not is_upgrade_request(request(Upgrade=upgrade))
        assert ("Upgrade", "websocket") in refused(426, Upgrade=upgrade).headers

    @pytest.mark.parametrize("connection", [[], "keep-alive", "close", "upgraded", "x-upgrade"])
    def test_no_connection_upgrade(self, connection: list[str] | str) -> None:
        """Without Connection: Upgrade it is 400, with a hint at the proxy in front."""
        assert is_upgrade_request(request(Connection=connection))
        assert "proxy" in refused(400, Connection=connection).detail

    @pytest.mark.parametrize("version", [[], "8", "0", "", "13, 8", "13,13", ["13", "13"], ["13", "8"], "013", "+13"])
    def test_versions(self, version: list[str] | str) -> None:
        """Any but exactly one version 13 gets 426 that names 13."""
        assert ("Sec-WebSocket-Version", "13") in refused(426, Sec_WebSocket_Version=version).headers

    @pytest.mark.parametrize(
        "key",
        [
            [],
            [KEY, KEY],
            "",
            KEY[:-1],
            KEY[:-2],
            KEY + "=",
            f"{KEY}, {KEY}",
            base64.b64encode(bytes(15)).decode(),
            base64.b64encode(bytes(17)).decode(),
            base64.b64encode(bytes(18)).decode(),
            base64.urlsafe_b64encode(b"\xff" * 16).decode(),
            "dGhlIHNhbXBsZSBub25 ZQ==",
        ],
    )
    def test_keys(self, key: list[str] | str) -> None:
        """Any but exactly one key of 16 bytes in base64 gets 400."""
        refused(400, Sec_WebSocket_Key=key)

    def test_head_is_no_upgrade(self) -> None:
        """An upgrade must be GET."""
        assert refused(405, "HEAD").headers == (("Allow", "GET"),)

    def test_two_origins(self) -> None:
        """Two Origins are refused, even if they say the same."""
        refused(403, Origin=["https://gw:8443", "https://gw:8443"])

    @pytest.mark.parametrize(
        ("lines", "protocols"),
        [
            ([], ()),
            ("", ()),
            (", ,", ()),
            ("binary", ("binary",)),
            (["a, b", "c"], ("a", "b", "c")),
            ("a,a,\tb ,,A", ("a", "b", "A")),
            ("v1, authorization.bearer.ey.J.x", ("v1", "authorization.bearer.ey.J.x")),
        ],
    )
    def test_protocols(self, lines: list[str] | str, protocols: tuple[str, ...]) -> None:
        """Subprotocols come from several lines and commas, in order, each once, in their case."""
        assert taken(Sec_WebSocket_Protocol=lines).subprotocols == protocols

    @pytest.mark.parametrize("value", ["a b", "a;b", '"a"', "a/b", "secret=hunter2", "a, (b)", "@"])
    def test_bad_protocols(self, value: str) -> None:
        """A subprotocol that is no token gets 400, and is not repeated in the text, for it may be a secret."""
        assert value not in refused(400, Sec_WebSocket_Protocol=value).detail

    @pytest.mark.parametrize("name", ["Key", "Version", "Protocol", "Extensions", "Accept", "Other"])
    def test_long_headers_are_cheap(self, name: str) -> None:
        """8 KiB of spaces or commas in any Sec-WebSocket header cost less than 5 ms of the processor."""
        for fill, end in itertools.product([" ", "\t", ",", "a ", " ,", "a"], ["", "!", '"', "x"]):
            value = "x" + (fill * 8192)[: LIMITS.max_head_line_bytes - 40] + end
            data = raw(**{f"Sec-WebSocket-{name}": value})
            times = []
            for _ in range(3):
                start = thread_time()
                found = outcome(RequestParser(LIMITS).feed, data)
                if isinstance(found, Request):
                    outcome(parse_upgrade, found)
                times.append(thread_time() - start)

            assert min(times) < 0.005, (fill, end)


def test_accept_key() -> None:
    """The accept key of RFC 6455 section 1.3 comes out."""
    assert accept_key(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_new_key() -> None:
    """A new key is 16 random bytes."""
    assert len(base64.b64decode(generate_key())) == 16
    assert generate_key() != generate_key()


@pytest.mark.parametrize(
    ("configured", "offered", "chosen"),
    [
        (["binary"], [], None),
        ([], [], None),
        (["binary"], ["base64", "binary"], "binary"),
        (["a", "b"], ["b", "a"], "a"),
    ],
)
def test_select_subprotocol(configured: list[str], offered: list[str], chosen: object) -> None:
    """The first configured one that is offered is chosen."""
    assert next(iter(acceptable_subprotocols(configured, offered)), None) == chosen


def test_any_subprotocol() -> None:
    """Without a list all of the offer may be selected, but what carries a token."""
    offered = ["b", "wsbridge.token.aHVudGVyMg", "a"]
    assert acceptable_subprotocols(None, offered) == ("b", "a")
    assert acceptable_subprotocols(None, []) == ()
    with pytest.raises(Rejected, match="only a token"):
        acceptable_subprotocols(None, offered[1:2])


@pytest.mark.parametrize(("configured", "offered"), [(["binary"], ["base64"]), (["binary"], ["Binary"]), ([], ["x"])])
def test_no_subprotocol_fits(configured: list[str], offered: list[str]) -> None:
    """Browsers would fail the connection themselves, so the request is rejected, naming both lists."""
    with pytest.raises(Rejected) as caught:
        acceptable_subprotocols(configured, offered)
    assert caught.value.termination().http_status == 400
    known = ", ".join(configured) or "none"
    assert (
        caught.value.detail
        == f"the client offers the subprotocols {offered[0]}, and the route accepts {known} (subprotocols)"
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mqtt", True),
        ("v12.stomp", True),
        ("graphql-transport-ws", True),
        ("base64.binary.k8s.io", True),
        ("wamp.2.msgpack", True),
        ("ocpp2.0.1", True),
        ("hunter2hunter2hunter2", False),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl", False),
        ("d41d8cd98f00b204e9800998ecf8427e", False),
        ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", False),
        ("base64url.bearer.authorization.k8s.io.aHVudGVyMg", False),
        ("access_token", False),
        ("token-abc", False),
        ("x" * 200, False),
    ],
)
def test_tokens_in_an_offer_are_not_shown(name: str, shown: bool) -> None:
    """What does not look like the name of a protocol may be a secret, and only its length is reported."""
    with pytest.raises(Rejected) as caught:
        acceptable_subprotocols(["binary"], [name])
    assert (name in caught.value.detail) == shown
    assert (f"({len(name)} characters)" in caught.value.detail) != shown


class TestAcceptResponse:
    def test_whole(self) -> None:
        """The 101 is exactly what RFC 6455 asks for."""
        assert encode_accept_response(KEY, "binary", [("X-A", "b")]) == (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: binary\r\nX-A: b\r\n\r\n"
        )
        assert b"Protocol:" not in encode_accept_response(KEY, None)

    def test_injection(self) -> None:
        """A subprotocol that would inject a header raises."""
        with pytest.raises(ValueError, match="control"):
            encode_accept_response(KEY, "a\r\nSet-Cookie: b")


class TestClientRequest:
    def test_read_back(self) -> None:
        """Our own server side accepts what the client side writes."""
        data = encode_upgrade_request(
            "gw:8443", "/ws?a=b", KEY, ["binary", "mqtt"], [("Cookie", "c=d")], "https://gw:8443"
        )
        found = RequestParser(LIMITS).feed(data)

        assert isinstance(found, Request)
        assert found.headers.get(b"cookie") == b"c=d"
        assert parse_upgrade(found) == UpgradeRequest(
            ("binary", "mqtt"), "https://gw:8443", "gw:8443", "/ws", "/ws?a=b"
        )

    def test_least(self) -> None:
        """Without subprotocols and Origin neither header is sent."""
        data = encode_upgrade_request("gw", "/", KEY)

        assert b"Protocol:" not in data
        assert b"Origin" not in data

    @pytest.mark.parametrize("target", ["", "ws", "/a b", "/a\r\nX: y", "/a#b", "/ä"])
    def test_bad_target(self, target: str) -> None:
        """A target that cannot be sent raises."""
        with pytest.raises(ValueError, match="target"):
            encode_upgrade_request("gw", target, KEY)

    @pytest.mark.parametrize("name", ["Host", "UPGRADE", "sec-websocket-key", "Content-Length", "Transfer-Encoding"])
    def test_own_headers(self, name: str) -> None:
        """Headers that the handshake writes cannot be given a second time."""
        with pytest.raises(ValueError, match=name):
            encode_upgrade_request("gw", "/", KEY, headers=[(name, "x")])

    def test_injection(self) -> None:
        """No part can inject a line."""
        with pytest.raises(ValueError, match="control"):
            encode_upgrade_request("gw\r\nX: y", "/", KEY)
        with pytest.raises(ValueError, match="subprotocol"):
            encode_upgrade_request("gw", "/", KEY, ["a, b"])
        with pytest.raises(ValueError, match="control"):
            encode_upgrade_request("gw", "/", KEY, headers=[("X", "a\nb")])


class TestCheckResponse:
    def test_accepted(self) -> None:
        """A right 101 is an acceptance, with the offered subprotocol or with none."""
        assert judged(switch()) is None
        assert judged(switch("Sec-WebSocket-Protocol: b"), ("a", "b")) == "b"
        assert judged(switch(), ("a",)) is None
        assert judged(switch(Upgrade="WebSocket", Connection="keep-alive, upgrade")) is None
        assert judged(encode_accept_response(KEY, "a"), ("a",)) == "a"

    @pytest.mark.parametrize(
        "data",
        [
            switch(Upgrade=None),
            switch(Upgrade="h2c"),
            switch(Connection=None),
            switch(Connection="close"),
            switch(Sec_WebSocket_Accept=None),
            switch(Sec_WebSocket_Accept=accept_key(generate_key())),
            switch(Sec_WebSocket_Accept=accept_key(KEY).lower()),
            switch(f"Sec-WebSocket-Accept: {accept_key(KEY)}"),
            switch("Sec-WebSocket-Extensions: permessage-deflate"),
            switch("Sec-WebSocket-Protocol: c"),
            switch("Sec-WebSocket-Protocol: A"),
            switch("Sec-WebSocket-Protocol: a, b"),
            switch("Sec-WebSocket-Protocol: "),
            switch("Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: a"),
            switch(first="HTTP/1.0 101 Switching Protocols"),
            switch(first="HTTP/1.1 200 OK"),
            switch(first="HTTP/1.1 426 Upgrade Required"),
        ],
    )
    def test_refused(self, data: bytes) -> None:
        """Anything else, such as a 200 with Upgrade: websocket or a wrong Accept, is no upgrade."""
        bad = judged(data, ("a", "b"))

        assert isinstance(bad, Rejected)
        assert bad.termination().http_status == 502

    def test_refusal_is_reported(self) -> None:
        """Status, Location and the first of the body are reported, escaped and cut."""
        data = encode_response_head(302, [("Location", "https://login.example/?a=\xe4\x7e")])
        bad = judged(data, body=b"<b>\x1b[31m\n" + b"x" * 5000)

        assert isinstance(bad, Rejected)
        assert bad.permanent
        assert "302" in bad.detail
        assert '"https://login.example/?a=\\xe4~"' in bad.detail
        assert "not followed" in bad.detail
        assert '"<b>\\x1b[31m\\x0axxx' in bad.detail
        assert len(bad.detail) < 700
        assert bad.detail.isprintable()

    @pytest.mark.parametrize(
        ("status", "passed"),
        [
            (401, 401),
            (403, 403),
            (404, 404),
            (410, 410),
            (429, 429),
            (503, 503),
            (200, 502),
            (302, 502),
            (407, 502),
            (500, 502),
        ],
    )
    def test_statuses_that_pass(self, status: int, passed: int) -> None:
        """The client gets a status that says something to it; with credentials of our own 401 and 403 do not."""
        lines = [("Retry-After", "7"), ("WWW-Authenticate", "Basic")]
        bad = judged(encode_response_head(status, lines))

        assert isinstance(bad, Rejected)
        assert (bad.reason, bad.initiator, bad.status) == (Reason.BACKEND_REJECTED, "backend", passed)
        assert bad.headers == ((("Retry-After", "7"),) if status in (429, 503) else ())
        own = outcome(check_upgrade_response, answer(encode_response_head(status)), KEY, (), own_credentials=True)
        assert isinstance(own, Rejected)
        assert own.status == (502 if status in (401, 403, 407) else passed)

    @pytest.mark.parametrize("value", ["", "soon", "1\t2", "-1", "9" * 20, "<b>"])
    def test_a_retry_after_that_is_none(self, value: str) -> None:
        """Only seconds or a date pass."""
        bad = judged(encode_response_head(503, [("Retry-After", value)]))
        assert isinstance(bad, Rejected)
        assert bad.headers == ()

    def test_made_response(self) -> None:
        """Even a response that no reader made cannot raise."""
        made = Response(101, "", answer(switch()).headers)
        made.headers.add(b"Sec-WebSocket-Protocol", b"\xff")

        assert isinstance(outcome(check_upgrade_response, made, KEY, ("a",)), Rejected)


def test_upgrade_required() -> None:
    """The 426 for a plain request on a WebSocket route is a whole answer."""
    bad = upgrade_required()
    data = encode_response_head(bad.status or 0, bad.headers)

    assert data.startswith(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
    assert b"\r\nConnection: Upgrade, close\r\n" in data
