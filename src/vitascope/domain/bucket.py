"""A bucket that videos go to, or went to: named while the server runs, beside the storage that the settings name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

KEYS_BEGIN = "vitascope-"
"""With what the keys of files in such buckets begin, and no others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where it is, and what opens it."""

    #: First name of the keys of all files that are kept there; so it is the folder, below the prefix, that is ours alone.
    id: str
    #: Its name at the object storage.
    bucket: str
    #: Folder in it, without slashes around it; empty for none.
    prefix: str
    #: URL of the object storage.
    endpoint: str
    region: str
    #: Whether the bucket is in the path of the storage's URLs, rather than in their host name.
    path_style: bool
    access_key_id: str
    #: Not shown where an object is printed.
    secret_access_key: str = field(repr=False)
    #: Where anyone can read it; None if nobody can.
    public_url: str | None = None


def bucket_id(deployment: str, endpoint: str, bucket: str, prefix: str) -> str:
    """Name a place in a bucket for one deployment: the same place has the same name, and another deployment's has another one.

    So a bucket that is named again is the one that it was, and two servers may share one without removing each other's files.
    """
    text = "\n".join((deployment, endpoint, bucket, prefix))
    return f"{KEYS_BEGIN}{hashlib.sha256(text.encode()).hexdigest()[:16]}"
