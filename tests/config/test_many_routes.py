"""Configurations of many routes: work and memory grow with the number of routes, not with its square."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.loading import LISTENERS
from wsbridge.backends.base import DialServices
from wsbridge.config.errors import ConfigError
from wsbridge.config.load import load_text
from wsbridge.counters import RouteStats
from wsbridge.generation import build_generation
from wsbridge.net.resolver import Resolver
from wsbridge.registry import CONFIG_REGISTRY

ROUTE = """\
  r{n}:
    match: {{path: /svc/{n}}}
    backend: tcp://10.0.0.5:5900
    auth: none
    subprotocols: [binary, mqtt]
    timeouts: {{idle: 1h}}
"""


def many(count: int, route: str = ROUTE) -> str:
    """Write a file of so many routes."""
    return LISTENERS + "routes:\n" + "".join(route.format(n=number) for number in range(count))


def load_and_build(text: str) -> None:
    """Do what a reload does with a file."""
    try:
        loaded = load_text(text, file="w.yaml", registry=CONFIG_REGISTRY, environ={})
    except ConfigError:
        return
    build_generation(loaded.config, DialServices(Resolver()), lambda _: RouteStats())


def calls_of(run: Callable[[], None]) -> int:
    """Count the calls of functions, as a measure of time that does not depend on the machine."""
    count = 0

    def profile(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "route",
    [
        ROUTE,
        ROUTE.replace("svc/", "svc/{{x}}/").replace("path:", "host: 't{n}.example.org', path:"),
        ROUTE.replace("none", "basic"),
        ROUTE.replace("timeouts", "tiemouts"),
        ROUTE.replace("5900", "${{X}}"),
        ROUTE.replace("auth: none", "allowed_origins: any"),
        ROUTE.replace("/svc/{n}", "/svc"),
        ROUTE.replace("tcp://10.0.0.5:5900", "ws://127.0.0.1:8080/svc/{n}"),
        "  r{n}: {{match: {{path: /x{n}}}, files: /srv/{n}, auth: none}}\n",
    ],
    ids=["valid", "hosts", "wrong", "unknown-key", "variable", "warning", "unreachable", "loop", "files"],
)
def test_work_grows_with_the_number_of_routes(route: str) -> None:
    """Twice as many routes need twice as many calls, whether they are valid or not."""
    load_and_build(many(1, route))  # what is done once
    few, more = many(50, route), many(200, route)
    assert calls_of(lambda: load_and_build(more)) < 4 * 1.2 * calls_of(lambda: load_and_build(few))


def test_work_grows_with_the_number_of_listeners() -> None:
    """The same for listeners, all of which lead to all routes."""

    def text(count: int) -> str:
        listeners = "".join(f"  l{at}: {{bind: '127.0.0.{at}:80'}}\n" for at in range(1, count))
        unix = "".join(f"  u{at}: {{bind: 'unix:/s{at}'}}\n" for at in range(1, count))
        return f"listeners:\n{listeners}{unix}" + many(40).removeprefix(LISTENERS)

    load_and_build(text(2))
    few, more = text(10), text(40)
    assert calls_of(lambda: load_and_build(more)) < 4 * 1.2 * calls_of(lambda: load_and_build(few))


@pytest.mark.soak
def test_ten_thousand_routes_are_checked_in_bounds(tmp_path: Path) -> None:
    """In less than 15 s of one core and 300 MiB."""
    file = tmp_path / "w.yaml"
    file.write_text(many(10_000))
    run = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, '-m', 'wsbridge', 'check', sys.argv[1]], "
        "check=True); used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    command = subprocess.run([sys.executable, "-c", run, str(file)], capture_output=True, check=True, text=True)
    seconds, kibibytes = map(float, command.stdout.split()[-2:])
    assert seconds < 15
    assert kibibytes < 300 * 1024
