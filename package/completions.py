"""The completion scripts of the shells, under the names by which these find them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from click.shell_completion import ShellComplete, get_completion_class

from wsbridge.cli.main import cli
from wsbridge.cli.tools import COMPLETION_VARIABLE

FILES: Final = {
    "bash": "bash-completion/completions/wsbridge",
    "zsh": "zsh/site-functions/_wsbridge",
    "fish": "fish/vendor_completions.d/wsbridge.fish",
}
"""Where each shell looks for its script, below the `share` of a prefix."""


def write_completions(share: Path) -> None:
    """Write the script of each shell.

    Args:
        share: The directory in place of `share` of a prefix; it is created if it is missing.
    """
    for shell, name in FILES.items():
        found = get_completion_class(shell)
        assert found is not None  # (click has these three)
        completion = found(cli, {}, "wsbridge", COMPLETION_VARIABLE)
        (share / name).parent.mkdir(parents=True, exist_ok=True)
        # That of the base class: the one for bash fails where bash is older than what will run the script.
        (share / name).write_text(f"{ShellComplete.source(completion).strip()}\n")
