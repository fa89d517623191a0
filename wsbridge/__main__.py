"""`python -m wsbridge`."""

from wsbridge.cli import main

main()
