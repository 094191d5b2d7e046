"""Jobs, as they survive everything: the only room that speaks SQL.

Belongs here: tables, migrations, transactions, leases, and the translation between rows and domain objects.
Never here: files, HTTP, decisions about how a video is made, or SQL that only one database understands (that has its
own module, one per database).
"""

from . import maintenance
from .added import Told
from .cipher import Cipher
from .database import JobNews
from .ledger import Charge
from .maintenance import Health
from .rows import Event, Lapsed, Page, QueueStats, Removal, Running, Situation
from .store import Store

__all__ = [
    "Charge",
    "Cipher",
    "Event",
    "Health",
    "JobNews",
    "Lapsed",
    "Page",
    "QueueStats",
    "Removal",
    "Running",
    "Situation",
    "Store",
    "Told",
    "maintenance",
]
