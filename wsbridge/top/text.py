"""Values as text for a terminal: sizes, durations, and what clients sent, without control codes."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from wsbridge.log.format import escape

NO_VALUE = "-"
"""Shown for a value that the daemon did not give."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(count: float | None) -> str:
    """Return a number of bytes in at most 8 characters: `1.5 MiB`."""
    if count is None:
        return NO_VALUE
    unit = 0
    while round(count) >= 1000 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.1f} {_UNITS[unit]}" if unit and count < 99.95 else f"{count:.0f} {_UNITS[unit]}"


def age_text(seconds: float | None) -> str:
    """Return a duration in at most 6 characters: `45s`, `12m05s`, `3h20m`, `12d04h`."""
    if seconds is None:
        return NO_VALUE
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    days, hours = whole // 86400, whole // 3600 % 24
    return f"{days}d{hours:02}h" if days < 100 else f"{days}d"


def short_time_text(seconds: float | None) -> str:
    """Return a time below some seconds with the digits that matter: `0.4 ms`, `12 ms`, `1.2 s`."""
    if seconds is None:
        return NO_VALUE
    if seconds >= 0.9995:
        return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:.0f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.00995 else f"{seconds * 1000:.0f} ms"


def terminal_text(value: object, encoding: str = "utf-8") -> str:
    """Return any value as text that a terminal shows and does not obey.

    What is not printable becomes a backslash escape as in the log, and so does what has no width of its own, which
    would change the character before it, and what the terminal's encoding lacks.

    Args:
        value: From a client or not; a list becomes its items with commas, a mapping its keys with their values.
        encoding: Of the terminal.
    """
    if value is None:
        return NO_VALUE
    if isinstance(value, list):
        return ",".join(terminal_text(item, encoding) for item in value)
    if isinstance(value, dict):
        return ", ".join(
            f"{terminal_text(key, encoding)} {terminal_text(item, encoding)}" for key, item in value.items()
        )
    text = escape(str(value))
    if text.isascii():
        return text
    text = "".join(one if cell_len(one) else one.encode("ascii", "backslashreplace").decode() for one in text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def fit(text: str, width: int, *, right: bool = False, ellipsis: str = "") -> str:
    """Return text of exactly that many cells: padded, or cut.

    Args:
        text: Of `terminal_text`.
        width: In cells of the terminal; some characters have two.
        right: Whether to align it at the right.
        ellipsis: At most one cell.
    """
    if width <= 0:
        return ""
    wide = cell_len(text)
    if wide > width:
        return set_cell_size(text, width - len(ellipsis)) + ellipsis
    return " " * (width - wide) + text if right else text + " " * (width - wide)
