"""What the server can do, in our words: every dialect and page calls this and nothing below it.

Belongs here: submitting, reading, listing, cancelling and deleting jobs, their inputs and files, and whether the server is
ready. Never here: HTTP, vendors' words, torch, the worker or the engine.
"""

from .characters import Characters, NewCharacter
from .expiry import Expiry
from .files import Files, Removal, Upload
from .inputs import NOTHING, CharacterId, Content, FileId, Kept, OfJob, Sent
from .links import Link, Links
from .service import REFUSALS, Draft, Models, Service, StoredVideo

__all__ = [
    "NOTHING",
    "REFUSALS",
    "CharacterId",
    "Characters",
    "Content",
    "Draft",
    "Expiry",
    "FileId",
    "Files",
    "Kept",
    "Link",
    "Links",
    "Models",
    "NewCharacter",
    "OfJob",
    "Removal",
    "Sent",
    "Service",
    "StoredVideo",
    "Upload",
]
