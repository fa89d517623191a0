"""URLs with fields: how they are written, and what a route has for them."""

from __future__ import annotations

import pytest

from wsbridge.config.backend_urls import UrlTemplate, check_field, is_request_field, read_backend_url, read_field_name
from wsbridge.config.urls import Target


@pytest.mark.parametrize(
    ("text", "host", "port", "path", "fields"),
    [
        ("tcp://{host}:{port}", "{host}", "{port}", "", ("host", "port")),
        ("tls://{name}.vms.example.org:5900", "{name}.vms.example.org", "5900", "", ("name",)),
        ("tcp://10.0.0.{n}:59{d}", "10.0.0.{n}", "59{d}", "", ("n", "d")),
        ("tcp://{a}.{b}.{c}.{d}:22", "{a}.{b}.{c}.{d}", "22", "", ("a", "b", "c", "d")),
        ("tcp://[{host}]:{port}", "{host}", "{port}", "", ("host", "port")),
        ("tcp://[::1]:{query.p}", "::1", "{query.p}", "", ("query.p",)),
        (
            "ws://{h}/x/{claims.room}?q={query.a}",
            "{h}",
            "80",
            "/x/{claims.room}?q={query.a}",
            ("h", "claims.room", "query.a"),
        ),
        ("wss://gw?u={identity}", "gw", "443", "/?u={identity}", ("identity",)),
        ("unix:/run/vnc/{query.token}.sock", "", "", "/run/vnc/{query.token}.sock", ("query.token",)),
        ("tcp://{a}.{a}:1", "{a}.{a}", "1", "", ("a",)),
    ],
)
def test_a_template_is_parsed(text: str, host: str, port: str, path: str, fields: tuple[str, ...]) -> None:
    """Host, port and path keep their fields, and each field is named once."""
    found = read_backend_url(text)

    assert isinstance(found, UrlTemplate)
    assert (found.host, found.port_text, found.path, found.fields) == (host, port, path, fields)
    assert (found.text, str(found), found.port) == (text, text, 0)


def test_a_url_without_fields_is_a_plain_target() -> None:
    """Nothing changes for it; a value that was read already is used as it is."""
    found = read_backend_url("tcp://a.example:1")

    assert type(found) is Target
    assert read_backend_url(found) is found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{s}://a:1", "the scheme must not contain a field"),
        ("unix:{x}", "the path of a socket begins with a slash"),
        ("tcp://{h}", "has no port"),
        ("tcp://{h}:0", "port 0"),
        ("tcp://{a}/{b}:1", "has no path"),
        ("tcp://u@{a}:1", "the host is a field"),
        ("tcp://a b{c}:1", "the host is a field"),
        ("tcp://127.{a}:1", "not an IPv4 address"),
        ("tcp://[::{h}]:1", "a whole IPv6 address"),
        ("tcp://[{h}:1", "brackets enclose"),
        ("tcp://{a:1", "a field is a name within braces"),
        ("tcp://a}:1", "a field is a name within braces"),
        ("tcp://{{a}}:1", "a field is a name within braces"),
        ("tcp://{}:1", "is not a field"),
        ("tcp://{target}:1", "must be the whole URL"),
        ("tcp://{header.X}:1", "is not a field: write NAME"),
        ("tcp://{qurey.host}:1", '(did you mean "query"?)'),
        ("http://{a}:1", "must be of the form"),
    ],
)
def test_what_is_no_template(text: str, words: str) -> None:
    """The sentence says what is wrong."""
    with pytest.raises(ValueError, match=r".") as caught:
        read_backend_url(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["host", "_x", "query.a-b", "claims.https://x/y", "identity"])
def test_names_of_fields(text: str) -> None:
    """Segments, parameters, claims by any name, and the identity."""
    assert read_field_name(text) == text


def test_fields_of_the_request_and_of_the_client() -> None:
    """Plain TCP has the latter alone."""
    assert is_request_field("host")
    assert is_request_field("query.x")
    assert not is_request_field("claims.x")
    assert not is_request_field("identity")
    assert not is_request_field("target")


@pytest.mark.parametrize(
    ("field", "identity", "words"),
    [
        ("host", False, None),
        ("query.any", False, None),
        ("claims.any", True, None),
        ("identity", True, None),
        ("target", True, None),
        (
            "hots",
            True,
            (
                '"{hots}" is not a segment of match.path or label of match.host (did you mean "host"?): '
                "the route has {host}, {port}"
            ),
        ),
        ("claims.any", False, '"{claims.any}" needs an authentication method that identifies the client'),
        ("target", False, '"{target}" needs an authentication method that identifies the client'),
    ],
)
def test_what_a_route_has_for_a_field(field: str, identity: bool, words: str | None) -> None:
    """Segments come from the path, the rest from the request or from who the client is."""
    assert check_field(field, ("host", "port"), identity=identity) == words


def test_a_route_without_named_segments_is_shown_how_to_write_them() -> None:
    """The sentence has an example."""
    assert str(check_field("x", (), identity=True)).endswith("the route has no named one, such as /to/{host}/{port}")
