"""Paths and hosts of requests in their normal form, and the patterns that match them."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from wsbridge.protocol.ip import ip_text

_PATH_CHARS: Final = "A-Za-z0-9._~!$&'()*+,;=:@/-"
_PLAIN_PATH: Final = re.compile(rf"/[{_PATH_CHARS}]*")
"""A path without escapes, which is its own normal form unless a segment of it is empty or made of dots."""
_NOT_IN_PATH: Final = re.compile(rf"%(?![0-9A-Fa-f]{{2}})|[^%{_PATH_CHARS}]")
_SUSPICIOUS: Final = re.compile(r"//|/\.")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_SLASHES: Final = re.compile(r"//+")
_DANGEROUS: Final = re.compile(r"%(?:2F|5C|00)|/\.\.?(?:[/;]|\Z)")
_RAW_IN_SEGMENT: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@")
"""Characters that may appear in a segment as they are: pchar of RFC 3986 section 3.3, but for escapes."""
_PATTERN_CHARS = re.compile(r"/[!-~]*")
_NAMED_SEGMENT = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,31})\}")
_RESERVED_NAMES = frozenset({"identity", "target"})
"""Names with a special meaning where a target is chosen."""
_LABEL = "[A-Za-z0-9_~-]+"
_HOST_LABEL = re.compile(_LABEL)
_HOST = re.compile(rf"(?:\[([0-9A-Fa-f:.]{{2,45}})\]|((?:{_LABEL}\.)*{_LABEL})\.?)(?::([0-9]{{0,5}}))?")
_MAX_HOST_CHARS = 255 + len(".:65535")


def normalise_path(path: str) -> str:
    """Return the one form of a request's path that everything else uses: matching, files, templates, logs.

    Escapes of characters that may appear in a segment as they are (RFC 3986 section 3.3) are decoded, once; all others
    stay, their digits in capitals (sections 6.2.2.1 and 6.2.2.2). Then empty segments are merged into their neighbours.
    Nothing decodes the result a second time to match it, so `%2561` is never `a`.

    Args:
        path: What is before the `?` of an origin-form target.

    Raises:
        ValueError: Other programs could read the path in another way: it has a character that may not appear in a
            path, a `.` or `..` segment, also with parameters (`..;a`, which Java servers remove), or an escaped slash,
            backslash or NUL.
    """
    if _PLAIN_PATH.fullmatch(path) and not _SUSPICIOUS.search(path):
        return path
    if not path.startswith("/"):
        raise ValueError("the target does not begin with a slash")
    wrong = _NOT_IN_PATH.search(path)
    if wrong is not None:
        raise ValueError(_describe_character(wrong.group()))
    path = _SLASHES.sub("/", _ESCAPE.sub(_normalise_escape, path))
    found = _DANGEROUS.search(path)
    if found is None:
        return path
    if found.group().startswith("%"):
        raise ValueError(f"the path has {found.group()}, an encoded slash, backslash or NUL")
    raise ValueError("the path has a . or .. segment")


def _normalise_escape(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if character in _RAW_IN_SEGMENT else found[0].upper()


def _describe_character(character: str) -> str:
    if character == "%":
        return "the path has a % that is not followed by two hexadecimal digits"
    if character == "\\":
        return "the path has a backslash"
    return f"the path has the byte 0x{ord(character):02x}, which must be percent-encoded there"


def normalise_target(target: str) -> str:
    """Return an origin-form target with its path in normal form and its query as it is.

    Raises:
        ValueError: See `normalise_path`.
    """
    path, mark, query = target.partition("?")
    return normalise_path(path) + mark + query


class PatternPart(Enum):
    """A placeholder in a pattern for segments of a path or labels of a host."""

    ANY = "{}"
    """One that is not empty."""
    REST = "*"
    """One or more, to the end."""


def path_segments(path: str) -> list[str]:
    """Split a path in normal form; what is no path, such as `*`, has no segments."""
    return path.split("/")[1:] if path.startswith("/") else []


def host_labels(host: str) -> list[str]:
    """Split a host in normal form, the top-level domain first."""
    return host.split(".")[::-1]


class PathPattern:
    """A route's path: `/x` matches exactly, `/x/*` matches `/x/` and all below it (not `/x`), `/*` matches all.

    A segment `{name}` matches any one segment that is not empty.

    Args:
        text: The pattern as written; it is brought into the normal form of paths.

    Attributes:
        text: The pattern in normal form.
        parameter_names: The names of its named segments, in their order.

    Raises:
        ValueError: The text is no such pattern; the message says why.
    """

    __slots__ = ("_prefix", "_regex", "parameter_names", "text")

    def __init__(self, text: str) -> None:
        stem = text.removesuffix("/*") + "/" if text.endswith("/*") else text
        if not _PATTERN_CHARS.fullmatch(stem):
            raise ValueError(f"a path begins with a slash and is printable ASCII without spaces, not {text!a}")
        if "*" in stem:
            raise ValueError(f"a star may only be the last segment of a path (/x/*), not as in {text!a}")
        if "?" in stem or "#" in stem:
            raise ValueError(f"a path is matched without query and fragment, so {text!a} would never match")
        self.parameter_names = _parameter_names(stem, text)
        stem = _normalise_pattern(stem, text)
        open_ended = text.endswith("/*")
        self.text = stem + "*" if open_ended else stem
        self._prefix = stem if open_ended else None
        self._regex = _compile_pattern(stem, open_ended=open_ended) if self.parameter_names else None

    def matches(self, path: str) -> bool:
        """Return whether a path in normal form (see `normalise_path`) matches; letters match in their own case only."""
        if self._regex is not None:
            return self._regex.fullmatch(path) is not None
        return path == self.text if self._prefix is None else path.startswith(self._prefix)

    def path_parameters(self, path: str) -> dict[str, str]:
        """Return what a matching path in normal form has in its named segments, still percent-encoded."""
        found = None if self._regex is None else self._regex.fullmatch(path)
        return {} if found is None else dict(zip(self.parameter_names, found.groups(), strict=True))

    @property
    def parts(self) -> tuple[str | PatternPart, ...]:
        """Its segments."""
        *segments, last = path_segments(self.text)
        return (*map(_pattern_part, segments), PatternPart.REST if last == "*" else _pattern_part(last))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PathPattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"PathPattern({self.text!r})"


def _pattern_part(segment: str) -> str | PatternPart:
    return PatternPart.ANY if _NAMED_SEGMENT.fullmatch(segment) else segment


def _normalise_pattern(stem: str, text: str) -> str:
    """Bring a pattern without its star into the form that the paths of requests have.

    Raises:
        ValueError: No request has such a path.
    """
    segments = stem.split("/")
    plain = "/".join("" if _NAMED_SEGMENT.fullmatch(segment) else segment for segment in segments)
    wrong = _NOT_IN_PATH.search(plain)
    if wrong is not None:
        raise ValueError(f"{text!a} would never match: {_describe_character(wrong.group())}")
    parts = [s if _NAMED_SEGMENT.fullmatch(s) else _ESCAPE.sub(_normalise_escape, s) for s in segments]
    stem = "/".join(parts)
    if "//" in stem:
        raise ValueError(f"{text!a} would never match: empty segments are merged in the paths of requests")
    if "*" in stem:
        raise ValueError(f"an escaped star cannot be matched, as in {text!a}")
    if (found := _DANGEROUS.search(stem)) is not None:
        what = found.group() if found.group().startswith("%") else "a . or .. segment"
        raise ValueError(f"{text!a} would never match: requests whose path has {what} are rejected")
    return stem


def _parameter_names(stem: str, text: str) -> tuple[str, ...]:
    """Find the named segments of a pattern.

    Raises:
        ValueError: A brace is misplaced, or a name appears twice.
    """
    names: list[str] = []
    for segment in stem.split("/"):
        if "{" not in segment and "}" not in segment:
            continue
        found = _NAMED_SEGMENT.fullmatch(segment)
        if found is None:
            raise ValueError(
                f"braces enclose the name of a whole segment (/x/{{name}}), of letters, digits and _, "
                f"not as in {text!a}"
            )
        if found[1] in _RESERVED_NAMES:
            raise ValueError(f"a segment cannot have the name {found[1]!a}, which has a meaning of its own")
        if found[1] in names:
            raise ValueError(f"the name {found[1]!a} appears twice in {text!a}")
        names.append(found[1])
    return tuple(names)


def _compile_pattern(stem: str, *, open_ended: bool) -> re.Pattern[str]:
    """Make an expression of a pattern with named segments."""
    parts = ["([^/]+)" if _NAMED_SEGMENT.fullmatch(segment) else re.escape(segment) for segment in stem.split("/")]
    return re.compile("/".join(parts) + ("(?s:.*)" if open_ended else ""))


@lru_cache(maxsize=1024)
def split_host(host_header: str) -> tuple[str, int | None] | None:
    """Split a Host header, or the authority of an origin, into host and port.

    Args:
        host_header: `name`, `name:port`, `192.0.2.1:80`, `[2001:db8::1]:443`; RFC 9110 section 7.2.

    Returns:
        The host (lower case, no trailing dot, IPv6 in its short form within brackets) and the port or None, or None
        if it is not a valid authority. User information is not valid.
    """
    if len(host_header) > _MAX_HOST_CHARS:
        return None
    found = _HOST.fullmatch(host_header)
    if found is None:
        return None
    literal, name, digits = found.groups()
    port = int(digits) if digits else None
    if port is not None and port > 65535:
        return None
    if literal is None:
        return name.lower(), port
    try:
        return f"[{ip_text(IPv6Address(literal))}]", port
    except AddressValueError:
        return None


def normalise_host(host_header: str) -> str | None:
    """Return the form in which hosts are compared: see `split_host`; None if the header is not valid."""
    parts = split_host(host_header)
    return None if parts is None else parts[0]


class HostPatterns:
    """Hosts by name: `gw.example.org` exactly, `*.example.org` any name below it at any depth, not the name itself.

    `{name}.example.org` matches any one label in place of `{name}`.

    Args:
        texts: Hosts, `*.` and a host name, or host names with named labels before the last one.

    Attributes:
        texts: As given.
        parameter_names: Names that each of the hosts has among its labels.

    Raises:
        ValueError: A text is none of these; the message says why.
    """

    __slots__ = ("_exact", "_regexes", "_suffixes", "parameter_names", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(texts)
        exact, suffixes, regexes = set(), [], []
        names: list[tuple[str, ...]] = []
        for text in self.texts:
            names.append(())
            if "{" in text or "}" in text:
                regexes.append(_compile_host_pattern(text))
                names[-1] = tuple(regexes[-1].groupindex)
                continue
            name = text.removeprefix("*.")
            host = normalise_host(name)
            if host is None or (name != text and _is_address(host)):
                raise ValueError(f"{text!a} is neither a host nor *. and a host name")
            if name == text:
                exact.add(host)
            else:
                suffixes.append("." + host)
        self._exact = frozenset(exact)
        self._suffixes = tuple(suffixes)
        self._regexes = tuple(regexes)
        self.parameter_names = tuple(name for name in (names or [()])[0] if all(name in others for others in names))

    def matches(self, host: str) -> bool:
        """Return whether a host (see `normalise_host`) is one of these."""
        if host in self._exact or (bool(self._suffixes) and host.endswith(self._suffixes)):
            return True
        return any(regex.fullmatch(host) for regex in self._regexes)

    def parameters(self, host: str) -> dict[str, str]:
        """Return what a matching host has in place of the named labels of the first pattern that it matches."""
        for regex in self._regexes:
            if (found := regex.fullmatch(host)) is not None:
                return found.groupdict()
        return {}

    @property
    def parts(self) -> tuple[tuple[str | PatternPart, ...], ...]:
        """The labels of each host, the top-level domain first."""
        return tuple(map(_host_parts, self.texts))

    def __bool__(self) -> bool:
        return bool(self.texts)


def _host_parts(text: str) -> tuple[str | PatternPart, ...]:
    if "{" in text:
        return tuple(
            PatternPart.ANY if _NAMED_SEGMENT.fullmatch(label) else label.lower() for label in host_labels(text)
        )
    labels = host_labels(normalise_host(text.removeprefix("*.")) or "")
    return (*labels, PatternPart.REST) if text.startswith("*.") else tuple(labels)


def _compile_host_pattern(text: str) -> re.Pattern[str]:
    """Make an expression of a host name with named labels.

    Raises:
        ValueError: It is none.
    """
    parts, names = [], set()
    for label in (labels := text.split(".")):
        named = _NAMED_SEGMENT.fullmatch(label)
        if named is None and not _HOST_LABEL.fullmatch(label):
            raise ValueError(
                f"{text!a}: braces enclose the name of a whole label, of letters, digits and _, as in "
                "{tenant}.example.org"
            )
        if named is not None and (named[1] in _RESERVED_NAMES or named[1] in names):
            what = "has a meaning of its own" if named[1] in _RESERVED_NAMES else "appears twice"
            raise ValueError(f"{text!a}: the name {named[1]!a} {what}")
        if named is not None:
            names.add(named[1])
        parts.append(re.escape(label.lower()) if named is None else f"(?P<{named[1]}>{_LABEL})")
    if _NAMED_SEGMENT.fullmatch(labels[-1]) or labels[-1].isdigit():
        raise ValueError(f"{text!a}: named labels come before a domain, as in {{tenant}}.example.org")
    return re.compile(r"\.".join(parts))


def is_safe_from_rebinding(host: str, names: HostPatterns) -> bool:
    """Return whether a request to a listener without TLS may name this host, against DNS rebinding.

    A page of evil.example can have its own name resolve to the listener's address and then passes every same-origin
    rule, but its requests still name evil.example. IP addresses and localhost cannot be taken over that way.

    Args:
        host: The host of the Host header (see `normalise_host`).
        names: Further names by which the listener is reached.
    """
    return _is_safe_name(host) or names.matches(host)


@lru_cache(maxsize=1024)
def _is_safe_name(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost") or _is_address(host)


def _is_address(host: str) -> bool:
    if host.startswith("["):
        return True
    try:
        IPv4Address(host)
    except AddressValueError:
        return False
    return True


def encode_base64url(data: bytes) -> str:
    """Encode bytes as base64url without padding (RFC 4648 section 5), as JWTs, tickets and subprotocols have it."""
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")


def decode_base64url(text: str) -> bytes:
    """Decode a text in its canonical form, so that each value has exactly one encoding.

    Raises:
        ValueError: The text is not base64url, has padding, or has unused bits that are not zero.
    """
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(data) != text:
        raise ValueError("not base64url without padding")
    return data
