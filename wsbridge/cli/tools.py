"""`wsbridge schema` and `completion`."""

from __future__ import annotations

import json
from typing import Final

import click
from click.shell_completion import get_completion_class

from wsbridge.cli.main import EXIT_UNAVAILABLE, CliError, PreformattedCommand
from wsbridge.config.schema import json_schema
from wsbridge.registry import CONFIG_REGISTRY

COMPLETION_VARIABLE: Final = "_WSBRIDGE_COMPLETE"
"""Environment variable by which the script calls the program; click derives it from the program's name."""


@click.command("completion", cls=PreformattedCommand)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print a shell completion script.

    For bash, in ~/.bashrc:       eval "$(wsbridge completion bash)"
    For zsh, in ~/.zshrc:         eval "$(wsbridge completion zsh)"
    For fish:                     wsbridge completion fish > ~/.config/fish/completions/wsbridge.fish
    """
    completion = get_completion_class(shell)
    assert completion is not None  # noqa: S101 (click has these three)
    try:
        script = completion(ctx.find_root().command, {}, "wsbridge", COMPLETION_VARIABLE).source()
    except RuntimeError as error:
        raise CliError(f"completion: {error}", EXIT_UNAVAILABLE) from None
    click.echo(script)


@click.command("schema", cls=PreformattedCommand)
@click.option("--included", is_flag=True, help="Print that of files that a configuration includes.")
def schema_command(included: bool) -> None:
    """Print the JSON Schema of the configuration file.

    It gives editors with a YAML language server (VS Code, Neovim, Helix, Emacs) completion, hover documentation and
    validation:

      wsbridge schema > wsbridge.schema.json

    and as the first line of the configuration file:

      # yaml-language-server: $schema=wsbridge.schema.json
    """
    click.echo(json.dumps(json_schema(CONFIG_REGISTRY, included=included), indent=2, ensure_ascii=False))
