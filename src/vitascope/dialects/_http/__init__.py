"""What all HTTP edges share: bodies, lenient fields, errors, threads, files. Knows no vendor."""

from .body import read_body
from .desk import Desk, desk_of
from .edge import Edge, RenderError, route_class
from .fields import Fields
from .files import VideoFile

__all__ = ["Desk", "Edge", "Fields", "RenderError", "VideoFile", "desk_of", "read_body", "route_class"]
