"""What `--version` tells."""

from __future__ import annotations

import platform
import ssl

import pytest

from wsbridge import __version__
from wsbridge.cli import main


def test_all_that_a_report_needs() -> None:
    """A line each for wsbridge, engine, Python, OpenSSL and the system."""
    lines = main.version_text().splitlines()

    assert [line.split()[0] for line in lines] == ["wsbridge", "engine:", "Python:", "OpenSSL:", "system:"]
    assert lines[0] == f"wsbridge {__version__}"
    assert platform.python_version() in lines[2]
    assert ssl.OPENSSL_VERSION in lines[3]
    assert platform.release() in lines[4]


@pytest.mark.parametrize(("native", "said"), [(True, "masking in C"), (False, "which is slow: install websockets")])
def test_whether_masking_runs_in_c(monkeypatch: pytest.MonkeyPatch, native: bool, said: str) -> None:
    """A slow installation is told, with what to do."""
    monkeypatch.setattr(main, "HAS_NATIVE_MASK", native)

    assert said in main.version_text().splitlines()[1]
