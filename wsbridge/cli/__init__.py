"""The command line: `main` has the group of commands, `run` and its neighbours one command each."""
