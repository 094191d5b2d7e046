"""What all HTTP edges share: bodies, lenient fields, errors, threads, files. Knows no vendor."""

from .body import Upload, in_thread_if_large, json_object, read_body
from .credentials import authenticate, caller_of
from .described import Described
from .desk import Desk, desk_of
from .edge import Edge, RenderError
from .errors import retry_headers, status_of
from .fields import MAX_INTEGER, Fields, shown
from .files import VideoFile, file_asked
from .guard import LoopbackGuard
from .once import once_of
from .paging import limit_and_order
from .pictures import picture_of
from .routes import base_url_of, route_class
from .waiting import ended

__all__ = [
    "MAX_INTEGER",
    "Described",
    "Desk",
    "Edge",
    "Fields",
    "LoopbackGuard",
    "RenderError",
    "Upload",
    "VideoFile",
    "authenticate",
    "base_url_of",
    "caller_of",
    "desk_of",
    "ended",
    "file_asked",
    "in_thread_if_large",
    "json_object",
    "limit_and_order",
    "once_of",
    "picture_of",
    "read_body",
    "retry_headers",
    "route_class",
    "shown",
    "status_of",
]
