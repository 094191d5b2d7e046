"""Where finished files are kept.

Belongs here: putting, opening, listing and deleting files by key, behind one small protocol.
Never here: what is in the files, who may see them, jobs, SQL, HTTP.
"""

from .local import LocalStorage
from .places import OtherPlaces, Places
from .protocol import FileStat, Storage, StoredFile, check_key
from .s3 import S3Storage, public_url_of
from .space import Space

__all__ = [
    "FileStat",
    "LocalStorage",
    "OtherPlaces",
    "Places",
    "S3Storage",
    "Space",
    "Storage",
    "StoredFile",
    "check_key",
    "public_url_of",
]
