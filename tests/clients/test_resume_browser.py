"""The JavaScript client in Chromium: what real libraries do over it goes on while the network is away."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import trio
from paho.mqtt.enums import CallbackAPIVersion
from playwright.sync_api import Page, expect

from tests.clients.browser import browsing
from tests.clients.program import PATIENCE, Program, free_port, missing, program
from tests.clients.servers import echo, serving
from tests.clients.test_cookbook import blocks, site
from tests.clients.test_mqtt import mosquitto  # noqa: F401  fixtures are imported, and used as parameters (F811)
from tests.clients.test_novnc import NOVNC, Screen, screen, shown  # noqa: F401  as above
from tests.cutting_proxy import CuttingProxy, cutting_proxy
from tests.process.daemon import Daemon

HOW = ("killed", "silent", "offline", "frozen")
AWAY = [
    pytest.param(HOW[:2], 0.5, id="network"),
    pytest.param(HOW[2:], 0.5, id="browser"),
    *(pytest.param((how,), 30.0, id=how, marks=pytest.mark.soak) for how in HOW),
]
"""How the network goes away, one after another, and for how many seconds."""


class Network:
    """A cutting proxy that runs in a thread, and what a browser makes of its absence.

    Args:
        target: Port of the server.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        self.port = self._proxy.port

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with cutting_proxy(self._target) as self._proxy, trio.open_nursery() as nursery:
            self._nursery = nursery
            self._ready.set()
            await self._end.wait()
            nursery.cancel_scope.cancel()

    def cut_often(self, shortest: float, longest: float) -> None:
        """Cut all connections again and again, after so many seconds."""
        self.do(lambda proxy: self._nursery.start_soon(proxy.cut_often, shortest, longest, 14))

    def do(self, act: Callable[[CuttingProxy], None]) -> None:
        """Call a method of the proxy in its thread."""
        trio.from_thread.run_sync(act, self._proxy, trio_token=self._token)

    def end(self) -> None:
        """End it."""
        trio.from_thread.run_sync(self._end.set, trio_token=self._token)
        self._thread.join()

    @contextmanager
    def away(self, page: Page, how: str, seconds: float) -> Iterator[None]:
        """Take the network away from a page; the body runs meanwhile.

        Args:
            page: The page.
            how: killed (connections are reset, others refused), silent (nothing is forwarded, and nobody is told),
                offline (the browser's emulation, with all of its connections cut), frozen (the processes of pages are
                stopped, and their connections break meanwhile; headless, Chromium freezes no page itself).
            seconds: For how long, apart from what the body takes.
        """
        if how == "killed":
            self.do(CuttingProxy.go_down)
        elif how == "silent":
            self.do(CuttingProxy.die)
        elif how == "offline":
            page.context.set_offline(True)
            self.do(CuttingProxy.cut)
        pages = renderers(page) if how == "frozen" else []
        try:
            for process in pages:
                os.kill(process, signal.SIGSTOP)
            if pages:
                self.do(CuttingProxy.cut)
            yield
            time.sleep(seconds)
        finally:
            for process in pages:
                os.kill(process, signal.SIGCONT)
        if how == "silent":
            self.do(CuttingProxy.cut)  # what was on its way is lost
        self.do(CuttingProxy.come_up)
        if how == "offline":
            page.context.set_offline(False)


def renderers(page: Page) -> list[int]:
    """Give the processes in which a browser runs its pages."""
    assert page.context.browser is not None
    session = page.context.browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return [each["id"] for each in processes if each["type"] == "renderer"]


@contextmanager
def network(target: int) -> Iterator[Network]:
    """Put one in front of a port."""
    network = Network(target)
    try:
        yield network
    finally:
        network.end()


def with_terminal(text: str) -> str:
    """Let the test read all lines of the terminal, and let the server send KEEPALIVE each second."""
    scrollback = "const terminal = (window.shown = new Terminal({ scrollback: 9999 }))"
    return text.replace("const terminal = new Terminal()", scrollback).replace(
        "{ttl: 10m}", "{ttl: 10m, keepalive: 1s}"
    )


def with_mqtt(text: str) -> str:
    """Have the page of the cookbook use the client."""
    text = text.replace("<script>", MODULE).replace("protocolVersion: 5", "protocolVersion: 5, createWebsocket")
    text = text.replace("    subprotocols: [mqtt, mqttv3.1]\n", f"    subprotocols: [mqtt, mqttv3.1]\n    {RESUME}\n")
    return text.replace("  page:\n", f"{CLIENT}  page:\n").replace('client.on("error"', f'{NOTED}client.on("error"')


RESUME = "resume: {ttl: 60s, keepalive: 1s}"
CLIENT = "  client: {match: {path: /resume.js}, respond: resume.js, auth: none}\n"
ROUTES = f"""
listeners: {{web: {{bind: '127.0.0.1:0'}}}}
routes:
  app: {{match: {{path: /app}}, backend: 'tcp://127.0.0.1:5901', auth: none, {RESUME}}}
  plain: {{match: {{path: /plain}}, backend: 'tcp://127.0.0.1:5901', auth: none, on_client_lost: fin}}
{CLIENT}
  page: {{match: {{path: /*}}, files: /srv/page, auth: none}}
"""
NOVNC_PAGE = """<!doctype html>
<meta charset="utf-8">
<div id="screen" style="width: 900px; height: 600px"></div>
<script type="module">
  import { ResumableWebSocket } from "/resume.js";
  import RFB from "/novnc/core/rfb.js";
  window.events = [];
  const socket = new ResumableWebSocket("/app");
  for (const type of ["open", "resumed", "close"]) socket.addEventListener(type, () => events.push(type));
  new RFB(document.getElementById("screen"), socket);
</script>
"""
MODULE = """<script type="module">
  import { ResumableWebSocket } from "/resume.js";
  const createWebsocket = (url, protocols) => new ResumableWebSocket(url, protocols);
"""
NOTED = """window.client = client;
  window.events = [];
  for (const type of ["connect", "reconnect", "close", "offline"]) client.on(type, () => events.push(type));
  """


BUFFER = """() => {
  const { active } = shown.buffer;
  return Array.from({ length: active.length }, (_, at) => active.getLine(at).translateToString(true));
}"""


def routes(port: int, files: Path) -> str:
    """Give a configuration: /app and /plain lead to a backend, everything else to files."""
    return ROUTES.replace("127.0.0.1:5901", f"127.0.0.1:{port}").replace("/srv/page", str(files))


@pytest.mark.browser
@pytest.mark.parametrize(("hows", "seconds"), AWAY)
def test_terminal(tmp_path: Path, hows: tuple[str, ...], seconds: float) -> None:
    """The page of the documentation: a shell that goes on counting, and then takes what was typed meanwhile."""
    (command,) = [line for line in blocks("../resume-client.md", "sh")[0].splitlines() if line.startswith("socat")]
    port = free_port()
    backend = f"127.0.0.1:{port}"
    page_of = ("../resume-client.md", "/srv/terminal", "127.0.0.1:7000", backend, tmp_path, with_terminal)
    program("socat")
    with (
        Program(*shlex.split(command.replace("7000", str(port))), env={"HOME": str(tmp_path)}) as socat,
        site(*page_of) as bridge,
        network(bridge.port()) as net,
        browsing() as page,
    ):
        socat.accepts(port)
        page.goto(f"http://127.0.0.1:{net.port}/")
        status, rows = page.locator("#status"), page.locator(".xterm-rows")
        expect(status).to_have_text("connected")
        expect(rows).to_contain_text(re.compile(r"[$#]"))  # the prompt
        page.locator("#terminal").click()
        lines = int(40 * (seconds + 0.1))
        count = f"for i in $(seq {lines}); do echo line $1 $i; sleep 0.025; done"
        page.keyboard.type(f"count() {{ clear; stty -echo; {count}; }}\n")
        for number, how in enumerate(hows):
            page.keyboard.type(f"count {number}\n")
            expect(rows).to_contain_text(f"line {number} 9")
            with net.away(page, how, seconds):
                if how != "frozen":
                    expect(status).to_contain_text("reconnecting")
                    page.keyboard.type("echo typed $((6 * 7))\n")
                    page.screenshot(path=tmp_path / f"{how}.png")
            expect(status).to_contain_text("without the network")
            if how == "frozen":
                page.keyboard.type("echo typed $((6 * 7))\n")
            expect(rows).to_contain_text("typed 42")
            page.screenshot(path=tmp_path / "back.png")
            found = [line for line in page.evaluate(BUFFER) if re.fullmatch(r"line \d+ \d+", line)]
            assert found == [f"line {number} {at + 1}" for at in range(lines)]
    rejected = {line["reason"] for line in bridge.log_lines("connection.rejected")}
    assert rejected <= {"client_lost"}  # attempts that the network has swallowed


@pytest.mark.browser
@pytest.mark.parametrize(("hows", "seconds"), AWAY)
def test_novnc(screen: Screen, tmp_path: Path, hows: tuple[str, ...], seconds: float) -> None:  # noqa: F811  a fixture
    """With noVNC as Debian has it, the screen shows what was drawn meanwhile."""
    if not NOVNC.is_dir():
        missing(str(NOVNC))
    (tmp_path / "index.html").write_text(NOVNC_PAGE)
    shutil.copytree(NOVNC, tmp_path / "novnc")
    screen.fill("#2060a0")
    with Daemon(routes(screen.port, tmp_path)) as bridge, network(bridge.port()) as net, browsing() as page:
        page.goto(f"http://127.0.0.1:{net.port}/")
        shown(page, (0x20, 0x60, 0xA0))
        for number, how in enumerate(hows):
            with net.away(page, how, seconds):
                screen.fill(f"#e0a0{number:02x}")
            shown(page, (0xE0, 0xA0, number))
        page.screenshot(path=tmp_path / "novnc.png")
        assert page.evaluate("events") == ["open", *("resumed" for _ in hows)]


@contextmanager
def publisher(port: int) -> Iterator[Callable[[str, str], object]]:
    """Connect to mosquitto itself; gives what publishes, and waits until all has arrived."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    published: list[mqtt.MQTTMessageInfo] = []
    try:
        yield lambda topic, text: published.append(client.publish(topic, text, qos=1))
        for each in published:
            each.wait_for_publish(PATIENCE)
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.browser
@pytest.mark.parametrize(("hows", "seconds"), AWAY)
def test_mqtt(mosquitto: int, tmp_path: Path, hows: tuple[str, ...], seconds: float) -> None:  # noqa: F811  a fixture
    """MQTT.js: each message arrives once, and its own logic of reconnecting sees nothing."""
    page_of = ("mqtt.md", "/srv/mqtt", "127.0.0.1:1883", f"127.0.0.1:{mosquitto}", tmp_path, with_mqtt)
    with site(*page_of) as bridge, network(bridge.port()) as net, browsing() as page:
        page.goto(f"http://127.0.0.1:{net.port}/")
        messages = page.locator("#messages")
        expect(messages).to_have_text("demo/hello: from the browser\n")
        wanted = ["demo/hello: from the browser"]
        for how in hows:
            with net.away(page, how, seconds), publisher(mosquitto) as publish:
                for number in range(50):
                    publish(f"demo/{how}", f"{number}")
                if how != "frozen":
                    page.evaluate(f"client.publish('demo/own', 'while {how}', {{ qos: 1 }})")
            wanted += [f"demo/{how}: {number}" for number in range(50)]
            expect(messages).to_contain_text(wanted[-1])
            if how != "frozen":
                expect(messages).to_contain_text(f"demo/own: while {how}\n")
        found = (messages.text_content() or "").splitlines()
        own = [line for line in found if line.startswith("demo/own: ")]
        assert [line for line in found if line not in own] == wanted
        assert own == [f"demo/own: while {how}" for how in hows if how != "frozen"]
        assert page.evaluate("events") == ["connect"]
        page.screenshot(path=tmp_path / "mqtt.png")


TICKETS = f"""
listeners: {{web: {{bind: '127.0.0.1:0'}}}}
routes:
  shell:
    match: {{path: /shell}}
    backend: 'tcp://127.0.0.1:5901'
    auth: {{kind: ticket, key: {{file: @FOLDER@/key}}}}
    {RESUME}
  ticket:
    match: {{path: /shell/ticket}}
    auth: {{kind: bearer, tokens: @FOLDER@/tokens, sources: ['cookie:pass']}}
    issue_tickets: {{route: shell, key: {{file: @FOLDER@/key}}}}
{CLIENT}
  page: {{match: {{path: /}}, respond: 200, auth: none}}
"""
STEPS = """async () => {{
  const {{ ResumableWebSocket }} = await import("/resume.js");
  {code}
  window.socket = socket;
  window.urls = new Set();
  socket.binaryType = "arraybuffer";
  window.heard = "";
  socket.onmessage = ({{ data }}) => (heard += new TextDecoder().decode(data));
  window.ended = new Promise((resolve) => (socket.onclose = ({{ code, reason }}) => resolve([code, reason])));
  await new Promise((resolve) => (socket.onopen = resolve));
  socket.onresumed = () => urls.add(socket.url);
  urls.add(socket.url);
  socket.send("before ");
}}"""


@pytest.mark.browser
def test_a_ticket_for_each_connection(tmp_path: Path) -> None:
    """As the documentation has it; without credentials for another ticket the session is given up."""
    (code,) = [block for block in blocks("../resume-client.md", "js") if "ticket" in block]
    (tmp_path / "key").write_text("k" * 44)
    (tmp_path / "tokens").write_text(f"alice sha256:{hashlib.sha256(b't0ken').hexdigest()}\n")
    with (
        serving(echo) as port,
        Daemon(TICKETS.replace("5901", f"{port}"), folder=tmp_path) as bridge,
        network(bridge.port()) as net,
        browsing() as page,
    ):
        origin = f"http://127.0.0.1:{net.port}"
        page.context.add_cookies([{"name": "pass", "value": "t0ken", "url": origin, "sameSite": "Strict"}])
        page.goto(f"{origin}/")
        page.evaluate(STEPS.format(code=code))
        net.do(CuttingProxy.cut)
        page.evaluate("socket.send('after')")
        page.wait_for_function("heard === 'before after'")
        assert page.evaluate("urls.size") == 2
        page.context.clear_cookies()
        net.do(CuttingProxy.cut)
        assert page.evaluate("ended") == [1006, "no URL was given"]
        assert page.evaluate("socket.state") == "lost"


ECHO = """async ({ url, mebibytes }) => {
  const { ResumableWebSocket } = await import("/resume.js");
  const socket = new ResumableWebSocket(url);
  const events = { resumed: 0, replayed: 0 };
  socket.onresumed = ({ detail }) => { events.resumed += 1; events.replayed += detail.replayed; };
  const closed = new Promise((resolve) => (socket.onclose = ({ code, reason }) => resolve([code, reason])));
  await new Promise((resolve) => (socket.onopen = resolve));
  const block = (number) => new Uint32Array(8192).map((_, at) => Math.imul(number * 8192 + at, 2654435761));
  const blocks = mebibytes * 32;
  const write = async () => {
    const writer = socket.writable.getWriter();
    for (let number = 0; number < blocks; number += 1) await writer.write(block(number));
    await writer.close();
  };
  const check = async () => {
    let at = 0;
    let wanted = new Uint8Array(0);
    for await (const bytes of socket.readable) {
      for (let from = 0; from < bytes.length; ) {
        const offset = at % 32768;
        if (!offset) wanted = new Uint8Array(block(at / 32768).buffer);
        const size = Math.min(bytes.length - from, 32768 - offset);
        for (let index = 0; index < size; index += 1) {
          if (bytes[from + index] !== wanted[offset + index]) throw new Error(`another byte at ${at + index}`);
        }
        from += size;
        at += size;
      }
    }
    return at;
  };
  const seen = ([bytes, closed]) => ({ ...events, bytes, closed, state: socket.state });
  window.echoed = Promise.all([check(), closed, write()]).then(seen);
}"""


@pytest.mark.browser
@pytest.mark.parametrize("mebibytes", [pytest.param(8, id="8"), pytest.param(256, id="256", marks=pytest.mark.soak)])
def test_streams(tmp_path: Path, mebibytes: int) -> None:
    """An echo through connections that are cut again and again: every byte comes back, in order, and then the end."""
    with (
        serving(echo) as port,
        Daemon(routes(port, tmp_path)) as bridge,
        network(bridge.port()) as net,
        browsing() as page,
    ):
        (tmp_path / "index.html").write_text("<!doctype html>")
        page.goto(f"http://127.0.0.1:{net.port}/")
        page.evaluate(ECHO, {"url": "/app", "mebibytes": mebibytes})
        net.cut_often(*((0.05, 0.3) if mebibytes == 8 else (0.2, 2)))
        seen = page.evaluate("echoed")
    assert seen["bytes"] == mebibytes * 2**20
    assert seen["resumed"] >= 1
    assert seen["replayed"] > 0
    assert (seen["closed"], seen["state"]) == ([1000, "backend_closed"], "closed")


OPEN = """async (url) => {
  const { ResumableWebSocket } = await import("/resume.js");
  window.socket = new ResumableWebSocket(url);
  window.ended = new Promise((resolve) => (socket.onclose = ({ code }) => resolve(code)));
  await new Promise((resolve) => (socket.onopen = resolve));
  return [socket.resumable, socket.protocol, socket.state];
}"""


@pytest.mark.browser
def test_a_page_that_is_left_ends_its_session(tmp_path: Path) -> None:
    """So that nothing waits for it at the server; one whose connection breaks is waited for."""
    (tmp_path / "index.html").write_text("<!doctype html>")
    with serving(echo) as port, Daemon(routes(port, tmp_path)) as bridge, browsing() as page:
        page.goto(f"http://127.0.0.1:{bridge.port()}/")
        assert page.evaluate(OPEN, "/app") == [True, "", "open"]
        page.goto("about:blank")
        ended = bridge.wait("session.closed", route="app")
        assert (ended["reason"], ended["duration_seconds"] < 60) == ("client_closed", True)


@pytest.mark.browser
def test_another_process_takes_over(tmp_path: Path) -> None:
    """The session goes on in the next process, whose sockets and sessions are those of the first."""
    (tmp_path / "index.html").write_text("<!doctype html>")
    with serving(echo) as port:
        text = routes(port, tmp_path) + "admin: {bind: 'unix:@FOLDER@/admin.sock'}\ntimeouts: {drain_spread: 100ms}\n"
        with Daemon(text) as old, browsing() as page:
            page.goto(f"http://127.0.0.1:{old.port()}/")
            page.evaluate(OPEN, "/app")
            page.evaluate("""() => {
              window.heard = "";
              socket.binaryType = "arraybuffer";
              socket.onmessage = ({ data }) => (heard += new TextDecoder().decode(data));
              window.resumed = new Promise((resolve) => (socket.onresumed = resolve));
              socket.send("before ");
            }""")
            with Daemon(text, folder=old.folder, arguments=("--takeover",)) as new:
                page.evaluate("resumed.then(() => socket.send('after'))")
                page.wait_for_function("heard === 'before after'")
                assert old.ended() == 0
                assert page.evaluate("socket.state") == "open"
                page.goto("about:blank")
                assert new.wait("session.closed", route="app")["bytes_to_backend"] == len("before after")


@pytest.mark.browser
def test_a_route_without_sessions(tmp_path: Path) -> None:
    """There it is a plain WebSocket, whose end is the end."""
    (tmp_path / "index.html").write_text("<!doctype html>")
    with (
        serving(echo) as port,
        Daemon(routes(port, tmp_path)) as bridge,
        network(bridge.port()) as net,
        browsing() as page,
    ):
        page.goto(f"http://127.0.0.1:{net.port}/")
        assert page.evaluate(OPEN, "/plain") == [False, "binary", "open"]
        net.do(CuttingProxy.cut)
        assert page.evaluate("ended") == 1006
        assert page.evaluate("socket.state") == "closed"
