"""From a text to a configuration, or to all that is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, told, wrong
from wsbridge.backends.websocket import WebSocketBackendConfig
from wsbridge.config.load import build, load_file
from wsbridge.config.problems import ConfigError
from wsbridge.kinds import CONFIG_KINDS


def test_the_shortest_file_has_all_defaults() -> None:
    """A listener and a route are enough; everything else has its default."""
    loaded = read(LISTENERS + ROUTES)
    assert loaded.warnings == []
    assert loaded.config.timeouts.ping == 20.0
    assert loaded.config.timeouts.idle is None
    assert loaded.config.limits.connections == "auto"
    route = loaded.config.routes["vnc"]
    assert (route.match, route.origins, route.subprotocols, route.text) == ("any", "same", ("binary",), "accept")
    assert loaded.config.listeners["web"].mode == 0o660


def test_an_unknown_key_is_shown_with_its_line_a_caret_and_a_guess() -> None:
    """A typo is told in one line with its place, then the line of the file, then a caret under the key."""
    (problem,) = wrong(
        """\
        listeners: {web: {bind: 127.0.0.1:8080}}
        routes:
          vnc:
            match: any
            tiemouts: {idle: 1h}
            backend: tcp://10.0.0.5:5900
        """
    )
    assert problem.text() == (
        'w.yaml:5:5: routes.vnc.tiemouts: unknown key (did you mean "timeouts"?)\n'
        "        tiemouts: {idle: 1h}\n"
        "        ^"
    )


def test_a_problem_as_json() -> None:
    """A problem has the same facts as plain values for programs."""
    (problem,) = wrong(LISTENERS + ROUTES + "engnie: auto\n")
    assert json.loads(json.dumps(problem.json())) == {
        "severity": "error",
        "code": "E010",
        "file": "w.yaml",
        "line": 3,
        "column": 1,
        "path": "engnie",
        "message": 'unknown key (did you mean "engine"?)',
        "source": "engnie: auto",
    }


def test_all_errors_are_told_at_once_in_the_order_of_the_file() -> None:
    """One run tells every mistake, each once: in the keys, in the values, and between sections."""
    problems = wrong(
        """\
        log: {level: infos, colour: red}
        listeners:
          public: {bind: 0.0.0.0:8443}
          twice: {bind: 127.0.0.1:8443}
          old: {bnd: 127.0.0.1:5901, speaks: tcp, route: far}
        routes:
          vnc:
            match: {listener: [public], pth: /vnc}
            backend: tcp://10.0.0.5
            origins: [https://a/, https://b]
          open: {match: any, backend: "tcp://10.0.0.5:1"}
        timeouts: {connect: 5, ping: "${PING}"}
        limits: {headers: 0}
        """
    )
    assert told(problems) == [
        "E012 log.level",
        "E010 log.colour",
        "E023 listeners.twice.bind",
        "E010 listeners.old.bnd",
        "E010 routes.vnc.match.pth",
        "E012 routes.vnc.backend",
        "E012 routes.vnc.origins[0]",
        "E022 routes.open.auth",
        "E012 timeouts.connect",
        "E005 timeouts.ping",
        "E012 limits.headers",
    ]


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        (LISTENERS, (1, 1), "routes: is missing"),
        (ROUTES, (1, 1), "listeners: is missing"),
        ("listeners: {}\n" + ROUTES, (1, 12), "listeners: needs at least one entry"),
        ("listeners:\n  web: {speaks: websocket}\n" + ROUTES, (2, 3), "listeners.web.bind: is missing"),
        ("listeners:\n  web:\n    speaks: websocket\n" + ROUTES, (2, 3), "listeners.web.bind: is missing"),
        ("listeners: [web]\n" + ROUTES, (1, 12), "listeners: must be a mapping"),
        ("listeners: web\n" + ROUTES, (1, 12), "listeners: must be a mapping"),
        ("listeners: {web: 127.0.0.1:80}\n" + ROUTES, (1, 18), "listeners.web: must be a mapping"),
        ("listeners: {a b: {bind: '127.0.0.1:80'}}\n" + ROUTES, (1, 13), 'listeners.a b: "a b" is no name'),
        (LISTENERS + ROUTES + "log: {level: loud}\n", (3, 14), 'log.level: "loud" is none of debug, info, warning or'),
        (LISTENERS + ROUTES + "log: {level: [a]}\n", (3, 14), "log.level: must be debug, info, warning or error"),
        (LISTENERS + ROUTES + "timeouts: {idle: 1}\n", (3, 18), 'timeouts.idle: "1" has no unit'),
        (LISTENERS + ROUTES + "limits: {frame: 1MiB}\n", (3, 17), "limits.frame: 1048576 is too large"),
        (
            LISTENERS + ROUTES + "limits: {head_line: 32KiB}\n",
            (3, 21),
            "limits.head_line: must not be larger than head",
        ),
        (LISTENERS + ROUTES + "timeouts: {drain: 1s}\n", (3, 19), "timeouts.drain: must not be longer than drain"),
    ],
)
def test_one_mistake_gives_one_problem_at_its_place(text: str, place: tuple[int, int], expected: str) -> None:
    """A wrong value is pointed at itself, a missing key at its parent, and nothing else is told."""
    (problem,) = wrong(text)
    assert (problem.line, problem.column) == place
    assert f"{problem.path}: {problem.message}".startswith(expected)


ROUTE = "listeners: {{web: {{bind: 127.0.0.1:80}}}}\nroutes:\n  r: {{{}}}\n"


@pytest.mark.parametrize(
    ("route", "path", "message"),
    [
        ("match: any", "routes.r", "needs one of backend, files and answer"),
        ("match: any, bakend: 'tcp://a:1'", "routes.r.bakend", 'unknown key (did you mean "backend"?)'),
        ("match: any, answer: 204, files: /x", "routes.r.answer", "cannot stand beside files: a route has one goal"),
        ("match: any, answer: 204, origins: any", "routes.r.origins", "means nothing to a route with answer"),
        ("path: /x, match: any, answer: 204", "routes.r.path", 'unknown key (it belongs under "match")'),
        ("match: all, answer: 204", "routes.r.match", '"all" is neither any nor a mapping'),
        ("match: {}, answer: 204", "routes.r.match", 'says nothing: write "any" to take every request'),
        ("match: [any], answer: 204", "routes.r.match", "must be a mapping"),
        ("match: {path: x}, answer: 204", "routes.r.match.path", "a path begins with a slash"),
        ("match: {path: /a/*/b}, answer: 204", "routes.r.match.path", "a star may only be the last segment"),
        ("match: {path: /a//b}, answer: 204", "routes.r.match.path", "'/a//b' would never match"),
        ("match: {listener: []}, answer: 204", "routes.r.match.listener", "needs at least one entry"),
        ("match: any, backend: 10.0.0.5:1", "routes.r.backend", "must be of the form tcp://"),
        ("match: any, backend: [a]", "routes.r.backend", "must be a URL such as"),
        ("match: any, backend: {ca: x}", "routes.r.backend.url", "is missing"),
        ("match: any, backend: {url: 'tcp://a:1', ca: x}", "routes.r.backend.ca", "unknown key"),
        ("match: any, backend: {url: 'ws://a', text: x}", "routes.r.backend.text", "unknown key"),
        (
            "match: any, backend: 'tcp://a:1', origins: https://x",
            "routes.r.origins",
            '"https://x" is none of same or any',
        ),
        ("match: any, backend: 'tcp://a:1', origins: []", "routes.r.origins", "needs at least one entry"),
        ("match: any, backend: 'tcp://a:1', subprotocols: a", "routes.r.subprotocols", "must be a list"),
        ("match: any, backend: 'tcp://a:1', subprotocols: [a, a]", "routes.r.subprotocols", '"a" stands here twice'),
        ("match: any, backend: 'tcp://a:1', subprotocols: ['a b']", "routes.r.subprotocols[0]", '"a b" has characters'),
        ("match: any, answer: 101", "routes.r.answer", "101 is no status to answer"),
        ("match: any, answer: 204, auth: basic", "routes.r.auth", '"basic" is not known here: write "none"'),
        ("match: any, answer: 204, auth: {knd: none}", "routes.r.auth.kind", "is missing"),
        ("match: any, answer: 204, auth: {kind: none, x: y}", "routes.r.auth.x", "unknown key"),
        (
            "match: any, backend: 'tcp://a:1', timeouts: {handshake: 1s}",
            "routes.r.timeouts.handshake",
            "unknown key: no route is known yet when it counts; write it in timeouts at the top",
        ),
    ],
)
def test_mistakes_in_routes(route: str, path: str, message: str) -> None:
    """Each mistake in a route gives one problem, with the path of the key and what to write."""
    problems = wrong(ROUTE.format(route))
    assert [problem.path for problem in problems] == [path]
    assert problems[0].message.startswith(message)


@pytest.mark.parametrize(
    ("listener", "path", "message"),
    [
        ("bind: '127.0.0.1:80', speaks: tcp", "listeners.l.route", "is missing: a listener that speaks tcp names"),
        ("bind: '127.0.0.1:80', route: vnc", "listeners.l.route", "only a listener with speaks: tcp names a route"),
        ("bind: '127.0.0.1:80', mode: 0660", "listeners.l.mode", "is only for a listener on unix:/path"),
        ("bind: '127.0.0.1:80', owner: a:b", "listeners.l.owner", "is only for a listener on unix:/path"),
        ("bind: '127.0.0.1:80', ipv6_only: true", "listeners.l.ipv6_only", "is only for a listener on an IPv6 address"),
        ("bind: 'unix:/s', owner: a b", "listeners.l.owner", '"a b" is not of the form user or user:group'),
        ("bind: '127.0.0.1:80', tls: {certificates: []}", "listeners.l.tls.certificates", "needs at least one entry"),
        ("bind: '127.0.0.1:80', tls: {certificates: [{cert: a}]}", "listeners.l.tls.certificates[0].key", "is missing"),
        ("bind: '127.0.0.1:80', backlog: 0", "listeners.l.backlog", "0 is too small: at least 1"),
    ],
)
def test_mistakes_in_listeners(listener: str, path: str, message: str) -> None:
    """Each mistake in a listener gives one problem, with the path of the key and what to write."""
    problems = wrong("listeners:\n  web: {bind: 127.0.0.1:8080}\n  l: {" + listener + "}\n" + ROUTES)
    assert [problem.path for problem in problems] == [path]
    assert problems[0].message.startswith(message)


def test_scalars_of_yaml_1_1_are_read_as_text() -> None:
    """`off`, octal modes and numbers in names are what stands there."""
    config = read(
        """\
        listeners: {8080: {bind: 'unix:/s', mode: 0640}}
        routes: {no: {match: {host: 010.example}, backend: 'tcp://a:1', subprotocols: [off], auth: none}}
        timeouts: {ping: off}
        """
    ).config
    assert config.listeners["8080"].mode == 0o640
    assert config.routes["no"].subprotocols == ("off",)
    assert config.timeouts.ping is None


def test_timeouts_of_a_route_replace_those_it_writes() -> None:
    """A route has the timeouts of the whole file but for those it writes, `off` included."""
    config = read(
        LISTENERS
        + "routes: {vnc: {match: any, backend: 'tcp://a:1', auth: none, timeouts: {ping: off, idle: 1h}}}\n"
        + "timeouts: {ping: 5s, pong: 7s, handshake: 3s}\n"
    ).config
    timeouts = config.routes["vnc"].effective_timeouts(config.timeouts)
    assert (timeouts.ping, timeouts.idle, timeouts.pong, timeouts.handshake) == (None, 3600.0, 7.0, 3.0)


def test_a_short_backend_equals_the_long_one() -> None:
    """A URL alone is the same as a mapping with that url; so is a word for authentication."""
    text = LISTENERS + "routes: {vnc: {match: any, backend: %s, auth: %s}}\n"
    short = read(text % ("'wss://gw/x'", "none")).config
    long = read(text % ("{url: 'wss://gw/x'}", "{kind: none}")).config
    assert short == long


def test_secrets_are_read_and_never_shown(tmp_path: Path) -> None:
    """A secret comes from a file (its last line break left out) or the environment, and no text shows it."""
    (tmp_path / "token").write_text("geheim1\n")
    loaded = read(
        LISTENERS
        + "routes: {vnc: {match: any, auth: none, backend: {url: 'wss://gw/x', headers:"
        + " {A: {file: token}, B: {env: TOKEN}, C: text}}}}\n",
        {"TOKEN": "geheim2"},
        tmp_path,
    )
    backend = loaded.config.routes["vnc"].backend
    assert isinstance(backend, WebSocketBackendConfig)
    headers = backend.headers
    assert [value if isinstance(value, str) else value.reveal() for value in headers.values()] == [
        "geheim1",
        "geheim2",
        "text",
    ]
    assert "geheim" not in repr(loaded) + str(loaded.config) + loaded.config.model_dump_json()


@pytest.mark.parametrize(
    ("secret", "path", "message"),
    [
        ("{file: gone}", ".file", "gone cannot be read: No such file or directory"),
        ("{file: empty}", "", "empty is empty"),
        ("{file: .}", ".file", "is a folder, not a file"),
        ("{env: GONE}", "", "the environment variable GONE is not set or empty"),
        ("{env: EMPTY}", "", "the environment variable EMPTY is not set or empty"),
        ("{env: A-B}", ".env", '"A-B" is no name of an environment variable'),
        ("{env: EMPTY, file: empty}", "", "needs exactly one of file and env"),
        ("{}", "", "needs exactly one of file and env"),
        ("{fiel: x}", ".fiel", "unknown key"),
        ("[x]", "", "must be text, not a list"),
    ],
)
def test_secrets_that_cannot_be_read(secret: str, path: str, message: str, tmp_path: Path) -> None:
    """A secret that is missing or empty is an error at its place."""
    (tmp_path / "empty").write_text("\n")
    text = LISTENERS + "routes: {vnc: {match: any, auth: none, backend: {url: 'wss://gw', headers: {A: %s}}}}\n"
    problems = wrong(text % secret, {"EMPTY": ""}, tmp_path)
    assert problems[0].path == "routes.vnc.backend.headers.A" + path
    assert message in problems[0].message


def test_a_wrong_header_is_not_quoted() -> None:
    """The value of a header may be a secret, so the message does not repeat it."""
    text = LISTENERS + "routes: {vnc: {match: any, auth: none, backend: {url: 'wss://gw', headers: {A: '${X}'}}}}\n"
    (problem,) = wrong(text, {"X": "geheim\n"})
    assert "geheim" not in problem.text()


def test_passwords_in_a_shown_line_are_masked() -> None:
    """The source line below a message hides user and password of a URL, and the caret stays in place."""
    text = LISTENERS + "routes: {vnc: {match: any, backend: {url: 'ws://g', proxy: 'http://a:geheim@p:1', x: y}}}\n"
    (problem,) = wrong(text)
    _, line, caret = problem.text().splitlines()
    assert "geheim" not in problem.text() + json.dumps(problem.json())
    assert line[caret.index("^")] == "x"


def test_relative_paths_begin_at_the_folder_of_the_file(tmp_path: Path) -> None:
    """A path without a slash before it is looked for beside the configuration file."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "w.yaml").write_text(LISTENERS + "routes: {p: {match: any, files: pages/../pages, auth: none}}\n")
    assert load_file(tmp_path / "w.yaml", CONFIG_KINDS, {}).config.routes["p"].files == tmp_path / "pages"


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder that is not there, or is a file, is an error at its place."""
    (tmp_path / "page").write_text("")
    for name, message in (("gone", "No such file or directory"), ("page", "Not a directory")):
        text = LISTENERS + f"routes: {{p: {{match: any, files: {name}, auth: none}}}}\n"
        (problem,) = wrong(text, folder=tmp_path)
        assert (problem.path, problem.message.rpartition(": ")[2]) == ("routes.p.files", message)


def test_files_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    """A file that is missing, too large or not UTF-8 is one problem that says so."""
    (tmp_path / "large").write_text("#" * (1024 * 1024 + 1))
    (tmp_path / "latin").write_bytes(b"a: b\nc: \xe4\n")
    for name, message in (
        ("gone", "cannot be read: No such file or directory"),
        ("large", "is larger than 1MiB"),
        ("latin", "is not UTF-8: byte 0xe4 in line 2"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_file(tmp_path / name, CONFIG_KINDS, {})
        (problem,) = caught.value.problems
        assert (problem.code, problem.text()) == ("E001", f"{tmp_path / name}: {message}")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Editors that write a byte order mark do no harm."""
    (tmp_path / "w.yaml").write_text(LISTENERS + ROUTES, encoding="utf-8-sig")
    assert load_file(str(tmp_path / "w.yaml"), CONFIG_KINDS, {}).config.routes.keys() == {"vnc"}


def test_a_configuration_made_by_a_command_follows_the_same_rules() -> None:
    """What a command builds is read and checked alike; its problems have no line."""
    listeners = {"web": {"bind": "127.0.0.1:0"}}
    routes = {"vnc": {"match": "any", "backend": "tcp://10.0.0.5:5900"}}
    loaded = build({"listeners": listeners, "routes": routes}, kinds=CONFIG_KINDS, environ={})
    assert [warning.code for warning in loaded.warnings] == ["W001"]
    listeners["web"]["bind"] = "0.0.0.0:0"
    with pytest.raises(ConfigError) as caught:
        build({"listeners": listeners, "routes": routes}, kinds=CONFIG_KINDS, environ={})
    assert str(caught.value).startswith("command line: routes.vnc.auth: must be written")


def test_long_lines_are_cut_around_the_caret() -> None:
    """A line of thousands of characters is shown as the part around the mistake."""
    text = LISTENERS + ROUTES.replace("auth: none", "auth: none, subprotocols: [" + "a, " * 500 + "], x: y")
    problem = next(problem for problem in wrong(text) if problem.code == "E010")
    _, line, caret = problem.text().splitlines()
    assert len(line) < 200
    assert line[caret.index("^")] == "x"
