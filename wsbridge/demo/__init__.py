"""What `wsbridge demo` shows: a small TCP service (`service`) and a page (`page/`) that talks to it through a bridge.

The bridge itself is the ordinary one; the command builds its configuration from `PAGE` and the service's port.
"""

from __future__ import annotations

from pathlib import Path

PAGE_DIRECTORY = Path(__file__).parent / "page"
"""The folder of the page, for a `files:` route."""
