"""Redaction: what looks like a secret never reaches a line.

Lives here: which keys and which query parameters are secret, and how their values are replaced. Must not live here:
escaping (`render`) and cutting (`record`). Texts here come from peers: every expression is linear in their length.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"

_SECRET_WORDS: Final = (
    *("token", "secret", "passw", "passphrase", "pwd", "signature", "auth", "jwt"),
    *("ticket", "credential", "apikey", "cookie"),
)
_SECRET_NAMES: Final = frozenset(
    ("key", "sig", "code", "pass", "pin", "otp", "sid", "session", "sessionid", "assertion"),
)
_SECRET_KEYS: Final = frozenset(
    (
        *("password", "passwd", "pwd", "passphrase", "token", "secret", "authorization", "proxy_authorization"),
        *("cookie", "set_cookie", "api_key", "private_key", "jwt"),
    )
)
_SECRET_KEY_ENDS: Final = ("_password", "_token", "_secret", "_cookie", "_authorization", "_api_key")

_URL_KEYS: Final = frozenset({"path", "target", "url", "query", "location", "referer", "referrer", "uri"})
_NAME: Final = re.compile(r"(^|[?&;#])([^?&;#=\s]++)=")
_VALUE: Final = re.compile(r"[^&;#\s]*")
_FIRST: Final = re.compile(r"[^?&;#\s]*")
_USERINFO: Final = re.compile(r"(//[^/?#@\s:]*):[^/?#@\s]*@")
_CARRIER: Final = re.compile(
    r"(wsbridge\.token\.|(?:authorization\.bearer|bearer\.authorization\.k8s\.io)\.)[^\s,;\"']+", re.IGNORECASE
)


class Kind(enum.Enum):
    """What a key says of its value."""

    PLAIN = enum.auto()
    URL = enum.auto()
    """A request target, a URL or a query as a whole."""
    SECRET = enum.auto()
    """Hidden whatever it is."""


@lru_cache(maxsize=1024)
def kind_of(key: str) -> Kind:
    """What the key of a record, or of a mapping in it, says of its value."""
    name = key.lower().replace("-", "_")
    if name in _SECRET_KEYS or name.endswith(_SECRET_KEY_ENDS):
        return Kind.SECRET
    return Kind.URL if name in _URL_KEYS else Kind.PLAIN


def redact(text: str, *, url: bool = False) -> str:
    """`text` without the secrets that query parameters, URL users and subprotocols carry.

    Args:
        text: Any text, from a peer or not.
        url: The text is a target, URL or query as a whole, so that its very beginning may be a parameter.
    """
    if "=" in text:
        text = _redact_query(text, url=url, decode=True)
    if "@" in text:
        text = _USERINFO.sub(rf"\1:{HIDDEN}@", text)
    if "." in text:
        low = text.lower()
        if "token." in low or "bearer" in low:
            text = _CARRIER.sub(rf"\1{HIDDEN}", text)
    return text


def _redact_query(text: str, *, url: bool, decode: bool) -> str:
    parts: list[str] = []
    done = 0
    while found := _NAME.search(text, done):
        before, name = found.groups()
        start = found.end()
        parts.append(text[done:start])
        done = start
        if not before and not url:
            continue
        if _is_secret_name(name) or (decode and _holds_secret(_at(_FIRST, text, start))):
            parts.append(HIDDEN)
            done += len(_at(_VALUE, text, start))
    return "".join(parts) + text[done:]


def _at(pattern: re.Pattern[str], text: str, start: int) -> str:
    found = pattern.match(text, start)
    return found[0] if found else ""


def _is_secret_name(name: str) -> bool:
    plain = unquote(name).lower().replace("-", "_").strip("[]_ ")
    if plain in _SECRET_NAMES or plain.endswith(("key", "_sig", "_code", "_sid")):
        return True
    plain = plain.replace("_", "")
    return any(word in plain for word in _SECRET_WORDS)


def _holds_secret(value: str) -> bool:
    """Whether a percent-encoded value, decoded, is a target with a secret of its own (noVNC's `path=` is one)."""
    for _ in range(3):
        if "%" not in value:
            return False
        value = unquote(value)
        if _redact_query(value, url=False, decode=False) != value:
            return True
    return False
