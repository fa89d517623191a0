"""The terminal of `top`: draws its lines and reads keys, with curses."""

from __future__ import annotations

import contextlib
import curses
import locale
import os
import queue
import signal
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Final, NoReturn

from wsbridge.top.poller import Message, Poller, Unreachable
from wsbridge.top.view import CloseRequest, Line, Style, View

KEY_WAIT_MS: Final = 100
"""Milliseconds to wait for a key before answers of the daemon are looked at."""
ESCAPE_WAIT_MS: Final = 50
"""Milliseconds after an ESC in which the rest of a function key must have come."""

_KEYS: Final[Mapping[int, str]] = {
    curses.KEY_UP: "UP",
    curses.KEY_DOWN: "DOWN",
    curses.KEY_LEFT: "LEFT",
    curses.KEY_RIGHT: "RIGHT",
    curses.KEY_PPAGE: "PGUP",
    curses.KEY_NPAGE: "PGDN",
    curses.KEY_HOME: "HOME",
    curses.KEY_END: "END",
    curses.KEY_ENTER: "ENTER",
    curses.KEY_BACKSPACE: "BACKSPACE",
    curses.KEY_DC: "x",
    curses.KEY_BTAB: "BACKTAB",
}
_CHARACTERS: Final = {"\n": "ENTER", "\r": "ENTER", "\t": "TAB", "\x1b": "ESC", "\x7f": "BACKSPACE", "\b": "BACKSPACE"}


def has_screen(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether standard input and output are a terminal on which a screen can be drawn."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        curses.setupterm()
        return bool(curses.tigetstr("cup")) and bool(curses.tigetstr("clear"))
    except curses.error:  # terminfo lacks this terminal
        return False


def terminal_encoding() -> str:
    """Return the character encoding of the locale, which curses writes with."""
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "")
    return locale.nl_langinfo(locale.CODESET) or "ascii"


def run_screen(view: View, poller: Poller) -> None:
    """Show the screen until the user quits.

    The terminal is restored whatever happens, after SIGTERM and SIGHUP with the exit code 128 and the signal's number;
    curses itself does so while the process is stopped (SIGTSTP).

    Args:
        view: What is shown.
        poller: Started.
    """
    for name in ("LINES", "COLUMNS"):  # curses would not notice a change of the size
        os.environ.pop(name, None)
    with _exit_on_signals(), contextlib.suppress(KeyboardInterrupt):
        curses.wrapper(lambda screen: _Screen(screen, view, poller).run())


@contextlib.contextmanager
def _exit_on_signals() -> Iterator[None]:
    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Screen:
    """The screen while it is shown."""

    def __init__(self, screen: curses.window, view: View, poller: Poller) -> None:
        self._screen = screen
        self._view = view
        self._poller = poller
        self._styles = _styles()

    def run(self) -> None:
        """Draw and handle keys until the user quits."""
        curses.set_escdelay(ESCAPE_WAIT_MS)
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
        self._screen.timeout(KEY_WAIT_MS)
        changed = True
        while True:
            if changed:
                self._draw()
            key = self._read_key()
            if key is not None:
                action = self._view.press(key)
                if action == "quit":
                    return
                if isinstance(action, CloseRequest):
                    self._poller.close(action.id)
                self._poller.is_paused = self._view.is_paused
            changed = self._take_results() or key is not None

    def _take_results(self) -> bool:
        """Show what the poller has; return whether there was anything."""
        found = False
        with contextlib.suppress(queue.Empty):
            while True:
                result = self._poller.results.get_nowait()
                found = True
                if isinstance(result, Unreachable):
                    self._view.show_problem(result.text)
                elif isinstance(result, Message):
                    self._view.message = result.text
                else:
                    self._view.update(result)
        return found

    def _read_key(self) -> str | None:
        """Return the next key, by the names of `View.press`; None if there was none in time."""
        try:
            key = self._screen.get_wch()
        except curses.error:
            return None
        if isinstance(key, int):
            return _KEYS.get(key, "RESIZE")  # another key only redraws
        return _CHARACTERS.get(key, key)

    def _draw(self) -> None:
        height, width = self._screen.getmaxyx()
        self._screen.erase()
        for row, line in enumerate(self._view.lines(width, height)):
            self._draw_line(row, line)
        self._screen.refresh()

    def _draw_line(self, row: int, line: Line) -> None:
        column = 0
        for text, style in line:
            with contextlib.suppress(
                curses.error
            ):  # after the last cell of the screen there is no place for the cursor
                self._screen.addstr(row, column, text, self._styles[style])
            column = self._screen.getyx()[1]


def _styles() -> dict[Style, int]:
    """Return the attributes of the styles, with colours where the terminal has them and NO_COLOR is not set."""
    colours = {"good": 0, "warning": curses.A_BOLD, "bad": curses.A_BOLD | curses.A_REVERSE}
    if curses.has_colors() and not os.environ.get("NO_COLOR"):
        with contextlib.suppress(curses.error):
            curses.use_default_colors()
            for number, (name, colour) in enumerate(_COLOURS.items(), 1):
                curses.init_pair(number, colour, -1)
                colours[name] = curses.color_pair(number)
    return {
        "": curses.A_NORMAL,
        "bold": curses.A_BOLD,
        "dim": curses.A_DIM,
        "good": colours["good"] | curses.A_BOLD,
        "warning": colours["warning"],
        "bad": colours["bad"] | curses.A_BOLD,
        "selected": curses.A_REVERSE,
        "heading": curses.A_UNDERLINE,
        "sorted": curses.A_UNDERLINE | curses.A_BOLD,
    }


_COLOURS: Final = {"good": curses.COLOR_GREEN, "warning": curses.COLOR_YELLOW, "bad": curses.COLOR_RED}
