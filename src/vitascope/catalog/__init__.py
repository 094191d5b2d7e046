"""Which models there are: cards (TOML) become `ModelSpec`s.

Belongs here: reading cards, the defaults of each diffusers pipeline class, names and aliases, where weights come from;
downloads, their manifests and their end; which adapters (LoRA) there are. Nothing here reads weights: only their headers, lengths
and checksums are looked at.
Never here: loading weights (that is the engine's), or anything from a request but a model's name.
"""

from .added import heard
from .allowed import Allowed
from .catalog import Catalog
from .convert import convert
from .hub import Progress, Report, lacks_adapters, pull, repository_of
from .loras import Loras
from .sources import locate
from .weights import Weights, damaged, remove, verify, weights_of

__all__ = [
    "Allowed",
    "Catalog",
    "Loras",
    "Progress",
    "Report",
    "Weights",
    "convert",
    "damaged",
    "heard",
    "lacks_adapters",
    "locate",
    "pull",
    "remove",
    "repository_of",
    "verify",
    "weights_of",
]
