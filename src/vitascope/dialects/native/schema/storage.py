"""Answers about where new videos go."""

from __future__ import annotations

from typing import Any

from vitascope.dialects import _http

_TEXT = {"type": "string"}

USE_BUCKET: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["bucket", "access_key_id", "secret_access_key"],
                    "properties": {
                        "bucket": {**_TEXT, "description": "Its name."},
                        "prefix": {**_TEXT, "description": "Folder in it."},
                        "endpoint": {**_TEXT, "description": "URL of an object storage other than AWS."},
                        "region": {**_TEXT, "default": "us-east-1"},
                        "path_style": {"type": "boolean", "default": True},
                        "access_key_id": _TEXT,
                        "secret_access_key": {**_TEXT, "format": "password"},
                        "public_url": {**_TEXT, "description": "Where anyone can read the bucket."},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


class NamedBucket(_http.Described):
    """A bucket, without what opens it."""

    bucket: str
    prefix: str
    endpoint: str
    region: str
    path_style: bool
    access_key_id: str
    public_url: str | None
    #: Below the prefix: this database's alone.
    folder: str


class VideoStorage(_http.Described):
    """Where new videos go."""

    #: Then there is no bucket but perhaps the one of the settings.
    is_by_settings: bool
    bucket: NamedBucket | None
    #: What is wrong all the same.
    warning: str | None
