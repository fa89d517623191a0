"""The demo's page, as far as it can be judged without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
import yaml

from tests.responders.asking import asked
from wsbridge.cli.demo import demo_config
from wsbridge.demo import PAGE_DIRECTORY
from wsbridge.reasons import REASONS, Reason
from wsbridge.responders.files import DEFAULT_MEDIA_TYPE, StaticFiles, media_type

FILES = sorted(PAGE_DIRECTORY.iterdir())


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def tags() -> list[tuple[str, dict[str, str | None]]]:
    """All tags of the page."""
    parser = Tags()
    parser.feed((PAGE_DIRECTORY / "index.html").read_text())
    return parser.tags


def test_every_reason_has_words() -> None:
    """The page explains each reason that the bridge can give, and none that it cannot."""
    table = (PAGE_DIRECTORY / "reasons.js").read_text().partition("const CODES")
    names = re.findall(r"^  (\w+): \"", table[0], re.MULTILINE)

    assert sorted(names) == sorted(reason.value for reason in Reason)


def test_every_close_code_has_words() -> None:
    """The page explains each close code of the table, should its text be missing."""
    codes = set(re.findall(r"^  (\d{4}): \"", (PAGE_DIRECTORY / "reasons.js").read_text(), re.MULTILINE))

    assert {str(ending.close_code) for ending in REASONS.values() if ending.close_code} <= codes


def test_page_runs_under_a_strict_policy(tags: list[tuple[str, dict[str, str | None]]]) -> None:
    """No script, style or handler is inline, so that `script-src 'self'` lets the page work."""
    for tag, attributes in tags:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_page_needs_nothing_from_elsewhere(path: object) -> None:
    """No file of the page names another host, or makes HTML out of text."""
    text = (PAGE_DIRECTORY / str(path)).read_text().replace("http://www.w3.org/2000/svg", "")

    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_every_element_that_a_script_looks_for_is_there(tags: list[tuple[str, dict[str, str | None]]]) -> None:
    """Each id named in the scripts, and each that tests drive the page by, is in the page."""
    ids = {attributes["id"] for _, attributes in tags if "id" in attributes}
    scripts = (PAGE_DIRECTORY / "app.js").read_text() + (PAGE_DIRECTORY / "meters.js").read_text()
    wanted = set(re.findall(r"find\(\"([\w-]+)\"\)", scripts))
    driven = {"terminal", "input", "state", "rtt", "rate-in", "rate-out", "reason", "reconnect"}

    assert wanted | driven <= ids


async def test_every_file_can_be_served() -> None:
    """The route that serves the page finds each file of it and knows its type."""
    route = StaticFiles(PAGE_DIRECTORY)
    for path in FILES:
        with await route.respond(*asked("GET", f"/{path.name}")) as answer:
            assert answer.status == 200
            assert media_type(path.name) != DEFAULT_MEDIA_TYPE
    with await route.respond(*asked("GET", "/")) as answer:
        assert answer.body == (PAGE_DIRECTORY / "index.html").read_bytes()


def test_the_configuration_on_the_page_is_the_real_one() -> None:
    """The YAML that the page shows is that of the demo, but for addresses, directory and time-outs."""
    text = (PAGE_DIRECTORY / "index.html").read_text()
    shown = yaml.safe_load(re.sub(r"<[^>]+>", "", text.partition("<pre>")[2].partition("</pre>")[0]))
    real = demo_config("127.0.0.1:8080", 5900)
    assert isinstance(real, dict)

    shown["routes"]["page"]["files"] = str(PAGE_DIRECTORY)
    assert shown == {key: value for key, value in real.items() if key != "timeouts"}
