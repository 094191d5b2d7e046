"""The one way out to a URL that a user gave: read once, resolve once, check, connect to that address.

Belongs here: which addresses are public, the operator's exceptions, fetching and posting with limits.
Never here: what a URL is good for, what is in the file, jobs, settings. Endpoints that the operator configured do not go
through here: they are trusted.
"""

from .addresses import is_public
from .allow import AllowList
from .fetch import Fetched, Outbound

__all__ = ["AllowList", "Fetched", "Outbound", "is_public"]
