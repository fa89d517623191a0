"""Problems never show a secret: neither in a source line, nor in a message, nor in the name of a setting."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, wrong
from wsbridge.config.errors import ConfigError, Problem

SECRET = "hunter2-geheim"
WSS = "routes: {{r: {{match: any, auth: none, backend: {{url: 'wss://gw', {}}}}}}}\n"


def problems_of(text: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """Load a text, and give its errors and warnings."""
    try:
        found = read(text, environ).warnings
    except ConfigError as error:
        found = error.problems
    assert found
    return found


def assert_hidden(problems: list[Problem], *secrets: str) -> None:
    """Check all that is shown of problems."""
    shown = "".join(problem.text() + json.dumps(problem.json()) for problem in problems)
    assert not [secret for secret in secrets if secret in shown]


@pytest.mark.parametrize(
    "text",
    [
        LISTENERS + WSS.format(f"headers: {{X-Api-Key: {SECRET}}}, x: y"),
        LISTENERS + WSS.format(f"headers: {{Authorization: Bearer, {SECRET}}}"),
        LISTENERS + WSS.format(f"headers: {{'X-Api-Key:{SECRET}': }}"),
        LISTENERS + WSS.format(f"headers: {{X: '{SECRET} \u00e9'}}"),
        LISTENERS + WSS.format(f"headers: {SECRET}"),
        LISTENERS + WSS.format(f"heders: {{X-Api-Key: {SECRET}}}"),
        LISTENERS + WSS.format(f"headers: {{X: {{file: /x, {SECRET}: y}}}}"),
        LISTENERS + WSS.format(f"headers: {{X: '{SECRET} ${{GONE}}'}}"),
        LISTENERS + WSS.format(f"proxy_headers: {{Proxy-Authorization: {SECRET}}}, x: y"),
        LISTENERS + WSS.format(f"proxy: 'http://p:1', proxy_headers: {{X: '{SECRET} \u00e9'}}"),
        LISTENERS + WSS.format(f"client_headers: {{X: '{SECRET} {{nothing}}'}}"),
        LISTENERS + WSS.format(f"headrs:\n      X: |\n       {SECRET}\n      "),
        LISTENERS + WSS.format(f"api_key: {SECRET}"),
        LISTENERS + WSS.format(f"headers: {{X: &a {SECRET}, X: *a}}"),
        LISTENERS + WSS.format(f"headers: {{X: *{SECRET}}}"),
        LISTENERS + WSS.format(f"headers: {{X: !{SECRET} x}}"),
        LISTENERS + WSS.format(f"headers: {{X: !e!{SECRET} x}}"),
        LISTENERS + WSS.format(f"headers: {{X: {SECRET}: x}}"),
        LISTENERS + WSS.format(f'headers: {{X: "{SECRET}'),
        LISTENERS + WSS.format(f"proxy: 'http://me:{SECRET}@p:1', x: y"),
        LISTENERS + WSS.format(f"proxy: 'http//me:{SECRET}@p:1'"),
        LISTENERS + f"routes: {{r: {{match: any, backend: 'wss://gw/x?token={SECRET}#x'}}}}\n",
        LISTENERS + f"routes: {{r: {{match: any, backend: 'wss://gw/x?token={SECRET}', x: y}}}}\n",
        LISTENERS + f"routes: {{r: {{match: any, backend: 'wss://me:{SECRET}@gw/x'}}}}\n",
        LISTENERS + f"routes: {{r: {{match: any, backend: 'htps://me:{SECRET}@gw/x'}}}}\n",
        LISTENERS + f"routes: {{r: {{match: any, backend: 'wss://gw:{SECRET}/x?y'}}}}\n",
        LISTENERS + f"routes: {{t: {{match: any, auth: none, issue_tickets: {{route: t, key: {SECRET}}}}}}}\n",
        LISTENERS + f"routes: {{t: {{match: any, auth: none, issue_tickets: {{route: t, key: {{{SECRET}}}}}}}}}\n",
        LISTENERS + f"routes:\n  r:\n    backend:\n      headers:\n        X: {SECRET}: x\n",
        LISTENERS + f"routes:\n  r:\n    backend:\n      headers:\n\n        X: [{SECRET}\n",
        LISTENERS + f"routes:\n  r:\n    auth:\n      kind: jwt\n      keys:\n      - secret: '{SECRET}\n",
        LISTENERS
        + "routes: {r: {match: any, backend: 'tcp://a:1', "
        + f"auth: {{kind: jwt, keys: [{{algorithm: HS256, secret: {SECRET}}}]}}}}}}\n",
    ],
)
def test_secrets_in_the_file(text: str) -> None:
    """Whatever is wrong with it, or next to it."""
    assert_hidden(problems_of(text), SECRET, SECRET[1:])


@pytest.mark.parametrize(
    "text",
    [
        "listeners: {web: {bind: '${X}'}}\n" + ROUTES,
        "listeners: {web: {bind: '127.0.0.1:${X}'}}\n" + ROUTES,
        "listeners: {web: {bind: '127.0.0.1:1', protocol: '${X}'}}\n" + ROUTES,
        "listeners: {web: {bind: '0.0.0.0:1'}, '${X}': {bind: '[::]:1'}}\n" + ROUTES,
        LISTENERS + ROUTES + "timeouts: {idle: '${X}'}\n",
        LISTENERS + ROUTES + "log: {level: '${X}'}\n",
        LISTENERS + "routes: {r: {match: any, backend: 'tcp://${X}'}}\n",
        LISTENERS + "routes: {r: {match: any, backend: 'tcp://a:${X}'}}\n",
        LISTENERS + "routes: {r: {match: {path: '${X}'}, backend: 'tcp://a:1', auth: '${X}'}}\n",
        LISTENERS
        + "routes: {r: {match: {host: '${X}/'}, backend: 'tcp://a:1', allowed_origins: ['https://${X}/x']}}\n",
        LISTENERS + "routes: {r: {match: {listener: '${X}'}, backend: 'tcp://a:1'}}\n",
        LISTENERS + "routes: {r: {match: any, backend: 'ws://a/${X}', allowed_targets: {networks: ['${X}']}}}\n",
    ],
)
def test_values_of_the_environment(text: str) -> None:
    """A message names the variable; a part of its value is not quoted either."""
    problems = problems_of(text, {"X": SECRET})
    assert_hidden(problems, SECRET, "geheim")
    assert_hidden(problems_of(text, {"X": f"q:{SECRET}"}), SECRET, "geheim")


def test_a_listener_at_an_address_of_the_environment() -> None:
    """Messages of other settings name the variable as well."""
    text = "listeners: {web: {bind: '${BIND}'}}\nroutes: {r: {match: any, backend: 'tcp://a:1'}}\n"
    (problem,) = problems_of(text, {"BIND": "gw.corp.example:8443"})
    assert problem.setting == "routes.r.auth"
    assert '"web" at ${BIND} is not on a loopback address' in problem.message


def test_harmless_lines_are_shown() -> None:
    """A line is shown where no value on it can be secret, misspelled keys and paths of keys included."""
    lines = [
        "  web: {bind: 127.0.0.1:8080, tsl: {certificates: [{cert: c.pem, key: k.pem}]}}",
        "    headers: {Authorization: {file: /etc/wsbridge/gw}}",
        "    tiemouts: {idle: 1h}",
    ]
    text = f"listeners:\n{lines[0]}\nroutes:\n  r:\n    match: any\n{lines[2]}\n    backend: tcp://a\n"
    assert [problem.source for problem in problems_of(text)] == [lines[0], lines[2], "    backend: tcp://a"]


def test_lists_of_header_names() -> None:
    """They are shown, unless one has a value in it."""
    text = (
        LISTENERS + "routes: {r: {match: any, respond: 204, auth: {kind: forward, url: 'https://a', headers: [%s]}}}\n"
    )
    (problem,) = problems_of(text % "Cookie, 'H st'")
    assert (problem.setting, '"H st"' in problem.message) == ("routes.r.auth.headers[1]", False)
    (problem,) = problems_of(text % "Cookie, Host")
    assert (problem.setting, '"Host"' in problem.message) == ("routes.r.auth.headers[1]", True)
    assert_hidden(problems_of(text % f"'X-Key: {SECRET}'"), SECRET)


@pytest.mark.parametrize("name", ["key", "secret", "headers"])
def test_a_route_may_have_the_name_of_a_secret_key(name: str) -> None:
    """The place of a problem in it is named in full."""
    (problem,) = wrong(
        LISTENERS + f"routes: {{{name}: {{match: any, backend: 'tcp://a:1', auth: none, timeouts: {{idel: 1s}}}}}}"
    )
    assert problem.setting == f"routes.{name}.timeouts.idel"


def test_a_huge_value_is_not_compared(tmp_path: Path) -> None:
    """What a message quotes of a value is looked for in quadratic time, so only where that is short."""
    before = time.thread_time()
    (problem,) = wrong(LISTENERS + ROUTES + "audit: {file: '${X}'}\n", {"X": "/" + "a" * 300_000}, tmp_path)
    assert time.thread_time() - before < 3
    assert problem.message == "is not valid; the value comes from ${X} and is not shown"


@pytest.mark.parametrize(
    "route",
    [
        "backend: {url: 'wss://h', proxy: 'http://u:geheimnis#p:3128'}",
        "backend: {url: 'wss://h', proxy: 'http://u:geheimnis'}",
        "auth: {kind: jwt, keys: [{algorithm: HS256, secret geheimnis}]}",
        "auth: {kind: jwt, keys: [{algorithm: HS256, secret:geheimnis}]}",
        'auth: {kind: jwt, keys: [{algorithm: HS256, secret" geheimnis}]}',
        "\n    issue_tickets:\n      key: |\n    %   geheimnis\n",
        "\n    issue_tickets:\n      key:\n    '   geheimnis\n",
        "\n    backend:\n      headers:\n    @  A: geheimnis\n",
    ],
)
def test_mistakes_that_make_a_secret_something_else(route: str) -> None:
    """A lost `@`, colon or space, or a wrong indentation: neither line, message nor path show the secret."""
    text = LISTENERS + "routes:\n  r:" + (route if route.startswith("\n") else f" {{match: any, {route}}}\n")
    assert_hidden(problems_of(text), "geheimnis")


def test_a_proxy_without_a_password_is_shown() -> None:
    """Its line and its text help to find the mistake."""
    for proxy in ("http://proxy", "http://[::1]", "proxy:3128", "https://proxy:1"):
        backend = f"{{url: 'wss://h', proxy: '{proxy}'}}"
        (problem,) = wrong(LISTENERS + f"routes: {{r: {{match: any, auth: none, backend: {backend}}}}}\n")
        assert proxy in problem.source
