"""Values that may be written in more than one form, and the sections of backends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from tests.config.loading import LISTENERS, read, wrong
from wsbridge.backends.tcp import TcpBackendConfig, TlsBackendConfig, UnixBackendConfig
from wsbridge.backends.websocket import WebSocketBackendConfig
from wsbridge.config import types, unions
from wsbridge.config.base import UNION_TAG, Registry
from wsbridge.config.errors import ConfigError
from wsbridge.config.load import load_text
from wsbridge.config.unions import UrlBackendSection
from wsbridge.registry import CONFIG_REGISTRY


def test_a_short_backend_equals_the_long_one() -> None:
    """A URL alone is the same as a mapping with that url; so is a word for authentication."""
    text = LISTENERS + "routes: {vnc: {match: any, backend: %s, auth: %s}}\n"
    short = read(text % ("'wss://gw/x'", "none")).config
    long = read(text % ("{url: 'wss://gw/x'}", "{kind: none}")).config
    assert short == long


@pytest.mark.parametrize(("value", "form"), [("a", "text"), (["a"], "list"), ({}, "list")])
def test_a_word_or_a_list(value: object, form: str) -> None:
    """A value that is not a known word is read as a list, and reported as invalid if it is none."""
    assert unions.text_or_list_tag(value) == UNION_TAG + form


@pytest.mark.parametrize(("value", "form"), [("a", "text"), ({"a": "b"}, "section"), (["a"], "section")])
def test_a_word_or_a_mapping(value: object, form: str) -> None:
    """A value that is not a known word is read as a mapping, and reported as invalid if it is none."""
    assert unions.text_or_section_tag(value) == UNION_TAG + form


def test_one_text_is_a_list_of_one() -> None:
    """Other values stay what they are."""
    assert unions.as_tuple("a") == ("a",)
    assert unions.as_tuple(["a", "b"]) == ["a", "b"]


def test_lists_with_something_in_them_each_once() -> None:
    """An empty list and a text that occurs twice are rejected by name."""
    assert unions.non_empty(("a",)) == unions.check_unique(("a",)) == ("a",)
    with pytest.raises(ValueError, match="at least one entry"):
        unions.non_empty(())
    with pytest.raises(ValueError, match=r'^"b" is a duplicate$'):
        unions.check_unique(("a", "b", "b"))


@pytest.mark.parametrize("check", [unions.check_unique, types.check_unique_headers])
def test_long_lists_are_compared_once(check: Callable[[tuple[str, ...]], object]) -> None:
    """Twenty thousand origins, as a program may write them, take no seconds."""

    class Counted(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return super().__eq__(other)

        def lower(self) -> Counted:
            return self

    compared: list[object] = []
    check(tuple(Counted(number) for number in range(1000)))
    assert len(compared) < 1000


@pytest.mark.parametrize(
    ("backend", "section"),
    [
        ("tcp://a:1", TcpBackendConfig),
        ("tls://a:1", TlsBackendConfig),
        ("unix:/s", UnixBackendConfig),
        ("ws://a/x", WebSocketBackendConfig),
        ("wss://a/x", WebSocketBackendConfig),
    ],
)
def test_the_scheme_picks_the_section(backend: str, section: type) -> None:
    """Each scheme has its own options."""
    text = LISTENERS + f"routes: {{r: {{match: any, auth: none, backend: '{backend}'}}}}\n"

    assert type(read(text).config.routes["r"].backend) is section


@pytest.mark.parametrize(
    ("key", "written", "path", "said"),
    [
        ("backend", "[a]", "", "must be a URL such as tcp://10.0.0.5:5900, or a mapping with url"),
        ("backend", "{}", ".url", "is missing"),
        ("backend", "{url: 'ftp://a'}", ".url", "must be of the form tcp://"),
        ("backend", "{url: 'tls://a:1', insecure: maybe}", ".insecure", '"maybe" is neither true nor false'),
        ("auth", "[none]", "", 'must be "none" or "network"'),
        ("auth", "{}", ".kind", "is missing"),
        ("auth", "{kind: [none]}", ".kind", "\"['none']\" is unknown"),
        ("auth", "nobody", ".kind", '"nobody" is unknown: write "none"'),
    ],
)
def test_what_is_reported_of_a_wrong_choice(key: str, written: str, path: str, said: str) -> None:
    """One mistake is one problem, at the value that picks or at the key that is wrong."""
    rest = {"backend": "auth: none", "auth": "backend: 'tcp://a:1'"}[key]
    (problem,) = wrong(LISTENERS + f"routes: {{r: {{match: any, {rest}, {key}: {written}}}}}\n")

    assert problem.setting in (f"routes.r.{key}{path}", f"routes.r.{key}")
    assert problem.message.startswith(said)


def test_a_scheme_that_no_kind_serves() -> None:
    """The table of kinds decides what there is."""
    text = LISTENERS + "routes: {r: {match: any, auth: none, backend: 'tls://a:1'}}\n"
    with pytest.raises(ConfigError) as caught:
        load_text(
            text,
            file="w.yaml",
            registry=Registry({"tcp": TcpBackendConfig}, CONFIG_REGISTRY.auth),
            environ={},
            check_files=False,
        )

    assert [problem.message for problem in caught.value.problems] == ["no backend is known for tls://"]


def test_a_list_of_ways_says_its_kind() -> None:
    """`{any_of: […]}` needs no kind beside it; lists hold lists."""
    network = "{kind: network, allow: [10.0.0.0/8]}"
    auth = f"{{any_of: [{network}, {{all_of: [{network}]}}]}}"
    text = LISTENERS + f"routes: {{r: {{match: any, backend: 'tcp://a:1', auth: {auth}}}}}\n"
    found = load_text(text, file="w.yaml", registry=CONFIG_REGISTRY, environ={}).config.routes["r"].auth
    assert found is not None
    assert [way.kind for way in found.members()] == ["network", "all_of"]


@pytest.mark.parametrize(
    ("auth", "place", "message"),
    [
        ("{any_of: [none]}", ".any_of", '"none" is not allowed in a list: it allows anonymous access'),
        ("{all_of: []}", ".all_of", "needs at least one entry"),
        ("{kind: netwrok, allow: [10.0.0.0/8]}", ".kind", 'did you mean "network"?'),
        ("{any_of: [{kind: network, alow: [10.0.0.0/8]}]}", ".any_of[0].alow", 'did you mean "allow"?'),
    ],
)
def test_what_is_wrong_with_a_list_of_ways(auth: str, place: str, message: str) -> None:
    """The entry at fault is named."""
    text = LISTENERS + f"routes: {{r: {{match: any, backend: 'tcp://a:1', auth: {auth}}}}}\n"
    with pytest.raises(ConfigError) as caught:
        load_text(text, file="w.yaml", registry=CONFIG_REGISTRY, environ={})
    assert any(
        problem.setting == f"routes.r.auth{place}" and message in problem.message for problem in caught.value.problems
    )


@pytest.mark.parametrize("scheme", ["tcp", "tls", "unix", "ws", "wss"])
def test_every_scheme_has_a_section_with_a_url(scheme: str) -> None:
    """The table of kinds holds sections of backends, each with the URL that picked it."""
    section = CONFIG_REGISTRY.backends[scheme]
    assert issubclass(section, UrlBackendSection)
    assert section.model_fields["url"].is_required()


def test_backends_without_a_scheme_say_what_picks_them() -> None:
    """Lists of tokens and the target of an identity are kinds of their own, and always a client's choice."""
    tokens = CONFIG_REGISTRY.backends["tokens"].model_validate({"tokens": "/x"})
    told = CONFIG_REGISTRY.backends["target"].model_validate({"url": "{target}"})

    assert (tokens.kind, tokens.fields, tokens.text) == ("tokens", ("query.token",), "tokens of /x")
    assert (told.kind, told.fields, told.text) == ("target", ("target",), "{target}")


def test_a_url_with_fields_is_for_clients_to_choose() -> None:
    """Its fields are named once each; a plain URL has none."""
    chosen = UrlBackendSection.model_validate({"url": "tcp://{host}:{port}"})
    fixed = UrlBackendSection.model_validate({"url": "tcp://a.example:5900"})

    assert (chosen.kind, chosen.fields) == ("tcp", ("host", "port"))
    assert (fixed.kind, fixed.fields, fixed.text) == ("tcp", (), "tcp://a.example:5900")


def test_the_url_is_read() -> None:
    """Scheme, host and port, or the path."""
    url = UrlBackendSection.model_validate({"url": "tcp://a.example:5900"}).url

    assert (url.scheme, url.host, url.port) == ("tcp", "a.example", 5900)


@pytest.mark.parametrize("written", [{}, {"url": "a.example:5900"}, {"url": "tcp://a:1", "x": "y"}])
def test_what_is_no_backend(written: dict[str, str]) -> None:
    """No URL, no scheme, a key that is not known."""
    with pytest.raises(ValidationError):
        UrlBackendSection.model_validate(written)
