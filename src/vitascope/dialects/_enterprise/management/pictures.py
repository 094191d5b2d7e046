"""Pictures that clients keep here to name them later, and the check of pictures."""

from __future__ import annotations

CALLS: tuple[()] = ()
