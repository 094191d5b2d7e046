"""Proofs and measurements against real processes; nothing of it is installed.

Belongs here: `chaos` (kill -9, lost databases, power cuts), `load` (many clients) and what both need to start and to ask a
deployment; `families` (every pipeline class through the engine). Never here: what
pytest alone can show, or a figure without the command that prints it.
"""
