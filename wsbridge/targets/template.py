"""Templates filled: from the fields of one client to a target.

Lives here: what a value may be in each place of a URL. Must not live here: how templates are written
(`config.template`), where values come from (`request`), whether the target may be dialled (`allowed`). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

from wsbridge.config.address import LONGEST_UNIX_PATH, Scheme, Target
from wsbridge.config.template import FIELD, Template
from wsbridge.protocol.target import check_target
from wsbridge.targets.host_port import read_host, read_port

LONGEST_PATH: Final = 4096
"""Characters of the path and query that a ws or wss backend is asked for."""

_LABEL: Final = re.compile(r"[A-Za-z0-9_-]+")
_DIGITS: Final = re.compile(r"[0-9]+")


def fill(template: Template, values: Mapping[str, str]) -> Target:
    """Make a target.

    Args:
        template: Its fields are all among the values.
        values: Of one client, decoded; nothing is known of them.

    Raises:
        ValueError: A value cannot stand where its field does; one sentence for the log that does not quote it.
    """
    if template.scheme == "unix":
        return at_path(_put(template.path, values, _file_name))
    host = read_host(_put(template.host, values, _host_part))
    port = read_port(_put(template.port_text, values, _digits))
    path = _put(template.path, values, _escaped)
    if path and (wrong := check_target(path)) is not None:
        raise ValueError(wrong)
    if len(path) > LONGEST_PATH:
        raise ValueError(f"path and query have {len(path)} characters, and {LONGEST_PATH} are the most")
    return at_host(template.scheme, host, port, path)


def at_host(scheme: Scheme, host: str, port: int, path: str = "") -> Target:
    """Give the target that a host (as `read_host` gives it), a port and a path make."""
    written = f"[{host}]" if ":" in host else host
    return Target(scheme, host, port, path, f"{scheme}://{written}:{port}{path}")


def at_path(path: str) -> Target:
    """Give the target that the path of a Unix socket makes.

    Raises:
        ValueError: No socket can be there.
    """
    if not path.startswith("/") or not path.isprintable() or any(part in (".", "..") for part in path.split("/")):
        raise ValueError("the path of the socket is not a plain one from the root")
    if len(path.encode("utf-8", "surrogateescape")) > LONGEST_UNIX_PATH:
        raise ValueError(f"the path of the socket has more than {LONGEST_UNIX_PATH} bytes")
    return Target("unix", "", 0, path, f"unix:{path}")


def _put(text: str, values: Mapping[str, str], part: Callable[[str, bool], str]) -> str:
    """Put values in place of fields, each as `part` gives it, which is told whether the field stands alone."""
    alone = FIELD.fullmatch(text) is not None
    return FIELD.sub(lambda found: part(values[found[1]], alone), text)


def _host_part(value: str, alone: bool) -> str:
    if not alone and not _LABEL.fullmatch(value):
        raise ValueError("what is put into the host is not letters, digits, - and _")
    return value


def _digits(value: str, alone: bool) -> str:
    if not _DIGITS.fullmatch(value):
        raise ValueError("what is put into the port is not digits")
    return value


def _escaped(value: str, alone: bool) -> str:
    if value in (".", ".."):
        raise ValueError("what is put into the path is . or ..")
    return quote(value, safe="")


def _file_name(value: str, alone: bool) -> str:
    if "/" in value or value in (".", ".."):
        raise ValueError("what is put into the path of the socket is not the name of one file")
    return value
