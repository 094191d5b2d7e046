"""What the two hosts of one vendor share, modelslab.com and stablediffusionapi.com: the key in the body, the shape of errors.

Their dialects do not know each other; what both say is here. Never here: a path of either, or another vendor's word.
"""

from .answers import PREFIXES, error_response, render_4xx, render_200, unknown_call
from .create import FORMAT
from .making import Manner
from .replies import WEBHOOK_SECONDS, webhook_body
from .routes import fields_of, route_class

__all__ = [
    "FORMAT",
    "PREFIXES",
    "WEBHOOK_SECONDS",
    "Manner",
    "error_response",
    "fields_of",
    "render_4xx",
    "render_200",
    "route_class",
    "unknown_call",
    "webhook_body",
]
