"""Fuzz: any bytes to the admin API give a documented HTTP status or a close, and never an internal error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.served import ServedInThread, served_in_thread
from tests.serving import written

DOC = Path(__file__).parents[2] / "docs" / "admin.md"
STATUSES = {int(code) for code in re.findall(r"\b[2-5]\d\d\b", DOC.read_text())}

queries = st.builds(
    "/v1/connections?{}{}={}".format,
    st.sampled_from(["", "route=app&", "limit=1&", "&", ";"]),
    st.sampled_from(["route", "identity", "client", "limit", "", "x"]),
    st.one_of(st.text("%0123456789abcdef.:/+&=", max_size=20), st.ip_addresses().map(str)),
)
items = st.builds(
    "/v1/{}/{}".format,
    st.sampled_from(["connections", "bans"]),
    st.one_of(st.text("%0123456789abcdef.:/+?", max_size=20), st.ip_addresses().map(str)),
)
paths = queries | items | st.sampled_from(
    [
        "/v1/status", "/v1/listeners", "/v1/routes", "/v1/config", "/v1/reload", "/v1/drain", "/v1/undrain", "/livez",
        "/v1/log-level", "/readyz", "/v1/connections", "/v1/connections?route=app", "/v1/connections?client=::1%25x",
        "/v1/connections?limit=\xb2", "/v1/connections/1", "/v1/connections/%31", "/v1/connections/" + "9" * 5000,
        "/v1/connections?client=" + "1" * 9000, "/v1/connections?" + "a=b&" * 3000, "/v1/connections?identity=%00%ff",
        "/v1/bans", "/v1/bans/127.0.0.1", "/v1/bans/::1%2F64", "/v1/bans/%ff", "/v1/bans/fe80::1%25%00", "/v1/bans/",
        "/", "*", "http://a/v1/status", "//", "/v1/status?a=b", "/\xe9", "", "/%00", "/v1/",
        "/metrics", "/metrics?name[]=%00",
    ]
)  # fmt: skip
lines = st.one_of(
    st.sampled_from(
        [
            "Content-Length: 0", "Content-Length: 17", "Content-Length: 5, 6", "Content-Length: -1", "Host: b",
            "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Expect: 100-continue", "Connection: upgrade",
            "Upgrade: websocket", "Origin: http://a", "Authorization: Bearer \xff", "Authorization: Basic", "A b: c",
            "Accept: application/openmetrics-text;version=9.\xff;escaping=\xff", "Accept: \xff", "Accept: a;version",
            ": x", "X", " folded", "Content-Length: 99999999999999999999", "X: " + 70_000 * "x",
        ]
    ),
    st.text(st.characters(max_codepoint=255), max_size=20),
)  # fmt: skip
bodies = st.one_of(
    st.sampled_from([b"", b'{"level": "error"}', b"5\r\nhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\n", 70_000 * b"x"]),
    st.binary(max_size=40),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Make a request that is nearly one."""
    method = draw(st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "get", "PRI", "", "X" * 20]))
    version = draw(st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2.0", "HTTP/1.1 ", ""]))
    host = draw(st.sampled_from(["Host: localhost"] * 5 + ["X-No-Host: 1", "Host: a\r\nHost: b"]))
    head = "\r\n".join([f"{method} {draw(paths)} {version}", host, *draw(st.lists(lines, max_size=3)), "", ""])
    return head.encode("latin-1") + draw(bodies)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedInThread]:
    """Run a server with the admin API and the monitoring endpoint."""
    folder = tmp_path_factory.mktemp("admin")
    sections = {
        "admin": {"bind": f"unix:{folder}/admin"},
        "monitoring": {"bind": f"unix:{folder}/monitoring"},
    }
    text = written(route={"respond": "204", "auth": "none"}, **sections)
    (folder / "wsbridge.yaml").write_text(text)
    with served_in_thread(text, folder / "wsbridge.yaml") as running:
        yield running


def judge(answer: bytes) -> None:
    """Hold that a response, if there is one, is documented and whole."""
    while answer.startswith(b"HTTP/1.1 100 "):
        answer = answer.partition(b"\r\n\r\n")[2]
    if answer:
        head, blank, body = answer.partition(b"\r\n\r\n")
        assert blank
        status = int(re.fullmatch(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+", head.split(b"\r\n")[0])[1])
        assert status in STATUSES
        length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1])
        assert len(body) in (0, length)
        assert b"Traceback" not in body


@pytest.mark.parametrize("endpoint", ["admin", "monitoring"])
@given(data=st.one_of(requests(), st.binary(max_size=200)))
def test_any_bytes(served: ServedInThread, endpoint: str, data: bytes) -> None:
    """Requests that are nearly right, and any bytes; afterwards it still answers."""
    path = str(served.config.with_name(endpoint))
    judge(served.send(path, data))
    assert served.send(path, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").endswith(b"\r\n\r\nok\n")
