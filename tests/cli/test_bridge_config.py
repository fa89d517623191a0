"""The arguments of `bridge` as a configuration, and the messages about wrong ones."""

from __future__ import annotations

import re
import shlex
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.cli.program import invoke
from wsbridge import native
from wsbridge.backends.tcp import TlsBackendConfig
from wsbridge.backends.websocket import WebSocketBackendConfig
from wsbridge.cli.bridge import bridge_command
from wsbridge.cli.bridge_config import (
    BRIDGE_NAME,
    BridgeOptions,
    build_bridge_config,
    complete_listen,
    complete_target,
    print_warnings,
)
from wsbridge.cli.main import CliError
from wsbridge.config.listener import ListenerConfig
from wsbridge.config.route import MatchConfig, RouteConfig

ROOT = Path(__file__).parents[2]


def both(wish: BridgeOptions, environ: dict[str, str] | None = None) -> tuple[ListenerConfig, RouteConfig]:
    """Give the listener and the route of a wish."""
    config = build_bridge_config(wish, environ or {}).config
    return config.listeners[BRIDGE_NAME], config.routes[BRIDGE_NAME]


def backend(wish: BridgeOptions, environ: dict[str, str] | None = None) -> WebSocketBackendConfig:
    """Give the backend of a wish that dials WebSocket."""
    section = both(wish, environ)[1].backend
    assert isinstance(section, WebSocketBackendConfig)
    return section


def refused(wish: BridgeOptions, environ: dict[str, str] | None = None) -> str:
    """Give the sentence by which a wish is refused."""
    with pytest.raises(CliError) as caught:
        build_bridge_config(wish, environ or {})
    assert caught.value.exit_code == 64
    return caught.value.message


def ws(**given: object) -> BridgeOptions:
    """The options of a bridge to a WebSocket backend, with those of the test."""
    return BridgeOptions(**{"listen": "tcp://127.0.0.1:0", "target": "ws://127.0.0.1:1/", **given})


@pytest.mark.parametrize(
    ("listen", "speaks", "bind", "match"),
    [
        ("ws://127.0.0.1:8080/", "websocket", "127.0.0.1:8080", "any"),
        ("ws://127.0.0.1:8080", "websocket", "127.0.0.1:8080", "any"),
        ("WS://[::1]:0/vnc", "websocket", "[::1]:0", MatchConfig(path="/vnc")),
        ("ws://localhost:1/a/*", "websocket", "localhost:1", MatchConfig(path="/a/*")),
        ("tcp://127.0.0.1:5901", "tcp", "127.0.0.1:5901", None),
        ("tcp://127.0.0.1:5901/", "tcp", "127.0.0.1:5901", None),
        ("unix:/run/x.sock", "tcp", "unix:/run/x.sock", None),
        ("unix:///run/x.sock", "tcp", "unix:/run/x.sock", None),
        ("-", "tcp", "unix:/dev/stdin", None),
    ],
)
def test_listen(listen: str, speaks: str, bind: str, match: object) -> None:
    """Each form of LISTEN gives its listener; the path / matches all paths, another one only itself."""
    listener, route = both(BridgeOptions(listen=listen, target="tcp://127.0.0.1:5900"))

    assert (listener.protocol, str(listener.bind), route.match) == (speaks, bind, match)
    assert route.auth is not None
    assert route.auth.kind == "none"


def test_every_option_reaches_its_setting() -> None:
    """Options are the settings that they are named after."""
    _, route = both(
        ws(
            listen="ws://127.0.0.1:0/",
            headers=["X-Site:  7 ", "Cookie: a=b:c"],
            subprotocols=["mqtt", "binary"],
            allowed_origins=["https://a.example, https://b.example", "https://c.example"],
            ping_interval="off",
            idle="1h",
            retry_for="30s",
            on_client_close="deliver",
            on_client_lost="fin",
        )
    )
    section = route.backend

    assert isinstance(section, WebSocketBackendConfig)
    assert section.headers == {"X-Site": "7", "Cookie": "a=b:c"}
    assert route.subprotocols == ("mqtt", "binary")
    assert route.allowed_origins == ("https://a.example", "https://b.example", "https://c.example")
    assert route.timeouts.model_dump(exclude_unset=True, mode="python").keys() == {"ping_interval", "idle"}
    assert (route.timeouts.ping_interval, route.timeouts.idle) == (None, 3600.0)
    assert route.dial.retry_for == 30.0
    assert (route.on_client_close, route.on_client_lost) == ("deliver", "fin")


def test_warnings_name_options(tmp_path: Path) -> None:
    """The remedy is an option of the command line, and what holds for the target and the files is reported once."""
    options = ws(listen="ws://0.0.0.0:0/", files=str(tmp_path), allow_anyone=True)
    warnings = {problem.code: problem.message for problem in build_bridge_config(options, {}).warnings}

    assert warnings["W025"].endswith("if browsers use another name, add --host-name NAME")
    assert len(build_bridge_config(options, {}).warnings) == len(warnings)


def test_newer_options_reach_their_settings(tmp_path: Path) -> None:
    """So do those of the listener, of the backend and of the time-outs."""
    options = ws(
        listen="ws://127.0.0.1:0/",
        files=str(tmp_path),
        host_names=["foo-8080.app.example"],
        handshake_rate="off",
        host="inner.example:81",
        origin="https://page.example",
        text_messages="reject",
        connect_timeout="1s",
        ping_timeout="2s",
        write_timeout="3s",
        half_close="4s",
        close_timeout="5s",
        max_lifetime="6s",
        engine="python",
    )
    config = build_bridge_config(options, {}).config
    assert config.engine == "python"
    listener, route = both(options)
    section = backend(options)

    assert listener.host_names == ("foo-8080.app.example",)
    assert config.routes["files"].files == tmp_path
    assert config.limits.per_address.handshake_rate is None
    assert (section.host, section.origin) == ("inner.example:81", "https://page.example")
    assert route.text_messages == "reject"
    times = route.timeouts
    assert (times.connect, times.ping_timeout, times.write, times.half_close) == (1, 2, 3, 4)
    assert (times.close, times.max_lifetime) == (5, 6)
    assert both(ws(allow_http=True))[0].allow_http
    assert both(ws(on_client_fin="hold"))[1].on_client_fin == "hold"
    assert backend(ws(text=True)).messages == "text"
    assert (backend(ws()).resume, backend(ws(resume="off")).resume) == ("auto", "off")


def test_what_is_not_given_is_the_default() -> None:
    """Without options all settings are those of a file that does not write them."""
    _, route = both(ws())

    assert route.model_fields_set == {"backend", "auth"}


@pytest.mark.parametrize(
    ("listen", "target", "tls", "completed"),
    [
        ("6080", "localhost:5900", False, ("ws://127.0.0.1:6080/", "tcp://localhost:5900")),
        ("6080", "5900", False, ("ws://127.0.0.1:6080/", "tcp://localhost:5900")),
        ("0.0.0.0:6080", "[::1]:5900", True, ("wss://0.0.0.0:6080/", "tcp://[::1]:5900")),
        ("localhost:5901", "wss://gw.example/vnc", False, ("tcp://localhost:5901", "wss://gw.example/vnc")),
        ("5901", "WS://gw.example/vnc", True, ("tls://127.0.0.1:5901", "WS://gw.example/vnc")),
        ("-", "host:22", False, ("-", "tcp://host:22")),
        ("unix:/x", "unix:/y", False, ("unix:/x", "unix:/y")),
    ],
)
def test_short_forms(listen: str, target: str, tls: bool, completed: tuple[str, str]) -> None:
    """An address without a scheme is WebSocket at one end and TCP at the other; a port alone is on this host."""
    full = complete_target(target)

    assert (complete_listen(listen, full, tls=tls), full) == completed


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("http://127.0.0.1:80/", "a:1"), 'LISTEN: "http://127.0.0.1:80/": write ws://127.0.0.1:80/'),
        (("80", "https://a/b"), 'TARGET: "https://a/b": write wss://a/b'),
        (("/tmp/x", "a:1"), 'LISTEN: "/tmp/x": write unix:/tmp/x'),
    ],
)
def test_a_form_of_something_else_gets_a_suggestion(args: tuple[str, str], said: str) -> None:
    """URLs of HTTP and bare paths are answered with what to write."""
    result = invoke("bridge", *args)

    assert (result.exit_code, result.output) == (64, f"wsbridge: {said}\n")


@pytest.mark.parametrize("rest", ["?x=a@other", "/p@th", "/?x=a@other", "?x=/@other"])
def test_an_at_sign_elsewhere_in_the_target_is_no_user(rest: str) -> None:
    """It changes neither the host nor the headers."""
    section = backend(ws(target=f"ws://gw.example{rest}"))
    assert (section.url.host, section.headers) == ("gw.example", {})
    section = backend(ws(target=f"wss://me:pw@gw.example{rest}"))
    assert section.url.host == "gw.example"
    assert section.headers == {"Authorization": f"Basic {b64encode(b'me:pw').decode()}"}


def test_the_target_is_shown_without_secrets() -> None:
    """Neither with its password nor with a token in its query, which is dialled."""
    options = ws(target="wss://me:pw@gw.example/?token=hunter2&page=1")
    assert options.shown_target == "wss://gw.example/?token=***&page=1"
    assert "hunter2" in backend(options).url.text


@pytest.mark.parametrize(
    "url",
    ["https://me:hunter2@gw.example/", "foo://me:hunter2@gw.example/", "ws://gw.example/?token=hunter2#x"],
)
def test_a_wrong_url_is_quoted_without_secrets(url: str) -> None:
    """Neither as LISTEN nor as TARGET."""
    for arguments in ([url, "tcp://127.0.0.1:1"], ["-", url]):
        done = invoke("bridge", *arguments)
        assert done.exit_code == 64
        assert "hunter2" not in done.output


def test_user_and_password_in_the_target() -> None:
    """User and password of a WebSocket URL become a header, and appear in no message."""
    loaded = build_bridge_config(ws(target="wss://me:p%40ss@gw.example/x?y=1"), {})
    section = loaded.config.routes[BRIDGE_NAME].backend

    assert isinstance(section, WebSocketBackendConfig)
    assert section.url.text == "wss://gw.example/x?y=1"
    assert section.headers == {"Authorization": f"Basic {b64encode(b'me:p@ss').decode()}"}
    assert [warning.message for warning in loaded.warnings] == [
        "its password is a secret, and every user of this host can see it (ps): put it into a file for `wsbridge run`"
    ]


def test_warnings_about_a_password_name_the_url_that_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    """In the URL of TARGET it is no header that the user has written."""
    loaded = build_bridge_config(ws(target="ws://alice:word@192.0.2.1/x"), {})
    assert {warning.setting for warning in loaded.warnings} == {"routes.bridge.backend.url"}
    print_warnings(loaded.warnings)
    start = "wsbridge: warning: TARGET: its password "
    path, host = capsys.readouterr().err.splitlines()
    assert path == f"{start}goes to 192.0.2.1 without TLS: everybody on the network path can read it"
    assert host.startswith(f"{start}is a secret, and every user of this host can see it")
    other = build_bridge_config(ws(target="ws://192.0.2.1/x", headers=["Authorization: Basic YTpi"]), {})
    print_warnings(other.warnings)
    assert all(line.startswith("wsbridge: warning: --header: ") for line in capsys.readouterr().err.splitlines())


def test_names_beyond_ascii() -> None:
    """An internationalised name in TARGET is dialled in its ASCII form."""
    assert backend(ws(target="wss://bücher.example/")).url.host == "xn--bcher-kva.example"


def test_a_unix_socket_is_private() -> None:
    """A bridge has no authentication, so its socket is for its own user, unless --mode says otherwise."""
    assert both(ws(listen="unix:/x"))[0].mode == 0o600
    assert both(ws(listen="unix:/x", mode="0660"))[0].mode == 0o660


def test_no_subprotocol() -> None:
    """An empty list of subprotocols is not the default list."""
    assert both(ws(subprotocols=()))[1].subprotocols == ()


def test_tls_of_the_target(tmp_path: Path) -> None:
    """The options of TLS are those of the backend's section, for tls and for wss alike."""
    _, route = both(ws(target="tls://10.0.0.1:993", insecure=True, server_name="mail.example"))

    assert isinstance(route.backend, TlsBackendConfig)
    assert (route.backend.insecure, route.backend.server_name) == (True, "mail.example")
    assert "--ca: " in refused(ws(target="wss://10.0.0.1", ca=str(tmp_path / "gone.pem")))


@pytest.mark.parametrize(
    "listen", ["ws://0.0.0.0:80/", "tcp://192.0.2.1:80", "ws://[::]:80/", "ws://gw.example.org:80"]
)
def test_others_are_let_in_only_when_meant(listen: str) -> None:
    """An address that other hosts reach is rejected with what to write; with that it is accepted."""
    sentence = refused(BridgeOptions(listen=listen, target="tcp://127.0.0.1:1"))

    assert "--allow-anyone" in sentence
    assert build_bridge_config(BridgeOptions(listen=listen, target="tcp://127.0.0.1:1", allow_anyone=True), {}).config


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (ws(listen="ftp://x"), 'LISTEN: "ftp://x" is none of ws://'),
        (ws(listen="ftp://x"), "unix:/path, a port or -"),
        (ws(listen="ws://127.0.0.1/"), 'LISTEN: "127.0.0.1" has no port'),
        (ws(listen="ws://:8080/"), "LISTEN: "),
        (ws(listen="tcp://127.0.0.1:1/path"), "a tcp address has no path"),
        (ws(listen="ws://127.0.0.1:1/a//b"), "LISTEN: "),
        (ws(listen="wss://127.0.0.1:1/"), "--cert FILE and --key FILE, or --self-signed"),
        (ws(listen="wss://127.0.0.1:1/", cert="/gone/a", key="/gone/b"), "--cert: /gone/a cannot be read"),
        (ws(listen="wss://127.0.0.1:1/", cert="/gone/a", key="/gone/b"), "--key: /gone/b cannot be read"),
        (ws(cert="a", key="b"), "not for tcp"),
        (ws(listen="-", cert="a", key="b"), "not for -"),
        (ws(allowed_origins=["any"]), "--allowed-origins: no page in a browser can connect to tcp"),
        (ws(listen="-", allowed_origins=["any"]), "--allowed-origins: no page in a browser can connect to -"),
        (ws(listen="unix:relative"), "LISTEN: "),
        (ws(listen="ws://fd:web/"), "LISTEN: fd:web: passed sockets need a configuration file"),
        (ws(target="127.0.0.1:1"), "TARGET: must be of the form tcp://"),
        (ws(target="tcp://127.0.0.1"), "TARGET: "),
        (ws(target="tcp://127.0.0.1:1", headers=["A: b"]), "--header: means nothing for the target tcp://127.0.0.1:1"),
        (ws(target="tcp://127.0.0.1:1", insecure=True), "--insecure: means nothing"),
        (ws(proxy="http://p:1", proxy_headers=["A"]), "--proxy-header: write 'Name: value'"),
        (ws(proxy="http://p:1", proxy_headers=["Host: b"]), '--proxy-header: "Host" is written by wsbridge itself'),
        (ws(proxy="off", proxy_headers=["A: b"]), "--proxy-header: no proxy is set for this TARGET"),
        (ws(headers=["A"]), "--header: write 'Name: value'"),
        (ws(headers=["A: b", "a: c"]), "--header: a is given twice"),
        (ws(target="wss://me:pw@a.example/", headers=["authorization: x"]), "--header: Authorization is given twice"),
        (ws(target="tcp://me:pw@127.0.0.1:1"), "TARGET: a tcp URL has no user and no password"),
        (ws(files="/"), "--files: files are served to HTTP clients of ws:// and wss:// listeners, not of tcp"),
        (ws(listen="ws://127.0.0.1:1/", files="/gone"), "--files: "),
        (ws(host_names=["a.example"]), "--host-name: only ws:// and wss:// listeners have a Host header, not tcp"),
        (ws(listen="ws://127.0.0.1:1/", allow_http=True), "--allow-http is for tcp://, tls:// and unix: listeners"),
        (ws(mode="0660"), "--mode is for unix: listeners"),
        (ws(listen="unix:/x", mode="rw"), "--mode: "),
        (ws(client_key="k"), "--client-key needs --client-cert FILE"),
        (ws(client_cert="/gone/c", target="wss://127.0.0.1:1"), "--client-cert: /gone/c cannot be read"),
        (ws(connect_timeout="5"), '--connect-timeout: "5" has no unit: write 5s'),
        (ws(close_timeout="x"), "--close-timeout: "),
        (ws(half_close="x"), "--half-close: "),
        (ws(handshake_rate="many"), "--handshake-rate: "),
        (ws(origin="a"), "--origin: "),
        (ws(host="a b"), "--host: "),
        (ws(headers=["A b: c"]), "--header: "),
        (ws(ping_interval="20"), '--ping-interval: "20" has no unit: write 20s'),
        (ws(idle="never"), "--idle: "),
        (ws(retry_for="x"), "--retry-for: "),
        (ws(listen="ws://127.0.0.1:1/", allowed_origins=["a.example"]), "--allowed-origins: "),
        (ws(subprotocols=["a b"]), "--subprotocol: "),
        (ws(proxy="socks5://x:1"), "--proxy: socks5 proxies are not supported"),
    ],
)
def test_a_problem_is_reported_by_its_argument(wish: BridgeOptions, said: str) -> None:
    """Whatever is wrong is reported in the words of the configuration, but by the argument that the user wrote."""
    assert said in refused(wish)


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is required by an option."""
    monkeypatch.setattr(native, "find_extension", lambda: native.Extension(None, "there is no cargo"))
    assert refused(ws(engine="native")).startswith("--engine: the native engine")


def test_all_problems_at_once() -> None:
    """All wrong arguments are reported at once."""
    sentence = refused(ws(ping_interval="20", idle="x", subprotocols=["a b"]))

    assert [line.partition(": ")[0] for line in sentence.replace("wsbridge: ", "").splitlines()] == [
        "--subprotocol",
        "--ping-interval",
        "--idle",
    ] or {"--ping-interval", "--idle", "--subprotocol"} <= set(re.findall(r"--[a-z-]+", sentence))


def test_proxy_of_the_environment() -> None:
    """The environment's proxy is used for WebSocket targets on other hosts, with user and password; `off` wins."""
    environ = {"https_proxy": "http://me:s3cret@proxy.example:3128", "no_proxy": "inside.example"}
    section = backend(ws(target="wss://gw.example/"), environ)

    assert section.proxy is not None
    assert (section.proxy.host, section.proxy.port, section.proxy.user) == ("proxy.example", 3128, "me")
    assert section.proxy.password is not None
    assert section.proxy.password.reveal() == "s3cret"
    assert backend(ws(target="wss://gw.example/", proxy="off"), environ).proxy is None
    assert backend(ws(target="wss://a.inside.example/"), environ).proxy is None
    assert backend(ws(target="ws://gw.example/"), environ).proxy is None
    given = backend(ws(target="wss://gw.example/", proxy="http://other:8080"), environ).proxy
    assert str(given) == "http://other:8080"


def test_a_proxy_that_cannot_be_used() -> None:
    """A wrong variable is named, its value is not."""
    with pytest.raises(CliError) as caught:
        build_bridge_config(ws(target="wss://gw.example/"), {"https_proxy": "socks5://user:s3cret@x:1"})

    assert caught.value.exit_code == 78
    assert "https_proxy" in caught.value.message
    assert "s3cret" not in caught.value.message


def test_warnings_as_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    """A risky option is reported by its name where no log is printed."""
    loaded = build_bridge_config(BridgeOptions(listen="-", target="wss://gw.example/", insecure=True), {})

    print_warnings(loaded.warnings)

    assert capsys.readouterr().err.startswith("wsbridge: warning: --insecure: ")


def examples() -> Iterator[str]:
    """All command lines of `bridge` in the documentation and in the help."""
    pages = [(ROOT / name).read_text() for name in ("README.md", "docs/commands.md")]
    for text in (*pages, bridge_command.help or ""):
        for line in text.splitlines():
            found = re.search(r"wsbridge bridge ((?:-|ws|tcp|unix|\d)[^'\n]*('[^']*')?[^'\n]*)", line)
            if found and "`" not in line and "…" not in line:
                yield found[1].strip()


@pytest.mark.parametrize("example", sorted(set(examples())))
def test_examples_are_right(example: str) -> None:
    """Every example of the documentation and of the help can be read by click."""
    with click.Context(bridge_command) as ctx:
        bridge_command.parse_args(ctx, shlex.split(example, comments=True))

        assert ctx.params["target"]
        if not ctx.params["cert"] and not ctx.params["self_signed"]:
            names = ("allow_anyone", "headers", "proxy", "retry_for", "on_client_close", "allowed_origins")
            target = complete_target(ctx.params["target"])
            listen = complete_listen(ctx.params["listen"], target, tls=False)
            build_bridge_config(
                BridgeOptions(listen=listen, target=target, **{name: ctx.params[name] for name in names}), {}
            )


def test_there_are_examples() -> None:
    """The search for examples finds them."""
    assert len(set(examples())) >= 12
