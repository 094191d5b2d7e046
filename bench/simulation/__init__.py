"""A discrete-event model of a server's queue and its devices: `python -m bench.simulation`.

Belongs here: traces, clocks and figures. Never here: a rule of who goes next. These are `vitascope.domain.arbiter`, called as the
store's claim and the worker call them.
"""
