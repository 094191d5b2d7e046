"""What the server can do, in our words: every dialect and page calls this and nothing below it.

Belongs here: submitting, reading, listing, cancelling and deleting jobs, their inputs and files, and whether the server is
ready. Never here: HTTP, vendors' words, torch, the worker or the engine.
"""

from .expiry import Expiry
from .inputs import NOTHING, Sent
from .service import Draft, Models, Service

__all__ = ["NOTHING", "Draft", "Expiry", "Models", "Sent", "Service"]
