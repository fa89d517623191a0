"""A page in a real browser that connects as the documentation shows: known by a cookie, authenticated by a ticket."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.clients.browser import browsing
from tests.clients.servers import echo, serving
from tests.process.daemon import Daemon

DOCS = Path(__file__).parents[2] / "docs" / "auth" / "ticket.md"
TOKEN = "t0ken-of-alice"
LIST = f"alice sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n"
ROUTES = """
listeners: {{web: {{bind: '127.0.0.1:0'}}}}
routes:
  vnc: {{match: {{path: /vnc}}, backend: 'tcp://127.0.0.1:{port}', auth: {{kind: ticket, key: {{file: {key}}}}}}}
  vnc-ticket:
    match: {{path: /vnc/ticket}}
    auth: {{kind: bearer, tokens: {tokens}, sources: ['cookie:pass']}}
    issue_tickets: {{route: vnc, key: {{file: {key}}}}}
  page: {{match: {{path: /}}, respond: 200, auth: none}}
"""


def script() -> str:
    """Give the block of the documentation that shows what a page does."""
    found = re.search(r"^```js\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


CONNECT = f"""async (text) => {{
  {script()}
  socket.binaryType = "arraybuffer";
  return await new Promise((resolve, reject) => {{
    socket.onopen = () => socket.send(new TextEncoder().encode(text));
    socket.onmessage = (event) => {{
      socket.close(1000);
      resolve({{ heard: new TextDecoder().decode(event.data), url: socket.url, code: 0 }});
    }};
    socket.onclose = (event) => resolve({{ heard: "", url: socket.url, code: event.code }});
  }});
}}"""
AGAIN = """async (url) => await new Promise((resolve) => {
  const socket = new WebSocket(url, ["binary"]);
  socket.onopen = () => resolve("open");
  socket.onclose = (event) => resolve(event.code);
})"""
ASK = """async () => (await fetch("/vnc/ticket", { method: "POST" })).status"""


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Daemon]:
    """The bridge with an echo behind it."""
    (tmp_path / "key").write_text("k" * 44)
    (tmp_path / "tokens").write_text(LIST)
    with (
        serving(echo) as port,
        Daemon(ROUTES.format(port=port, key=tmp_path / "key", tokens=tmp_path / "tokens")) as bridge,
    ):
        yield bridge


@pytest.mark.browser
def test_a_page_connects_by_a_ticket(bridge: Daemon) -> None:
    """Without its cookie the page gets no ticket; with it, one connection, and none by the same ticket again."""
    origin = f"http://127.0.0.1:{bridge.port()}"
    with browsing() as page:
        page.goto(f"{origin}/")
        assert page.evaluate(ASK) == 401
        page.context.add_cookies([{"name": "pass", "value": TOKEN, "url": origin, "sameSite": "Strict"}])
        first = page.evaluate(CONNECT, "hello")
        second = page.evaluate(CONNECT, "again")
        assert (first["heard"], second["heard"]) == ("hello", "again")
        assert first["url"] != second["url"]
        assert page.evaluate(AGAIN, first["url"]) == 1006

    end = bridge.wait("connection.closed", route="vnc")
    assert end["identity"] == "alice"
    assert end["path"] == "/vnc?ticket=***"
    assert "used before" in bridge.wait("connection.rejected", route="vnc")["detail"]
    (text,) = parse_qs(urlsplit(first["url"]).query)["ticket"]
    logged = [line for event in ("connection.closed", "connection.rejected") for line in bridge.log_lines(event)]
    assert text not in json.dumps(logged)
