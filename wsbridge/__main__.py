"""`python -m wsbridge`."""

from __future__ import annotations

from wsbridge.cli.main import main

main()
