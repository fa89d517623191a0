"""Admin API and monitoring endpoint: HTTP for operators, beside what clients are served.

`http` accepts and reads requests within bounds, and checks who may send them; `api` answers them, with `connections`
and `bans`, whose `long_lists` are made in turns, and `metrics`, which has those of `metric_table`; `status_page` is a
page that shows them. `endpoints` opens the listeners of both, and exchanges them at a reload.
"""
