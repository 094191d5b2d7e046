"""Webhooks: signing messages and delivering them until they have arrived.

Belongs here: Standard Webhooks, the schedule of attempts, whose turn it is.
Never here: SQL (the outbox comes through a protocol), what a message says (`app` hands over who writes it), where a URL may
lead (`outbound`), HTTP routes.
"""

from .delivery import SWITCHED_OFF, Deliverer, Format, Outbox, Post
from .signing import new_secret, signed_headers
from .writing import encoded

__all__ = ["SWITCHED_OFF", "Deliverer", "Format", "Outbox", "Post", "encoded", "new_secret", "signed_headers"]
