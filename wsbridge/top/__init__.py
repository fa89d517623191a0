"""`wsbridge top`: what a daemon does now, as a table that follows it.

`snapshot` is what the admin API answered once, with rates; `text` formats values; `columns` are the tables, sorted,
filtered and fitted into a width; `view` is the screen, as lines, and what keys do to it; `poller` asks the daemon in a
thread; `terminal` draws the lines and reads the keys. Only the last two do I/O.
"""
