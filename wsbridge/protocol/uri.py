"""Request-target rules, PathPattern, Host normalisation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

_DANGEROUS = re.compile(r"//|\\|%(?:2[eEfF]|5[cC]|00)|/\.\.?(?:/|\Z)")
_PATTERN_CHARS = re.compile(r"/[!-~]*")
_NAMED_SEGMENT = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,31})\}")
_RESERVED_NAMES = frozenset({"identity", "target"})
"""Names that stand for something else where a target is chosen."""
_LABEL = "[A-Za-z0-9_~-]+"
_HOST = re.compile(rf"(?:\[([0-9A-Fa-f:.]{{2,45}})\]|((?:{_LABEL}\.)*{_LABEL})\.?)(?::([0-9]{{0,5}}))?")
_MAX_HOST_CHARS = 255 + len(".:65535")


def check_target(target: str) -> str | None:
    """Find what makes a target unsafe to match or to map to a file.

    Only the part before `?` is judged. Nothing is decoded or repaired: a path that another program could read in two
    ways is refused instead (RFC 3986 section 6 would allow to normalise it, and programs disagree on how).

    Args:
        target: The origin-form target of a request line, already known to be printable ASCII.

    Returns:
        One sentence that says what is wrong, or None.
    """
    path = target.partition("?")[0]
    if not path.startswith("/"):
        return "the target does not begin with a slash"
    found = _DANGEROUS.search(path)
    if found is None:
        return None
    what = found.group()
    if what == "//":
        return "the path has an empty segment (//)"
    if what == "\\":
        return "the path has a backslash"
    if what.startswith("%"):
        return f"the path has {what}, an encoded dot, slash, backslash or NUL"
    return "the path has a . or .. segment"


class PathPattern:
    """A route's path: `/x` takes exactly that, `/x/*` takes `/x/` and all below it (not `/x`), `/*` takes all.

    A segment `{name}` takes any one segment that is not empty.

    Args:
        text: The pattern as written.

    Attributes:
        parameter_names: The names of its segments, in their order.

    Raises:
        ValueError: The text is no such pattern; the message says why.
    """

    __slots__ = ("_prefix", "_regex", "parameter_names", "text")

    def __init__(self, text: str) -> None:
        stem = text.removesuffix("/*") + "/" if text.endswith("/*") else text
        if not _PATTERN_CHARS.fullmatch(stem):
            raise ValueError(f"a path begins with a slash and is printable ASCII without blanks, not {text!a}")
        if "*" in stem:
            raise ValueError(f"a star may only be the last segment of a path (/x/*), not as in {text!a}")
        if "?" in stem or "#" in stem:
            raise ValueError(f"a path is matched without query and fragment, so {text!a} would never match")
        if (wrong := check_target(stem)) is not None:
            raise ValueError(f"{text!a} would never match: {wrong}, and such requests are refused")
        self.text = text
        self._prefix = stem if stem is not text else None
        self.parameter_names = _parameter_names(stem, text)
        self._regex = _compile_pattern(stem, open_ended=stem is not text) if self.parameter_names else None

    def matches(self, path: str) -> bool:
        """Say whether a path (the target before `?`, as sent, case-sensitive) is one of these."""
        if self._regex is not None:
            return self._regex.fullmatch(path) is not None
        return path == self.text if self._prefix is None else path.startswith(self._prefix)

    def path_parameters(self, path: str) -> dict[str, str]:
        """Give what a path that matches has in its named segments, as sent: nothing is decoded."""
        found = None if self._regex is None else self._regex.fullmatch(path)
        return {} if found is None else dict(zip(self.parameter_names, found.groups(), strict=True))

    def covers(self, other: PathPattern) -> bool:
        """Say whether it takes every path that another pattern takes; in doubt it says no."""
        mine, theirs = self.text.split("/")[1:], other.text.split("/")[1:]
        if mine[-1] == "*":
            del mine[-1]
            if len(theirs) <= len(mine):
                return False
        elif len(theirs) != len(mine) or theirs[-1] == "*":
            return False
        return all(
            one == its or (_NAMED_SEGMENT.fullmatch(one) is not None and its not in ("", "*"))
            for one, its in zip(mine, theirs, strict=False)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PathPattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"PathPattern({self.text!r})"


def _parameter_names(stem: str, text: str) -> tuple[str, ...]:
    """Find the named segments of a pattern.

    Raises:
        ValueError: A brace stands where none may, or a name twice.
    """
    names: list[str] = []
    for segment in stem.split("/"):
        if "{" not in segment and "}" not in segment:
            continue
        found = _NAMED_SEGMENT.fullmatch(segment)
        if found is None:
            raise ValueError(
                f"braces stand around the name of a whole segment (/x/{{name}}), of letters, digits and _, "
                f"not as in {text!a}"
            )
        if found[1] in _RESERVED_NAMES:
            raise ValueError(f"a segment cannot have the name {found[1]!a}, which has a meaning of its own")
        if found[1] in names:
            raise ValueError(f"the name {found[1]!a} stands twice in {text!a}")
        names.append(found[1])
    return tuple(names)


def _compile_pattern(stem: str, *, open_ended: bool) -> re.Pattern[str]:
    """Make an expression of a pattern with named segments."""
    parts = ["([^/]+)" if _NAMED_SEGMENT.fullmatch(segment) else re.escape(segment) for segment in stem.split("/")]
    return re.compile("/".join(parts) + ("(?s:.*)" if open_ended else ""))


@lru_cache(maxsize=1024)
def split_host(host_header: str) -> tuple[str, int | None] | None:
    """Take a Host header (or an origin's authority) apart.

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
        return f"[{_compress_ipv6(IPv6Address(literal))}]", port
    except AddressValueError:
        return None


def _compress_ipv6(address: IPv6Address) -> str:
    """Write an address as RFC 5952 does, an embedded IPv4 address too, which `ipaddress` does from Python 3.13 on."""
    return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else address.compressed


def normalise_host(host_header: str) -> str | None:
    """Give the form in which hosts are compared: see `split_host`; None if the header is not valid."""
    parts = split_host(host_header)
    return None if parts is None else parts[0]


def is_loopback_host_allowed(host_header: str, route_hosts: Sequence[str]) -> bool:
    """Say whether a request on a loopback listener may carry this Host, against DNS rebinding.

    A page of evil.example can have its own name resolve to 127.0.0.1 and then passes every same-origin rule, but its
    requests still carry Host evil.example. Addresses and localhost cannot be taken over so.

    Args:
        host_header: The Host header as sent.
        route_hosts: The hosts that the route names itself.
    """
    host = normalise_host(host_header)
    if host is None:
        return False
    if any(host == normalise_host(name) for name in route_hosts):
        return True
    return _is_safe_from_rebinding(host)


@lru_cache(maxsize=1024)
def _is_safe_from_rebinding(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost") or host.startswith("["):
        return True
    try:
        IPv4Address(host)
    except AddressValueError:
        return False
    return True
