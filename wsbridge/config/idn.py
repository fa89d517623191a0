"""International names: a host as people write it becomes the form that browsers send.

Lives here: the conversion by IDNA 2008 with the mappings of UTS 46, as browsers do it. Must not live here: what a host
or an origin is (`address`). Requests carry ASCII alone; nothing of theirs is converted.
"""

from __future__ import annotations

import idna


def ascii_authority(authority: str) -> str:
    """Give `host` or `host:port` with the host in its ASCII form; what is ASCII already stays as it is.

    Raises:
        ValueError: The name is none that a browser could open.
    """
    if authority.isascii():
        return authority
    host, colon, port = authority.partition(":")
    try:
        name = idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f'"{host}" is no name of a host: {str(error).rstrip(".")}') from None
    return f"{name}{colon}{port}"
