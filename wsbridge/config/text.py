"""Text: the types that stay text, each with the one rule it has to keep.

Lives here: names, tokens, header names and values, path patterns, owners. Must not live here: addresses (`address`),
numbers and durations (`scalars`). A parser takes what stood in the file and gives the value or raises ValueError with
one sentence that says what to write.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from wsbridge.protocol import target
from wsbridge.protocol.handshake import CARRIER

WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
PATH = r"(/(\{[A-Za-z_][A-Za-z0-9_]*\}|[^/?#\s*{}]*))+\*?"
OWNER = r"[A-Za-z_0-9][A-Za-z0-9_.-]*(:[A-Za-z_0-9][A-Za-z0-9_.-]*)?"
FORBIDDEN_HEADERS = frozenset(
    {"host", "upgrade", "connection", "content-length", "transfer-encoding", "origin", "te", "trailer"}
)


class WrongShapeError(ValueError):
    """A list or mapping stands where a text is wanted, or the other way round; pydantic takes ValueErrors alone."""


def as_text(value: object) -> str:
    """Give the text of a scalar.

    Raises:
        WrongShapeError: The value is a list or a mapping.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        raise WrongShapeError("must be text, not a list")
    if isinstance(value, dict):
        raise WrongShapeError("must be text, not a mapping")
    raise WrongShapeError(f"must be text, not {type(value).__name__}")


def read_name(value: object) -> str:
    """Read the name that the file gives to a listener or a route."""
    text = as_text(value)
    if not re.fullmatch(NAME, text):
        raise ValueError(f'"{text}" is no name: 1 to 64 letters, digits, "-" and "_", the first a letter or digit')
    return text


def read_token(value: object) -> str:
    """Read a token of RFC 9110 section 5.6.2, as subprotocols are."""
    text = as_text(value)
    if not re.fullmatch(WORD, text):
        raise ValueError(
            f'"{text}" has characters that a subprotocol must not have; letters, digits, "-", "." and "_" do'
        )
    return text


def read_subprotocol(value: object) -> str:
    """Read a subprotocol that may be answered."""
    token = read_token(value)
    if token.startswith(CARRIER):
        raise ValueError(f"what begins with {CARRIER} carries a token of the client and is never answered")
    return token


def read_header_name(value: object) -> str:
    """Read the name of a header that a user may add to a request."""
    text = as_text(value)
    if not re.fullmatch(WORD, text):
        raise ValueError(f'"{text}" is no name of a header')
    if text.lower() in FORBIDDEN_HEADERS or text.lower().startswith("sec-websocket-"):
        raise ValueError(f'"{text}" is written by wsbridge itself and cannot be set here')
    return text


def read_header_text(value: object) -> str:
    """Read the value of a header: printable ASCII, no blanks at the ends; never quoted in an error."""
    text = as_text(value)
    if not re.fullmatch(r"[!-~](?:[ -~\t]*[!-~])?|", text):
        raise ValueError("must be printable ASCII on one line, without blanks at its ends")
    return text


def read_path(value: object) -> str:
    """Read a path pattern: `/x` exactly, `/x/*` for all below `/x/`, `/*` for all, `{name}` for any one segment."""
    text = as_text(value)
    return target.PathPattern(text).text


def read_owner(value: object) -> str:
    """Read `user` or `user:group`."""
    text = as_text(value)
    if not re.fullmatch(OWNER, text):
        raise ValueError(f'"{text}" is not of the form user or user:group')
    return text


def _pattern(regex: str) -> dict[str, object]:
    return {"type": "string", "pattern": f"^{regex}$"}


Name = Annotated[str, PlainValidator(read_name), WithJsonSchema(_pattern(NAME))]
Token = Annotated[str, PlainValidator(read_token), WithJsonSchema(_pattern(WORD))]
Subprotocol = Annotated[str, PlainValidator(read_subprotocol), WithJsonSchema(_pattern(WORD))]
HeaderName = Annotated[str, PlainValidator(read_header_name), WithJsonSchema(_pattern(WORD))]
HeaderText = Annotated[str, PlainValidator(read_header_text), WithJsonSchema({"type": ["string", "number", "boolean"]})]
Owner = Annotated[str, PlainValidator(read_owner), WithJsonSchema(_pattern(OWNER))]
PathPattern = Annotated[str, PlainValidator(read_path), WithJsonSchema(_pattern(PATH))]
