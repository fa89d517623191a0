"""Secrets: where they come from, and that nothing shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.config.loading import LISTENERS, read, summaries, wrong
from wsbridge.backends.websocket import WebSocketBackendConfig
from wsbridge.config.base import LoadContext, Registry, Section
from wsbridge.config.secrets import Secret


class Holder(Section):
    """A section with a secret."""

    secret: Secret


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
        ("{file: .}", ".file", "is a directory, not a file"),
        ("{env: GONE}", "", "the environment variable GONE is not set or empty"),
        ("{env: EMPTY}", "", "the environment variable EMPTY is not set or empty"),
        ("{env: LATIN1}", "", "the environment variable LATIN1 is not UTF-8 text"),
        ("{env: A-B}", ".env", '"A-B" is no name of an environment variable'),
        ("{env: EMPTY, file: empty}", "", "needs exactly one of file, env and credential"),
        ("{}", "", "needs exactly one of file, env and credential"),
        ("{fiel: x}", "", 'unknown key (did you mean "file"?)'),
        ("[x]", "", "must be text, not a list"),
    ],
)
def test_secrets_that_cannot_be_read(secret: str, path: str, message: str, tmp_path: Path) -> None:
    """A secret that is missing or empty is an error at its place."""
    (tmp_path / "empty").write_text("\n")
    text = LISTENERS + "routes: {vnc: {match: any, auth: none, backend: {url: 'wss://gw', headers: {A: %s}}}}\n"
    problems = wrong(text % secret, {"EMPTY": "", "LATIN1": "\udce9"}, tmp_path)
    assert problems[0].setting == "routes.vnc.backend.headers.A" + path
    assert message in problems[0].message


def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    """Some editors begin UTF-8 files with one, which nobody sees."""
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbfgeheim\r\n")
    holder = Holder.model_validate(
        {"secret": {"file": "key"}}, context=LoadContext(tmp_path, {}, Registry(), check_files=True)
    )
    assert holder.secret.reveal() == "geheim"


def test_a_secret_is_shown_only_when_revealed() -> None:
    """Neither `repr`, `str`, a format nor the place in a container shows it; equal texts are equal secrets."""
    secret = Secret("geheim")

    assert "geheim" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "geheim"
    assert secret == Secret("geheim")
    assert hash(secret) == hash(Secret("geheim"))
    assert secret != Secret("other")
    assert secret != "geheim"


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b" a ", " a "), (b"x" * 65_536, "x" * 65_536)],
)
def test_one_line_break_at_the_end_of_a_file_does_not_count(tmp_path: Path, data: bytes, expected: str) -> None:
    """Editors add it; all else is part of the secret."""
    (tmp_path / "s").write_bytes(data)
    secret = Holder.model_validate({"secret": {"file": "s"}}, context=LoadContext(tmp_path, {}, Registry())).secret

    assert secret.reveal() == expected


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "is not UTF-8 text"), (b"x" * 65_537, "is larger than 64KiB")],
)
def test_files_that_hold_no_secret(tmp_path: Path, data: bytes, said: str) -> None:
    """The error names the file, but not its content."""
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(ValidationError) as caught:
        Holder.model_validate({"secret": {"file": "s"}}, context=LoadContext(tmp_path, {}, Registry()))

    assert f"{tmp_path / 's'} {said}" in str(caught.value)


def test_without_a_look_at_files_a_secret_stays_empty(tmp_path: Path) -> None:
    """The form is checked, the file need not be there."""
    context = LoadContext(tmp_path, {}, Registry(), check_files=False)

    assert Holder.model_validate({"secret": {"file": "gone"}}, context=context).secret.reveal() == ""


def test_a_secret_is_not_written_into_the_file_itself() -> None:
    """A plain text is refused, with what to write."""
    with pytest.raises(ValidationError) as caught:
        Holder.model_validate({"secret": "geheim"})

    (error,) = caught.value.errors()
    assert error["msg"].endswith("a secret is written as {file: PATH}, {env: NAME} or {credential: NAME}, not as text")


@pytest.mark.parametrize(("mode", "expected"), [(0o640, []), (0o644, ["W012 routes.vnc.backend.headers.A"])])
def test_a_secret_that_everybody_can_read_is_warned_of(mode: int, expected: list[str], tmp_path: Path) -> None:
    """Its file is held to the same as a private key's, wherever it is named."""
    (tmp_path / "token").write_text("geheim")
    (tmp_path / "token").chmod(mode)
    backend = "{url: 'wss://gw/x', headers: {A: {file: token}}}"
    loaded = read(LISTENERS + f"routes: {{vnc: {{match: any, auth: none, backend: {backend}}}}}\n", folder=tmp_path)
    assert summaries(loaded.warnings) == expected
