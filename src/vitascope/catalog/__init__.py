"""Which models there are: cards (TOML) become `ModelSpec`s.

Belongs here: reading cards, the defaults of each diffusers pipeline class, names and aliases, where weights come from.
Never here: loading weights (that is the engine's), or anything from a request but a model's name.
"""

from .catalog import Catalog
from .sources import locate

__all__ = ["Catalog", "locate"]
