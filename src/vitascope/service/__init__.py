"""What the server can do, in our words: every dialect and page calls this and nothing below it.

Belongs here: submitting, reading, listing, cancelling and deleting jobs, their inputs and files, and whether the server is
ready. Never here: HTTP, vendors' words, torch, the worker or the engine.
"""

from .additions import Additions, Wish
from .batches import Batches
from .buckets import Buckets, OpenBuckets
from .characters import Characters, NewCharacter
from .drafts import Draft, Models, OperatorRules
from .expiry import Expiry
from .feeding import BatchFormat, Feeder, Parsed, Prepared
from .files import Files, Removal, Upload
from .gallery import Gallery, GalleryPage, Shown
from .inputs import NOTHING, CharacterId, Content, FileId, Kept, OfJob, Sent
from .links import Link, Links
from .results import StillMaking, StoredVideo
from .service import REFUSALS, Service

__all__ = [
    "NOTHING",
    "REFUSALS",
    "Additions",
    "BatchFormat",
    "Batches",
    "Buckets",
    "CharacterId",
    "Characters",
    "Content",
    "Draft",
    "Expiry",
    "Feeder",
    "FileId",
    "Files",
    "Gallery",
    "GalleryPage",
    "Kept",
    "Link",
    "Links",
    "Models",
    "NewCharacter",
    "OfJob",
    "OpenBuckets",
    "OperatorRules",
    "Parsed",
    "Prepared",
    "Removal",
    "Sent",
    "Service",
    "Shown",
    "StillMaking",
    "StoredVideo",
    "Upload",
    "Wish",
]
