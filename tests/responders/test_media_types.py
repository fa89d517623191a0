"""The media type of a file, by its name alone."""

from __future__ import annotations

import mimetypes

import pytest

from wsbridge.responders.files import DEFAULT_MEDIA_TYPE, MEDIA_TYPES, media_type


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("core/rfb.js", "text/javascript; charset=utf-8"),
        ("ui.mjs", "text/javascript; charset=utf-8"),
        ("a.wasm", "application/wasm"),
        ("STYLE.CSS", "text/css; charset=utf-8"),
        ("lib.min.js", "text/javascript; charset=utf-8"),
        ("app.js.map", "application/json"),
        ("icon.svg", "image/svg+xml"),
        ("README", DEFAULT_MEDIA_TYPE),
        ("archive.tar.gz", DEFAULT_MEDIA_TYPE),
        (".html", DEFAULT_MEDIA_TYPE),
        ("page.html.", DEFAULT_MEDIA_TYPE),
        ("html", DEFAULT_MEDIA_TYPE),
        ("", DEFAULT_MEDIA_TYPE),
    ],
)
def test_the_last_suffix_decides(name: str, expected: str) -> None:
    """In any case of letters; a name without one is bytes that no browser runs."""
    assert media_type(name) == expected


def test_the_machine_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """What /etc/mime.types makes of JavaScript elsewhere changes nothing."""
    monkeypatch.setitem(mimetypes.types_map, ".js", "text/plain")

    assert media_type("a.js") == "text/javascript; charset=utf-8"


def test_text_tells_its_characters() -> None:
    """Every text type says UTF-8, and suffixes are in the form in which they are looked up."""
    assert all("charset=utf-8" in kind for kind in MEDIA_TYPES.values() if kind.startswith("text/"))
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in MEDIA_TYPES)
