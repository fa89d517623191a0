"""Secrets are compared in constant time, everywhere (CVE-2021-33880)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import wsbridge

PACKAGE = Path(wsbridge.__file__).parent
FILES = [
    *sorted((PACKAGE / "auth").glob("*.py")),
    PACKAGE / "protocol" / "ticket.py",
    PACKAGE / "protocol" / "credentials.py",
]
SECRET = re.compile(r"passw|secret|signature|digest|token|hash", re.IGNORECASE)
HARMLESS = {
    "(self.secret is not None, self.file is not None) == (symmetric, not symmetric)": "whether there is one",
    "needed == 'secret'": "a word of the configuration",
    "shown.token != found[0].token": "two texts of the same client",
    "base64.b64encode(data) != token": "two spellings of what the client sent",
}
"""Comparisons whose time reveals nothing that the client does not know."""


def test_no_secret_is_compared_letter_by_letter() -> None:
    """Files that check credentials do not compare names that sound like secrets with `==`, except for harmless ones."""
    found = {
        ast.unparse(node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and any(isinstance(how, (ast.Eq, ast.NotEq)) for how in node.ops)
    }
    assert {text for text in found if SECRET.search(text)} == HARMLESS.keys()
