"""Request bodies: JSON, multipart or urlencoded in, `Fields` out.

Strict where a guess could change the meaning (encodings, duplicates, numbers that JSON does not have), lenient in all else.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from vitascope.domain.errors import (
    BodyTooLarge,
    BodyTooSlow,
    InvalidParameter,
    UnreadableBody,
    UnsupportedContentType,
)

from .fields import Fields, printable

T = TypeVar("T")

GAP_SECONDS = 20.0
BODY_SECONDS = 300.0
"""How long a body may pause, and take: 32 MiB in so long is a megabit a second."""

LARGE_BYTES = 256 * 1024
"""Longer bodies are decoded in a thread: 32 MiB of JSON would hold the event loop for 0.3 s, base64 in it for as long again."""

MAX_FIELDS = 1000
MAX_NAME_BYTES = 1024
_IN_LIST = re.compile(r"\[([0-9]{0,3})\]\[([^\[\]]+)\]", re.ASCII)
_BRACKETED = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")


class Upload(bytes):
    """A file of a multipart form, with its client's own name for it, which is not to be trusted."""

    name = ""


async def read_body(request: Request, max_bytes: int, *, may_be_empty: bool = False) -> Fields:
    """Read and decode a request's body.

    Args:
        request: whose.
        max_bytes: a longer one is refused.
        may_be_empty: take no body at all for one without fields.

    Raises:
        BodyTooLarge: it has more than `max_bytes`.
        BodyTooSlow: it did not come in time.
        UnsupportedContentType: it is neither JSON nor a form.
        UnreadableBody: it is not what its content type says.
        InvalidParameter: a field is given twice.
    """
    data = await _receive(request, max_bytes)
    if may_be_empty and not data:
        return Fields({})
    header = request.headers.get("content-type", "")
    kind = header.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        values = await in_thread_if_large(len(data), lambda: _multipart(data, header))
    elif kind == "application/x-www-form-urlencoded":
        values = await in_thread_if_large(len(data), lambda: _urlencoded(data))
    elif kind == "application/json" or kind.endswith("+json") or not kind:
        values = await in_thread_if_large(len(data), lambda: json_object(data))
    else:
        raise UnsupportedContentType(
            f"the content type `{kind[:60]}` is not read here",
            hint="send application/json or multipart/form-data",
        )
    return Fields(values, len(data))


async def in_thread_if_large(num_bytes: int, function: Callable[[], T]) -> T:
    """Do what takes time in proportion to a body's length where it keeps nobody waiting."""
    return function() if num_bytes <= LARGE_BYTES else await asyncio.to_thread(function)


async def _receive(request: Request, max_bytes: int) -> bytes:
    """Read the body up to its limit.

    Some of what is too much is read and dropped: else the client, who is still sending, would see a broken connection
    in place of the answer.
    """
    length = request.headers.get("content-length", "")
    announced = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0
    chunks: list[bytes] = []
    received = 0
    if announced <= 4 * max_bytes:
        async for chunk in _in_time(request.stream()):
            received += len(chunk)
            if received <= max_bytes:
                chunks.append(chunk)
            elif received > 4 * max_bytes:
                break
    if max(received, announced) > max_bytes:
        raise BodyTooLarge(f"the request body has more than {max_bytes} bytes")
    return b"".join(chunks)


async def _in_time(stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Pass chunks on as long as they keep coming: who sends a byte a minute would hold a connection for days."""
    until = time.monotonic() + BODY_SECONDS
    while True:
        left = min(GAP_SECONDS, until - time.monotonic())
        try:
            chunk = await asyncio.wait_for(anext(stream), max(0.0, left))
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise BodyTooSlow from None
        yield chunk


# JSON


def json_object(data: bytes) -> dict[str, Any]:
    """Read an object, which must say one thing only: no name twice, no numbers that JSON does not have.

    Raises:
        UnreadableBody: it is none.
        InvalidParameter: a field is given twice.
    """
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_constant=_no_such_number,
            parse_float=_finite,
        )
    except UnicodeDecodeError:
        raise UnreadableBody("the request body is not UTF-8") from None
    except RecursionError:
        raise UnreadableBody("the request body is nested too deeply") from None
    except ValueError as error:
        raise UnreadableBody(f"the request body is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise UnreadableBody("the request body must be a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise _given_twice(name)
        values[name] = value
    return values


def _no_such_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


# forms


def _urlencoded(data: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(
            data.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise UnreadableBody("the request body is not a UTF-8 form") from None
    return _nest(pairs)


def _multipart(data: bytes, content_type: str) -> dict[str, Any]:
    parts = _Parts()
    try:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not boundary:
            raise UnreadableBody("the multipart content type has no boundary")
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
        parser.write(data)
        parser.finalize()
    except (FormParserError, ValueError):  # UnicodeDecodeError is a ValueError
        raise UnreadableBody("the request body is not a valid UTF-8 multipart form") from None
    if not parts.is_complete:
        raise UnreadableBody("the multipart form is cut off")
    return _nest(parts.values)


class _Parts:
    """Gathers the parts of a multipart form as the parser finds them: text as str, files as bytes."""

    def __init__(self) -> None:
        self.values: list[tuple[str, str | bytes]] = []
        self.is_complete = False
        self._header = b""
        self._header_value = b""
        self._disposition = b""
        self._data = bytearray()

    def callbacks(self) -> Mapping[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add("_header", data[start:end]),
            "on_header_value": lambda data, start, end: self._add("_header_value", data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._end,
            "on_end": lambda: setattr(self, "is_complete", True),
        }

    def _add(self, name: str, data: bytes) -> None:
        setattr(self, name, getattr(self, name) + data)

    def _begin(self) -> None:
        self._disposition = b""
        self._data = bytearray()

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header = self._header_value = b""

    def _end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        name = options.get(b"name")
        if name is None:
            raise UnreadableBody("a part of the multipart form has no name")
        if len(self.values) >= MAX_FIELDS or len(name) > MAX_NAME_BYTES:
            raise UnreadableBody("the multipart form has too many fields or too long a name")
        is_file = b"filename" in options or b"filename*" in options
        value = _uploaded(self._data, options) if is_file else self._data.decode("utf-8")
        self.values.append((name.decode("utf-8"), value))


def _uploaded(data: bytearray, options: Mapping[bytes, bytes]) -> Upload:
    upload = Upload(data)
    name = options.get(b"filename")
    if name is None:  # RFC 8187: charset'language'text
        name = unquote_to_bytes(options[b"filename*"].rpartition(b"'")[2])
    upload.name = name.decode("utf-8", errors="replace")
    return upload


def _nest(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Put `a[b]` under `a`, and gather lists (`a[]`) and lists of objects (`a[][b]`, `a[0][b]`), which is all that clients send."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if value == b"":  # a file field that was left empty
            continue
        match = _BRACKETED.fullmatch(name)
        if match is None:
            if value == "" and isinstance(values.get(name), dict):
                continue
            _put(values, name, name, value)
            continue
        outer, inner = match[1], match[2][1:-1]
        in_list = _IN_LIST.fullmatch(match[2])
        if values.get(outer) == "":  # it was left empty for what stands in the brackets
            del values[outer]
        held = values.setdefault(outer, {} if inner and in_list is None else [])
        if isinstance(held, list) and in_list is not None:
            _put(_entry(held, outer, *in_list.groups()), in_list[2], name, value)
        elif isinstance(held, list) and not inner:
            held.append(value)
        elif isinstance(held, dict) and inner and in_list is None:
            _put(held, inner, name, value)
        else:
            raise _given_twice(outer)
    return values


def _entry(held: list[Any], outer: str, number: str, key: str) -> dict[str, Any]:
    """Find the object of a list that a key belongs to. Without a number a new one begins where the last one has that key already."""
    if number:
        index = int(number)
    else:
        is_new = not held or not isinstance(held[-1], dict) or key in held[-1]
        index = len(held) if is_new else len(held) - 1
    if index == len(held):
        held.append({})
    if index > len(held) or not isinstance(held[index], dict):
        raise InvalidParameter(outer[:60], "given in parts", "the objects of a list must come in their order")
    entry: dict[str, Any] = held[index]
    return entry


def _put(values: dict[str, Any], key: str, name: str, value: Any) -> None:
    if key in values:
        raise _given_twice(name)
    values[key] = value


def _given_twice(name: str) -> InvalidParameter:
    return InvalidParameter(printable(name[:60]), "given twice", "it must be given once")
