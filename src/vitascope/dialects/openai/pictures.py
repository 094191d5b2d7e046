"""Pictures and videos that a request starts from, in the many forms in which clients send them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vitascope.dialects._http import Fields, picture_of
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import MAX_REFERENCES
from vitascope.service import Content, FileId, Sent

from .characters import read_characters
from .file_ids import named_file

if TYPE_CHECKING:
    from .create import Order

FRAMES = ("input_reference", "image", "image_url", "reference_url", "image_reference")
LISTS = ("images", "input_references")
VIDEOS = ("video_reference", "video_url")


def read_pictures(order: Order, fields: Fields, spec: ModelSpec) -> Sent:
    """Read what came with a request.

    Raises:
        InvalidParameter: it is in none of the forms, or there is more than one start.
    """
    given = [name for name in (*FRAMES, *LISTS, *VIDEOS, "characters") if not _is_empty(fields.raw(name))]
    if not given:
        return Sent()
    name = given[0]
    if name == "characters" and not given[1:]:
        return read_characters(order, fields, spec)
    if given[1:]:
        raise InvalidParameter(given[1], "given", f"it must not be given beside `{name}`")
    if name in VIDEOS:
        order.names["video"], value = _one(name, fields.raw(name), "video_url")
        return Sent(video=_content(order.names["video"], value))
    pictures = list(_pictures(name, fields))
    if len(pictures) == 1 and not _is_reference(order, name, spec):
        order.names["image"], content = pictures[0]
        return Sent(image=content)
    order.names["references"] = name
    order.names |= {f"references[{index}]": label for index, (label, _) in enumerate(pictures)}
    return Sent(references=tuple(content for _, content in pictures))


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", []) or (isinstance(value, str) and value.strip() in ("[]", "null"))


def _pictures(name: str, fields: Fields) -> Iterator[tuple[str, Content]]:
    """Each with the client's name of it."""
    value = fields.raw(name)
    is_list = (
        name in LISTS or isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[")
    )
    entries = fields.listing(name, MAX_REFERENCES) if is_list else [value]
    for index, entry in enumerate(entries):
        label, content = _one(f"{name}[{index}]" if len(entries) > 1 else name, entry, "image_url")
        picture = _content(label, content)
        if picture is None:
            raise InvalidParameter(label, "empty", "it must be a file, a URL or base64")
        yield label, picture


def _one(label: str, value: Any, url: str) -> tuple[str, Any]:
    """Take a reference out of the object, or JSON text of one, that it may be in."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        value = Fields({label: value}).mapping(label)
    if not isinstance(value, dict):
        return label, value
    if value.get("file_id"):
        if value.get(url):
            raise InvalidParameter(
                f"{label}[{url}]", "given", f"it must not be given beside `{label}[file_id]`"
            )
        label = f"{label}[file_id]"
        return label, named_file(value["file_id"], label)
    if not value.get(url):
        raise InvalidParameter(f"{label}[{url}]", "missing", "it must be a URL")
    return f"{label}[{url}]", value[url]


def _content(label: str, value: Any) -> Content | None:
    return value if isinstance(value, FileId) else picture_of(label, value)


def named(label: str, value: Any, url: str) -> tuple[str, Content | None]:
    """Read one file out of a field, with the name that the client gave it.

    Args:
        label: of the field.
        value: of the field.
        url: what its URL is called where the field is an object.
    """
    label, value = _one(label, value, url)
    return label, _content(label, value)


def _is_reference(order: Order, name: str, spec: ModelSpec) -> bool:
    """Whether a single picture shows who or what appears, rather than the first frame."""
    if name != "input_references":
        return False
    if "reference" in spec.pipelines:
        return True
    reason = f"model `{spec.id}` takes no reference pictures: the video starts from it"
    order.tell("input_references", "the first frame", reason)
    return False
