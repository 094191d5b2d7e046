"""What the server can do, in our words: every dialect and page calls this and nothing below it.

Belongs here: submitting, reading, listing, cancelling and deleting jobs, their inputs and files, and whether the server is
ready. Never here: HTTP, vendors' words, torch, the worker or the engine.
"""

from .batches import Batches
from .expiry import Expiry
from .feeding import BatchFormat, Feeder, Parsed, Prepared
from .files import Files, Removal, Upload
from .inputs import NOTHING, Content, FileId, Sent
from .links import Link, Links
from .service import REFUSALS, Draft, Models, Service, StoredVideo

__all__ = [
    "NOTHING",
    "REFUSALS",
    "BatchFormat",
    "Batches",
    "Content",
    "Draft",
    "Expiry",
    "Feeder",
    "FileId",
    "Files",
    "Link",
    "Links",
    "Models",
    "Parsed",
    "Prepared",
    "Removal",
    "Sent",
    "Service",
    "StoredVideo",
    "Upload",
]
