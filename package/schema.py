"""The schema beside the sample of conf/, whose first line names it for editors."""

from __future__ import annotations

import json
from pathlib import Path

from wsbridge.config.schema import json_schema
from wsbridge.registry import CONFIG_REGISTRY


def write_schema(directory: Path) -> None:
    """Write wsbridge.schema.json, as `wsbridge schema` prints it.

    Args:
        directory: It is created if it is missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(json_schema(CONFIG_REGISTRY), indent=2, ensure_ascii=False)
    (directory / "wsbridge.schema.json").write_text(f"{text}\n")
