"""`wsbridge check`: print all errors and warnings of a configuration file."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console
from rich.table import Table

from wsbridge import generation
from wsbridge.backends.base import DialServices
from wsbridge.cli.main import EXIT_CONFIG, EXIT_OK, PreformattedCommand
from wsbridge.cli.run import (
    STDIN,
    STDIN_NAME,
    config_argument,
    config_option,
    find_config,
    load_config,
    only_path,
    print_problems,
)
from wsbridge.config.check import listeners_of
from wsbridge.config.effective import to_json, to_yaml
from wsbridge.config.errors import PROBLEM_CODES, ConfigError, Problem, did_you_mean, readable_name
from wsbridge.config.load import LoadedConfig
from wsbridge.config.model import Config
from wsbridge.config.route import MatchConfig, RouteConfig
from wsbridge.counters import RouteStats
from wsbridge.net.resolver import Resolver


def _read_warning_codes(_ctx: click.Context, _parameter: click.Parameter, codes: tuple[str, ...]) -> frozenset[str]:
    known = [code for code in PROBLEM_CODES if code.startswith("W")]
    for code in codes:
        if code not in known:
            hint = did_you_mean(code, known) or f"; they are {known[0]} to {known[-1]}"
            raise click.BadParameter(f'"{code}" is no warning{hint}')
    return frozenset(codes)


@click.command("check", cls=PreformattedCommand)
@config_argument
@config_option
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@click.option(
    "--allow",
    "allowed",
    metavar="CODE",
    multiple=True,
    callback=_read_warning_codes,
    help="With --strict: a warning that is no error, such as W032; repeatable.",
)
@click.option("--show", is_flag=True, help="Print the effective settings, and where each comes from, as YAML.")
@click.option("--no-files", is_flag=True, help="Do not read the files that it names: for CI without the secrets.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="Default: text.")
def check_command(
    file: str | None,
    path: str | None,
    strict: bool,
    allowed: frozenset[str],
    show: bool,
    no_files: bool,
    form: str,
) -> int:
    """Validate a configuration file.

    Reads the file and the files that it names (certificates, secrets), but does not bind or dial anything. FILE may
    be - for standard input. Without FILE, the same default paths as for `run` are used.

      wsbridge check wsbridge.yaml
      wsbridge check --strict --format json -c wsbridge.yaml
      wsbridge check --strict --allow W032 wsbridge.yaml
      render-template | wsbridge check -
      wsbridge check --no-files conf/production.yaml
      wsbridge check --show

    Exit codes: 0 valid, 64 wrong command line, 78 errors (with --strict: or warnings).
    """
    path_or_stdin = find_config(only_path(file, path))
    name = STDIN_NAME if path_or_stdin == STDIN else path_or_stdin
    loaded: LoadedConfig | None = None
    try:
        loaded = load_config(path_or_stdin, check_files=not no_files)
        problems = loaded.warnings
        if not no_files:
            generation.build_generation(loaded.config, DialServices(Resolver()), lambda _: RouteStats())
    except ConfigError as error:
        problems = error.problems
    except ValueError as error:
        problems = [*(loaded.warnings if loaded else ()), Problem(name, 0, 0, "", str(error), "", "E031")]
    errors = [one for one in problems if one.severity == "error" or (strict and one.code not in allowed)]
    good = loaded is not None and not errors
    config = loaded.config if loaded else None
    if form == "json":
        settings = to_json(loaded.config, loaded.references) if show and loaded is not None else None
        _print_json(name, loaded, problems, good, settings)
    else:
        print_problems(problems)
        if show and good and loaded is not None and loaded.locate is not None:
            click.echo(to_yaml(loaded.config, loaded.references, loaded.locate), nl=False)
        elif loaded is not None and good:
            _print_text(name, loaded, len(problems))
        elif config is not None and all(problem.severity == "warning" for problem in problems):
            click.echo(f"{name}: {_count_text(len(errors), 'warning')}, which --strict treats as errors", err=True)
    return EXIT_OK if good else EXIT_CONFIG


def _print_json(name: str, loaded: LoadedConfig | None, problems: list[Problem], good: bool, settings: object) -> None:
    report = {
        "file": readable_name(name),
        "ok": good,
        "included": [readable_name(one) for one in loaded.included] if loaded else None,
        "listeners": len(loaded.config.listeners) if loaded else None,
        "routes": len(loaded.config.routes) if loaded else None,
        "problems": [problem.json() for problem in problems],
        **({} if settings is None else {"settings": settings}),
    }
    click.echo(json.dumps(report, indent=2))


def _print_text(name: str, loaded: LoadedConfig, warnings: int) -> None:
    config = loaded.config
    included = [_count_text(len(loaded.included), "included file")] if loaded.included else []
    counts = [_count_text(len(config.listeners), "listener"), _count_text(len(config.routes), "route"), *included]
    click.echo(f"{name}: OK: {', '.join([*counts, _count_text(warnings, 'warning')])}")
    if sys.stdout.isatty():
        Console().print(_route_table(config))


def _count_text(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _route_table(config: Config) -> Table:
    """Show the routes in their order, with the listeners that lead to each."""
    table = Table("route", "listeners", "match", "action", "auth")
    for name, route in config.routes.items():
        places = [f"{each} ({config.listeners[each].bind})" for each in listeners_of(config, name)]
        auth = "-" if route.auth is None else route.auth.kind
        table.add_row(name, "\n".join(places), _match_text(route), _action_text(route), auth)
    return table


def _match_text(route: RouteConfig) -> str:
    """What a route matches, in a few words."""
    if not isinstance(route.match, MatchConfig):
        return "any" if route.match else "all of its listeners"
    parts = [", ".join(map(str, route.match.host or ())), str(route.match.path or "")]
    return " ".join(part for part in parts if part) or "any"


def _action_text(route: RouteConfig) -> str:
    if route.backend is not None:
        return route.backend.text.partition("?")[0]  # a query may hold a token
    if route.issue_tickets is not None:
        return f"tickets for {route.issue_tickets.route}"
    directory = getattr(route.files, "dir", route.files)
    if directory is not None:
        return f"files in {directory}"
    return f"status {route.respond}" if isinstance(route.respond, int) else str(route.respond)
