"""Measures wsbridge and its peers side by side: `python -m bench`, or `make bench`; `python -m bench.plots` draws.

Reading order: `cases` (what is measured), `peers` (a bridge as processes), `lab` (programs, ports and certificates that
all of them need), `measure` (one case on one bridge), `report` (the figures side by side), `turns` (all cases on all
bridges, in rounds), `__main__` (the command); `sweeps` (cases that differ in one number), `plots` (their command).
Next to them are `load.c`, the clients, and `backend.c`, the services behind the bridges.
"""
