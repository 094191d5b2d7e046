"""Where finished files are kept.

Belongs here: putting, opening, listing and deleting files by key, behind one small protocol.
Never here: what is in the files, who may see them, jobs, SQL, HTTP.
"""

from .local import LocalStorage
from .protocol import Storage, StoredFile, check_key
from .space import Space

__all__ = ["LocalStorage", "Space", "Storage", "StoredFile", "check_key"]
