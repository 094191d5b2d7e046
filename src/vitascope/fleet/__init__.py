"""Who runs processes and where.

Belongs here: starting, watching and stopping the web process and the workers of one machine, later of a cluster.
Never here: what those processes do.
"""
