"""`wsbridge schema`: what an editor needs to know of the configuration file.

Lives here: printing it. Must not live here: making it (`config.schema`).
"""

from __future__ import annotations

import json

import click

from wsbridge.cli.teaching import Teaching
from wsbridge.config.schema import schema
from wsbridge.kinds import CONFIG_KINDS


@click.command("schema", cls=Teaching)
def command() -> None:
    """Print the JSON Schema of the configuration file.

    With it an editor completes keys, shows what they mean and marks errors. For editors with a YAML language server
    (VS Code, Neovim, Helix, Emacs):

      wsbridge schema > wsbridge.schema.json

    and as the first line of the configuration:

      # yaml-language-server: $schema=wsbridge.schema.json
    """
    click.echo(json.dumps(schema(CONFIG_KINDS), indent=2, ensure_ascii=False))
