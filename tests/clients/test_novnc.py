"""noVNC's page, served by the bridge, and a real VNC server behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.clients.browser import browsing
from tests.clients.program import PATIENCE, Program, missing, program, run
from tests.process.daemon import Daemon

NOVNC = Path("/usr/share/novnc")
WIDTH, HEIGHT = 800, 500
CANVAS = "document.querySelector('canvas')"
WHITE = (255, 255, 255)
GREEN = (0, 205, 0)
POINT = f"""() => [...{CANVAS}.getContext('2d').getImageData({WIDTH // 4}, {HEIGHT // 2}, 1, 1).data].slice(0, 3)"""


class Screen(Program):
    """Xvnc, without a password, on a display and a port of its own.

    Attributes:
        display: Such as ":1".
        port: Where it speaks RFB.
    """

    def __init__(self) -> None:
        super().__init__(
            *(program("Xvnc"), "-displayfd", "1", "-geometry", f"{WIDTH}x{HEIGHT}", "-depth", "24", "-nolisten", "tcp"),
            *("-SecurityTypes", "None", "-localhost", "-desktop", "a real screen"),
        )
        try:
            self.port = int(self.line(r"Listening for VNC connections on .* port (\d+)")[1])
            self.display = f":{self.line(r'^[0-9]+$')[0]}"
        except BaseException:
            self.stop()
            raise

    def fill(self, color: str) -> None:
        """Fill the whole screen with a colour such as "#2060a0"."""
        run(program("xsetroot"), "-display", self.display, "-solid", color)


@pytest.fixture
def screen() -> Iterator[Screen]:
    """An Xvnc of this test."""
    with Screen() as screen:
        yield screen


@pytest.fixture
def bridge(screen: Screen) -> Iterator[Daemon]:
    """The bridge with noVNC's page, and Xvnc behind it."""
    if not NOVNC.is_dir():
        missing(str(NOVNC))
    with Daemon(
        f"""
        listeners: {{web: {{bind: '127.0.0.1:0'}}}}
        routes:
          vnc: {{match: {{path: /vnc}}, backend: 'tcp://127.0.0.1:{screen.port}', auth: none}}
          page: {{match: {{path: /*}}, files: {NOVNC}, auth: none}}
        """,
    ) as bridge:
        yield bridge


def shown(page: Page, color: tuple[int, int, int]) -> None:
    """Wait until a point of the screen, away from the mouse, has a colour."""
    deadline = time.monotonic() + PATIENCE
    while (found := page.evaluate(POINT)) != list(color):
        assert time.monotonic() < deadline, f"the screen shows {found} and not {color}"
        page.wait_for_timeout(50)


@pytest.mark.browser
@pytest.mark.parametrize("name", ["vnc.html", "vnc_lite.html"])
def test_screen(screen: Screen, bridge: Daemon, name: str) -> None:
    """The page loads from the bridge, connects through it, and shows what is drawn before and after."""
    screen.fill("#2060a0")
    with browsing() as page:
        page.goto(f"http://127.0.0.1:{bridge.port()}/{name}?autoconnect=true&path=vnc")
        expect(page.locator("canvas").last).to_be_visible()
        shown(page, (0x20, 0x60, 0xA0))
        screen.fill("#e0a030")
        shown(page, (0xE0, 0xA0, 0x30))

    end = bridge.wait("connection.closed", route="vnc")
    assert end["reason"] in ("client_closed", "client_lost")
    assert end["bytes_to_client"] > 100


@pytest.mark.browser
def test_typing(tmp_path: Path, screen: Screen, bridge: Daemon) -> None:
    """What is typed into the page reaches the program on the screen, and its answer is seen."""
    typed = tmp_path / "typed"
    script = (
        f'printf "Type: "; read -r line; echo "$line" >{typed}; '
        'printf "\\033[42m\\033[2J\\033[HThank you: $line"; sleep 600'
    )
    with (
        Program(
            *(program("xterm"), "-display", screen.display, "-geometry", "120x60+0+0", "-fa", "Monospace"),
            *("-bg", "white", "-fg", "black"),
            *("-e", "/bin/sh", "-c", script),
        ),
        browsing() as page,
    ):
        page.goto(f"http://127.0.0.1:{bridge.port()}/vnc_lite.html?path=vnc")
        shown(page, WHITE)
        page.locator("canvas").click(position={"x": 300, "y": 200})
        page.keyboard.type("echo, 1 2 3\n")
        shown(page, GREEN)
        page.screenshot(path=tmp_path / "novnc.png")
    assert typed.read_text() == "echo, 1 2 3\n"
