"""`wsbridge completion`: what a shell needs to complete commands and options.

Lives here: printing click's script. Must not live here: the completing, which is click's.
"""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from wsbridge.cli.status import UNAVAILABLE, Failure
from wsbridge.cli.teaching import Teaching

VARIABLE: Final = "_WSBRIDGE_COMPLETE"
"""By which the script asks the program; click derives it from the program's name."""


@click.command("completion", cls=Teaching)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a script by which a shell completes commands.

    For bash, in ~/.bashrc:       eval "$(wsbridge completion bash)"
    For zsh, in ~/.zshrc:         eval "$(wsbridge completion zsh)"
    For fish:                     wsbridge completion fish > ~/.config/fish/completions/wsbridge.fish
    """
    completion = get_completion_class(shell)
    assert completion is not None  # noqa: S101 (click knows these three)
    try:
        script = completion(ctx.find_root().command, {}, "wsbridge", VARIABLE).source()
    except RuntimeError as error:
        raise Failure(f"completion: {error}", UNAVAILABLE) from None
    click.echo(script)
