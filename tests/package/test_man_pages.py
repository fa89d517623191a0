"""The man pages: complete, and rendered without a warning; the completion scripts: valid."""

from __future__ import annotations

import os
import re
import subprocess

import click
import pytest

from package.completions import FILES, write_completions
from package.man_pages import docs_section, write_pages
from tests.clients.program import program
from wsbridge.cli.main import COMMAND_NAMES, cli
from wsbridge.config.schema import json_schema
from wsbridge.registry import CONFIG_REGISTRY

PAGES = ("man1/wsbridge.1", "man5/wsbridge.yaml.5")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The directory `man`."""
    directory = tmp_path_factory.mktemp("man")
    write_pages(directory)
    return directory


def rendered(path):
    """Return a page as a terminal shows it, without its attributes, and what man says about it."""
    command = [program("man"), "--warnings", "--encoding=UTF-8", "--local-file", path]
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "200", "MANPAGER": "cat", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    return re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout), done.stderr


@pytest.mark.parametrize("name", PAGES)
def test_they_are_rendered_without_warnings(pages, name):
    """By man, by groff with all warnings, and by mandoc, which only finds that they have no date."""
    text, warnings = rendered(pages / name)
    assert len(text.splitlines()) > 100
    assert warnings == ""

    groff = [program("groff"), "-man", "-ww", "-Tutf8", "-Kutf8", pages / name]
    assert subprocess.run(groff, capture_output=True, text=True, check=True).stderr == ""

    lint = [program("mandoc"), "-T", "lint", "-W", "warning", pages / name]
    found = subprocess.run(lint, capture_output=True, text=True, check=False).stdout.splitlines()
    assert [line for line in found if "missing date" not in line] == []


def test_every_command_and_option_is_there(pages):
    """wsbridge(1) has what `--help` of each command has."""
    text, _ = rendered(pages / PAGES[0])
    for name in COMMAND_NAMES:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        _, _, section = text.partition(f"\n   {name}\n")
        section = re.split(r"\n {0,3}\S", section)[0]
        assert f"wsbridge {name}" in section
        options = [option for option in command.params if isinstance(option, click.Option)]
        assert [option.name for option in options if option.opts[-1] not in section] == []
    for words in ("SIGTERM: graceful shutdown", "invalid configuration", "WSBRIDGE_CONFIG", "wsbridge.yaml(5)"):
        assert words in text


def test_every_key_is_there(pages):
    """wsbridge.yaml(5) has each section of the schema with each of its keys, and each only once."""
    text, _ = rendered(pages / PAGES[1])
    schema = json_schema(CONFIG_REGISTRY)
    sections = re.split(r"\n(?=\S)", text)
    for section in (schema, *schema["definitions"].values()):
        keys = set(section["properties"])
        items = [set(re.findall(r"^ {7}(\w+)(?:$| )", part, re.MULTILINE)) for part in sections]
        assert [found for found in items if keys <= found], section["title"]
    headings = [part.splitlines()[0] for part in sections]
    assert len(set(headings)) == len(headings)
    assert "routes.NAME.backend (tls backend)" in headings


def test_examples_can_be_pasted(pages):
    """Quotes, dashes and backquotes are what a shell reads, and no line is lost."""
    text, _ = rendered(pages / PAGES[0])
    assert "ssh -o ProxyCommand='wsbridge bridge - wss://gw.example.org/ssh' host" in text
    assert 'eval "$(wsbridge completion bash)"' in text


def test_a_section_that_is_gone_is_reported():
    """A page of docs/ that is rearranged fails the build."""
    with pytest.raises(LookupError, match="no section"):
        docs_section("commands.md", "Something else")


def test_completion_scripts(tmp_path):
    """There is one for each shell, which calls the program; bash reads it."""
    write_completions(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.is_file()} <= set(FILES.values())
    for name in FILES.values():
        assert "_WSBRIDGE_COMPLETE" in (tmp_path / name).read_text()
    assert (tmp_path / FILES["zsh"]).read_text().startswith("#compdef wsbridge\n")
    subprocess.run([program("bash"), "-n", tmp_path / FILES["bash"]], check=True)
