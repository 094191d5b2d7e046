"""Where finished files are kept.

Belongs here: putting, opening and deleting files by key, behind one small protocol.
Never here: what is in the files, who may see them, jobs, SQL, HTTP.
"""

from .local import LocalStorage
from .protocol import Storage, check_key

__all__ = ["LocalStorage", "Storage", "check_key"]
