"""From a text to a configuration, or to all that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, summaries, wrong
from wsbridge.config.errors import ConfigError
from wsbridge.config.load import load_data, load_file
from wsbridge.registry import CONFIG_REGISTRY


def test_all_errors_are_reported_at_once_in_the_order_of_the_file() -> None:
    """One run reports every mistake once: in the keys, in the values, and between sections."""
    problems = wrong(
        """\
        log: {level: infos, colour: red}
        listeners:
          public: {bind: 0.0.0.0:8443}
          twice: {bind: 127.0.0.1:8443}
          old: {bnd: 127.0.0.1:5901, protocol: tcp, route: far}
        routes:
          vnc:
            match: {listener: [public], pth: /vnc}
            backend: tcp://10.0.0.5
            allowed_origins: [https://a/x, https://b]
          open: {match: any, backend: "tcp://10.0.0.5:1"}
        timeouts: {connect: 5, ping_interval: "${PING}"}
        limits: {max_headers: 0}
        """
    )
    assert summaries(problems) == [
        "E012 log.level",
        "E010 log.colour",
        "E023 listeners.twice.bind",
        "E010 listeners.old.bnd",
        "E022 routes.vnc.auth",
        "E010 routes.vnc.match.pth",
        "E012 routes.vnc.backend",
        "E012 routes.vnc.allowed_origins[0]",
        "E022 routes.open.auth",
        "E012 timeouts.connect",
        "E005 timeouts.ping_interval",
        "E012 limits.max_headers",
    ]


def test_keys_that_stand_twice_do_not_hide_other_errors() -> None:
    """Unsupported YAML is reported together with all other errors, without errors that only follow from it."""
    problems = wrong(
        """\
        listeners:
          web: {bind: 127.0.0.1:1, bind: 127.0.0.1:2}
          more: &more {bind: 0.0.0.0:3, backlog: 1}
          merged: {<<: *more, protocol: tcp}
          tagged: {bind: !x 127.0.0.1:1}
        routes:
          vnc: {match: any, backend: "tcp://10.0.0.5:1"}
          vnc: {match: {path: /x}}
          web: {match: {listener: merged}, bakend: "tcp://10.0.0.5:1"}
        timeouts: {ping_interval: 1}
        log: {level: loud}
        log: {level: loud}
        """
    )
    assert summaries(problems) == [
        "E004 listeners.web.bind",
        "E003 listeners.merged.<<",
        "E003 listeners.tagged.bind",
        "E004 routes.vnc",
        "E010 routes.web.bakend",
        "E012 timeouts.ping_interval",
        "E004 log",
    ]


HAS_NO_VALUE = 'listeners.web.bind:127.0.0.1:80: has no value: write a space after the colon, "bind: …"'


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        (LISTENERS, (1, 1), "routes: is missing"),
        (ROUTES, (1, 1), "listeners: is missing"),
        ("listeners: {}\n" + ROUTES, (1, 12), "listeners: needs at least one entry"),
        ("listeners:\n  web: {protocol: websocket}\n" + ROUTES, (2, 3), "listeners.web.bind: is missing"),
        ("listeners:\n  web:\n    protocol: websocket\n" + ROUTES, (2, 3), "listeners.web.bind: is missing"),
        ("listeners: [web]\n" + ROUTES, (1, 12), "listeners: must be a mapping"),
        ("listeners: web\n" + ROUTES, (1, 12), "listeners: must be a mapping"),
        ("listeners: {web: 127.0.0.1:80}\n" + ROUTES, (1, 18), "listeners.web: must be a mapping"),
        ("listeners: {a b: {bind: '127.0.0.1:80'}}\n" + ROUTES, (1, 13), 'listeners.a b: "a b" is no name'),
        (LISTENERS + ROUTES.replace("s", "", 1), (2, 1), 'route: unknown key (did you mean "routes"?)'),
        ("listeners:\n  web:\n    bind:127.0.0.1:80\n" + ROUTES, (3, 5), "listeners.web: must be a mapping: write a"),
        ("listeners: {web: {bind:127.0.0.1:80}}\n" + ROUTES, (1, 19), HAS_NO_VALUE),
        (
            LISTENERS + ROUTES + "log: {level: loud}\n",
            (3, 14),
            'log.level: "loud" is not one of debug, info, warning or',
        ),
        (LISTENERS + ROUTES + "log: {level: [a]}\n", (3, 14), "log.level: must be debug, info, warning or error"),
        (LISTENERS + ROUTES + "timeouts: {idle: 1}\n", (3, 18), 'timeouts.idle: "1" has no unit'),
        (
            LISTENERS + ROUTES + "limits: {max_frame_bytes: 1MiB}\n",
            (3, 27),
            "limits.max_frame_bytes: 1048576 is too large",
        ),
        (
            LISTENERS + ROUTES + "limits: {max_head_line_bytes: 32KiB}\n",
            (3, 31),
            "limits.max_head_line_bytes: must not be larger than max_head_bytes",
        ),
        (
            LISTENERS + ROUTES + "timeouts: {drain: 1s, drain_spread: 2s}\n",
            (3, 37),
            "timeouts.drain_spread: must not be longer than drain",
        ),
        (
            "listeners: {web: {bind: '127.0.0.1:1', listen: x}}\n" + ROUTES,
            (1, 40),
            'listeners.web.listen: unknown key (did you mean "bind"?)',
        ),
        (
            LISTENERS + ROUTES + "timeouts: {ping: 20s}\n",
            (3, 12),
            'timeouts.ping: unknown key (did you mean "ping_interval"?)',
        ),
        (
            LISTENERS + ROUTES + "timeouts: {idle_timeout: 1h}\n",
            (3, 12),
            'timeouts.idle_timeout: unknown key (did you mean "idle"?',
        ),
        (
            LISTENERS + ROUTES.replace("auth: none", "auth: none, idle_timeout: 1h"),
            (2, 72),
            'routes.vnc.idle_timeout: unknown key (it belongs under "timeouts", as idle)',
        ),
        (
            LISTENERS + ROUTES.replace("tcp://10.0.0.5:5900", "10.0.0.5:5900"),
            (2, 37),
            "routes.vnc.backend: must be of the form tcp://host:port, tls://host:port, unix:/path",
        ),
    ],
)
def test_one_mistake_gives_one_problem_at_its_place(text: str, place: tuple[int, int], expected: str) -> None:
    """A wrong value is pointed at itself, a missing key at its parent, and nothing else is reported."""
    (problem,) = wrong(text)
    assert (problem.line, problem.column) == place
    assert f"{problem.setting}: {problem.message}".startswith(expected)


def test_scalars_of_yaml_1_1_are_read_as_text() -> None:
    """`off`, octal modes and numbers in names are texts as written."""
    config = read(
        """\
        listeners: {8080: {bind: 'unix:/s', mode: 0640}}
        routes: {no: {match: {host: 010.example}, backend: 'tcp://a:1', subprotocols: [off], auth: none}}
        timeouts: {ping_interval: off}
        """
    ).config
    assert config.listeners["8080"].mode == 0o640
    assert config.routes["no"].subprotocols == ("off",)
    assert config.timeouts.ping_interval is None


def test_files_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    """A file that is missing, too large or not UTF-8 is one problem that says so."""
    (tmp_path / "large").write_text("#" * (16 * 1024 * 1024 + 1))
    (tmp_path / "latin").write_bytes(b"a: b\nc: \xe4\n")
    (tmp_path / "utf-16").write_bytes("a: b\n".encode("utf-16"))
    for name, message in (
        ("gone", ": cannot be read: No such file or directory"),
        ("large", ": is larger than 16MiB"),
        ("latin", ":2:4: is not UTF-8: byte 0xe4"),
        ("utf-16", ":1:1: is not UTF-8 but UTF-16, as PowerShell writes it: byte 0xff"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_file(tmp_path / name, CONFIG_REGISTRY, {})
        (problem,) = caught.value.problems
        assert (problem.code, problem.text()) == ("E001", f"{tmp_path / name}{message} [E001]")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Editors that write a byte order mark do no harm."""
    (tmp_path / "w.yaml").write_text(LISTENERS + ROUTES, encoding="utf-8-sig")
    assert load_file(str(tmp_path / "w.yaml"), CONFIG_REGISTRY, {}).config.routes.keys() == {"vnc"}


def test_a_configuration_made_by_a_command_follows_the_same_rules() -> None:
    """What a command builds is read and checked alike; its problems have no line."""
    listeners = {"web": {"bind": "127.0.0.1:0"}}
    routes = {"vnc": {"match": "any", "backend": "tcp://10.0.0.5:5900"}}
    loaded = load_data({"listeners": listeners, "routes": routes}, registry=CONFIG_REGISTRY, environ={})
    assert [warning.code for warning in loaded.warnings] == ["W001"]
    listeners["web"]["bind"] = "0.0.0.0:0"
    with pytest.raises(ConfigError) as caught:
        load_data({"listeners": listeners, "routes": routes}, registry=CONFIG_REGISTRY, environ={})
    assert str(caught.value).startswith("command line: routes.vnc.auth: is required")


def test_independent_errors_of_one_route_are_reported_together() -> None:
    """Missing rules do not hide a missing auth, and neither hides a wrong value."""
    text = """\
        listeners: {web: {bind: 0.0.0.0:80}}
        routes:
          desk: {match: {path: "/{host}"}, backend: "tcp://{host}:22", timeouts: {idle: 5}}
        """
    assert sorted(summaries(wrong(text))) == [
        "E011 routes.desk.allowed_targets",
        "E012 routes.desk.timeouts.idle",
        "E022 routes.desk.auth",
    ]


def test_an_unset_variable_is_one_error() -> None:
    """The key is there, although its value is not known."""
    (problem,) = wrong(LISTENERS + "routes: {vnc: {match: any, auth: none, backend: 'tcp://${VNC_HOST}:5900'}}\n")
    assert (problem.code, problem.setting) == ("E005", "routes.vnc.backend")
    assert problem.message == "the environment variable VNC_HOST is not set"
