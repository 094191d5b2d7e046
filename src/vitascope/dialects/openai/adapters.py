"""`lora`: adapters of the operator by name, in the forms that vLLM-Omni's clients send."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitascope.dialects._http import Fields, shown
from vitascope.domain.errors import InvalidParameter, shorten
from vitascope.domain.loras import MAX_LORAS
from vitascope.domain.request import Lora

from .superset import is_off

if TYPE_CHECKING:
    from .create import Order

MAX_NAME_CHARS = 255

NAMES = ("name", "lora_name", "adapter")
SCALES = ("scale", "lora_scale")
PATHS = ("path", "lora_path", "local_path", "lora_local_path")
NUMBERS = ("int_id", "lora_int_id")


def read_loras(order: Order, fields: Fields) -> None:
    """Read a name, an object, or a list of either; what is switched off keeps the adapters of a source away too.

    Raises:
        InvalidParameter: one names no adapter, or is of the wrong type or form.
    """
    value = fields.raw("lora")
    if is_off(value):
        if value not in (None, ""):
            order.names["loras"] = "lora"
        return
    listed = fields.listing("lora", MAX_LORAS)
    is_list = isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[")
    loras = []
    for index, entry in enumerate(listed):
        name = f"lora[{index}]" if is_list else "lora"
        loras.append(_read(order, name, entry))
        order.names |= {f"loras[{index}].name": f"{name}[name]", f"loras[{index}].scale": f"{name}[scale]"}
    order.names["loras"] = "lora"
    order.change(loras=tuple(loras))


def _read(order: Order, parameter: str, value: object) -> Lora:
    if isinstance(value, str) and value.lstrip()[:1] != "{":
        return Lora(Fields({parameter: value}).text(parameter, max_chars=MAX_NAME_CHARS) or "")
    if not isinstance(value, str | dict):
        raise InvalidParameter(
            parameter, shown(value), "it must be an adapter's name or an object with `name`"
        )
    inner = Fields(Fields({parameter: value}).mapping(parameter))
    try:
        inner.check_names((*NAMES, *SCALES, *PATHS, *NUMBERS))
        asked = inner.text(inner.first(*NAMES), max_chars=MAX_NAME_CHARS)
        scale = inner.number(inner.first(*SCALES))
    except InvalidParameter as error:
        name = f"{parameter}[{error.parameter}]"
        raise InvalidParameter(name, error.value, error.rule, hint=error.hint) from None
    path = inner.raw(inner.first(*PATHS))
    if not asked:
        rule = "it must name an adapter of the server's operator"
        hint = "a path or URL of a client is never opened" if path else None
        raise InvalidParameter(f"{parameter}[name]", "missing", rule, hint=hint)
    if path:
        reason = f"the operator's of that name: {shorten(path)} of the client is not opened"
        order.tell(parameter, asked, reason)
    return Lora(asked) if scale is None else Lora(asked, scale)
