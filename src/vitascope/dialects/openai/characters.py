"""`/v1/videos/characters`: who or what appears, kept once and named by its id in later requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.character import MAX_NAME_CHARS, Character
from vitascope.domain.errors import CharacterNotFound, InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.service import CharacterId, NewCharacter, Sent

from . import schema

if TYPE_CHECKING:
    from .create import Order

PREFIX = "char_"

MAX_CHARACTERS = 2
"""Of one video, as the vendor documents it."""


class CharacterObject(_http.Described):
    """A character."""

    id: str
    object: Literal["character"]
    name: str
    created_at: int


class CharacterDeleted(_http.Described):
    """A character that is gone."""

    id: str
    object: Literal["character.deleted"]
    deleted: bool


def add_routes(router: APIRouter) -> None:
    """Add the routes; before those with an id in the place of their last word."""
    add, errors, one = router.add_api_route, schema.ERRORS, "/videos/characters/{character_id}"
    shown = {200: {"model": CharacterObject}, **errors}
    add("/videos/characters", create, methods=["POST"], responses=shown, openapi_extra=_CREATE)
    add(one, retrieve, responses=shown)
    add(one, delete, methods=["DELETE"], responses={200: {"model": CharacterDeleted}, **errors})


async def create(request: Request) -> Response:
    """Keep a character: the picture in the middle of a video, or a picture, and a name."""
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    fields.check_names(("name", "video"))
    name = fields.text("name")
    if name is None:
        raise InvalidParameter("name", "missing", f"it must have from 1 to {MAX_NAME_CHARS} characters")
    content = await _http.in_thread_if_large(
        fields.num_bytes, lambda: _http.picture_of("video", fields.raw("video"))
    )
    if not isinstance(content, bytes):
        value = "missing or empty" if content is None else content
        raise InvalidParameter("video", value, "it must be a file, or a data: URL or base64 of one")

    def prepare() -> NewCharacter:
        return desk.service.characters.prepare(name, content, caller)

    return JSONResponse(_object(await desk.keep_character(caller, name, prepare)))


async def retrieve(character_id: str, request: Request) -> Response:
    """Show a character."""
    desk = _http.desk_of(request)
    get = desk.service.characters.get
    return JSONResponse(_object(await desk.read(get, _own(character_id), _http.caller_of(request))))


async def delete(character_id: str, request: Request) -> Response:
    """Delete a character and its picture; videos that were asked for with it are made all the same."""
    await _http.desk_of(request).delete_character(_http.caller_of(request), _own(character_id))
    return JSONResponse({"id": character_id, "object": "character.deleted", "deleted": True})


def _own(character_id: str) -> str:
    if not character_id.startswith(PREFIX):
        raise CharacterNotFound
    return character_id.removeprefix(PREFIX)


def _object(character: Character) -> dict[str, Any]:
    return {
        "id": PREFIX + character.id,
        "object": "character",
        "name": character.name,
        "created_at": int(character.created_at.timestamp()),
    }


def read_characters(order: Order, fields: _http.Fields, spec: ModelSpec) -> Sent:
    """Read which characters appear: as reference pictures; or as the first frame, where a model takes nothing but that.

    Raises:
        InvalidParameter: they are in none of the forms, or the model cannot do this.
    """
    names = []
    for index, entry in enumerate(fields.listing("characters", MAX_CHARACTERS)):
        names.append((f"characters[{index}][id]", _named(f"characters[{index}]", entry)))
    order.names["references"] = "characters"
    if "reference" in spec.pipelines:
        order.names |= {f"references[{index}]": label for index, (label, _) in enumerate(names)}
        return Sent(references=tuple(content for _, content in names))
    if "image" not in spec.pipelines:
        rule = f"model `{spec.id}` takes no pictures, and so shows no characters"
        raise InvalidParameter("characters", "given", rule, hint="leave it out or choose another model")
    if len(names) > 1:
        rule = f"model `{spec.id}` takes no reference pictures, and can start from one character only"
        raise InvalidParameter("characters", f"{len(names)} long", rule, nearest=1)
    order.names["image"], picture = names[0]
    reason = f"model `{spec.id}` takes no reference pictures: the video starts from the character's"
    order.tell("characters", "the first frame", reason)
    return Sent(image=picture)


def _named(label: str, entry: Any) -> CharacterId:
    value = entry.get("id") if isinstance(entry, dict) else entry
    if not isinstance(value, str) or not value:
        raise InvalidParameter(f"{label}[id]", _http.shown(value), "it must be the id of a character")
    # one of another form is unknown like any other that nobody has
    return CharacterId(value.removeprefix(PREFIX) if value.startswith(PREFIX) else "", value)


_name = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS}
_text = {"type": "string", "description": "A data: URL, or base64 alone."}
_file = {
    "type": "string",
    "format": "binary",
    "description": "MP4 or WebM, of which the picture in the middle is kept; or PNG, JPEG, WebP or GIF.",
}


def _body(video: dict[str, Any]) -> dict[str, Any]:
    properties = {"name": _name, "video": video}
    schema = {"type": "object", "required": ["name", "video"], "properties": properties}
    return {"schema": {**schema, "additionalProperties": False}}


_CREATE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": _body(_file), "application/json": _body(_text)},
    }
}
