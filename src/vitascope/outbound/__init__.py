"""The one way out. To a URL that a user gave: read once, resolve once, check, connect to that address.

Belongs here: which addresses are public, the operator's exceptions, fetching and posting with limits. Services that the operator has
named in the settings have a door of their own (`own_service`), which no user's URL ever comes to: they are called wherever they are.
Never here: what a URL is good for, what is in the file, jobs, settings.
"""

from .addresses import is_public
from .allow import AllowList
from .fetch import Fetched, Outbound
from .own_service import OwnService, Unanswered

__all__ = ["AllowList", "Fetched", "Outbound", "OwnService", "Unanswered", "is_public"]
