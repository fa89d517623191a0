"""International names and their ASCII form."""

from __future__ import annotations

import pytest

from wsbridge.config.types import to_ascii_authority


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.EXAMPLE:8443", "xn--bcher-kva.example:8443"),
        ("straße.de", "xn--strae-oqa.de"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("GW.example.org:1", "GW.example.org:1"),
        ("[::1]:1", "[::1]:1"),
        ("under_score.example", "under_score.example"),
    ],
)
def test_as_browsers_send_it(written: str, sent: str) -> None:
    """Case, width and dots are mapped as UTS 46 says; what is ASCII is left to others to judge."""
    assert to_ascii_authority(written) == sent


@pytest.mark.parametrize("written", ["☃.example", "ü..example", "-ü.example", "ü" * 64 + ".example", "ü ü", "\u200b"])
def test_no_names(written: str) -> None:
    """Symbols, empty and too long labels, blanks and nothing at all are told with the reason."""
    with pytest.raises(ValueError, match="is no name of a host: "):
        to_ascii_authority(written)
