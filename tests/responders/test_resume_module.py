"""The route that serves the JavaScript client."""

from __future__ import annotations

from pathlib import Path

from tests.client import Client
from tests.responders.asking import asked
from tests.serving import serving, written
from wsbridge.responders.resume_module import ResumeModule

SOURCE = Path(__file__).parents[2] / "clients" / "js" / "resume.js"


async def test_the_module_and_its_tag() -> None:
    """It is the file of the package, as a module that pages of every origin can import; its tag saves the transfer."""
    answer = await ResumeModule().respond(*asked("GET", "/resume.js"))
    headers = dict(answer.headers)

    assert (answer.status, answer.body, answer.content_length) == (200, SOURCE.read_bytes(), SOURCE.stat().st_size)
    assert headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Cache-Control"] == "no-cache"
    tag = headers["ETag"].encode()
    again = await ResumeModule().respond(*asked("GET", "/resume.js", [(b"if-none-match", b'"x", ' + tag)]))
    assert (again.status, again.body, again.content_length) == (304, None, None)
    other = await ResumeModule().respond(*asked("GET", "/resume.js", [(b"if-none-match", b'"x"')]))
    assert other.status == 200


async def test_head() -> None:
    """HEAD gets the length alone."""
    answer = await ResumeModule().respond(*asked("HEAD", "/resume.js"))
    assert (answer.body, answer.content_length) == (None, SOURCE.stat().st_size)


async def test_a_route_serves_it() -> None:
    """By its configuration, on a connection that stays open; other methods get 405."""
    async with serving(written(route={"respond": "resume.js", "auth": "none"})) as served:
        client = await Client.connect(served.port())
        for _ in range(2):
            await client.send(b"GET /resume.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await client.head()
            assert head.startswith("HTTP/1.1 200 OK")
            assert await client.take(SOURCE.stat().st_size) == SOURCE.read_bytes()
        await client.send(b"OPTIONS /resume.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.head()).startswith("HTTP/1.1 405 ")
        client.drop()
