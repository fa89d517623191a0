"""A digest of what the file sets in some sections: the same as long as no setting has another value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from wsbridge.config.base import Section

KIND_FIELD: Final = "kind"
"""Which kind of section it is: always a part of the digest, also where it is the default."""


def digest_sections(sections: Mapping[str, Section | None]) -> bytes:
    """Return the SHA-256 of sections.

    A setting that has its default does not count, so that the digest is the same in a version that has new settings. Of
    a secret, only where it is read from counts.

    Args:
        sections: By name.
    """
    found = {name: one and _describe(one, one.model_dump(mode="json")) for name, one in sections.items()}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).digest()


def _describe(value: object, dumped: Any) -> Any:
    """Return a value as `dumped` has it, without defaults."""
    if isinstance(value, Section):
        return {
            name: _describe(getattr(value, name), dumped[name])
            for name, field in type(value).model_fields.items()
            if name == KIND_FIELD
            or getattr(value, name) != field.get_default(call_default_factory=True, validated_data=value.__dict__)
        }
    if isinstance(value, tuple) and isinstance(dumped, list):
        return [_describe(*pair) for pair in zip(value, dumped, strict=True)]
    if isinstance(value, dict) and isinstance(dumped, dict):
        return {key: _describe(one, part) for one, (key, part) in zip(value.values(), dumped.items(), strict=True)}
    return dumped
