"""The parts of `wsbridge demo`: a small TCP service, and a page (`page/`) that talks to it through a bridge."""

from __future__ import annotations

from pathlib import Path

PAGE_DIRECTORY = Path(__file__).parent / "page"
"""The directory of the page, for a `files:` route."""
