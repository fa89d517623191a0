"""Cookies: what a request's Cookie header says, by RFC 6265.

Lives here: taking the header apart. Must not live here: what any cookie means.
"""

from __future__ import annotations

from wsbridge.protocol.head import Headers


def cookies_named(headers: Headers, name: str) -> list[bytes]:
    """Give all values that a request has for one cookie, in linear time.

    A pair without `=` is not a cookie of that name. Quotes around a value, which RFC 6265 section 4.1.1 lets servers
    put there, are not part of it.

    Args:
        headers: Of the request; several Cookie lines, which HTTP/2 allows and proxies may leave, count as one.
        name: Compared with its case.

    Returns:
        One value for each time the cookie stands there; a browser with one cookie of that name sends it once.
    """
    wanted = name.encode("ascii")
    found: list[bytes] = []
    for line in headers.get_all(b"cookie"):
        for pair in line.split(b";"):
            key, equals, value = pair.partition(b"=")
            if equals and key.strip(b" \t") == wanted:
                value = value.strip(b" \t")
                quoted = len(value) >= 2 and value[:1] == value[-1:] == b'"'
                found.append(value[1:-1] if quoted else value)
    return found
