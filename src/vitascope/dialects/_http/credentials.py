"""Where a request carries its API key, and what the caller may do with it."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request

from vitascope.domain.access import Caller, Scope
from vitascope.domain.errors import InvalidApiKey, PermissionDenied

from .desk import desk_of

READING_METHODS = frozenset({"GET", "HEAD"})

HEADERS = ("x-api-key", "api-key")
"""Other places for a key, beside `Authorization: Bearer`."""

NAMES_IN_ADDRESSES = frozenset({"key", "api_key", "apikey", "access_token", "token"})


async def authenticate(request: Request, scope: Scope | None, *, more_keys: Collection[str] = ()) -> None:
    """Find out who calls and note it with the request; decided on the route that was chosen.

    Args:
        request: with its key, where the server has keys.
        scope: what the route needs; None is reading or generating, by the method.
        more_keys: keys that were found where only some vendor's clients put them.

    Raises:
        InvalidApiKey: there is no good key.
        PermissionDenied: the key is for something else.
    """
    caller = request.state.caller = await _identify(request, more_keys)
    needed = scope or (Scope.READ if request.method in READING_METHODS else Scope.GENERATE)
    if not caller.may(needed):
        held = ", ".join(sorted(caller.scopes))
        raise PermissionDenied(f"this needs an API key with the scope `{needed}`; this one has {held}")


async def _identify(request: Request, more_keys: Collection[str]) -> Caller:
    desk = desk_of(request)
    try:
        secret = _key_of(request, more_keys)
    except InvalidApiKey:
        if await desk.read(desk.service.keys.is_open):
            return desk.service.keys.identify(None)
        raise
    return await desk.read(desk.service.keys.identify, secret)


def _key_of(request: Request, more_keys: Collection[str] = ()) -> str | None:
    """Return the key that was sent; None if there is none.

    Raises:
        InvalidApiKey: it is in the wrong place, or there are two.
    """
    headers = (value for name in HEADERS for value in request.headers.getlist(name))
    found = {value.strip() for value in (*headers, *more_keys) if value.strip()}
    for header in request.headers.getlist("authorization"):
        scheme, _, value = header.partition(" ")
        if scheme.lower() != "bearer":
            raise InvalidApiKey(
                "the Authorization header is not of the kind `Bearer`",
                hint="send `Authorization: Bearer KEY`",
            )
        if value.strip():
            found.add(value.strip())
    if len(found) > 1:
        raise InvalidApiKey("two different API keys were sent", hint="send one")
    if any(
        value and name.lower() in NAMES_IN_ADDRESSES for name, value in request.query_params.multi_items()
    ):
        # addresses are logged by whatever passes them on: told even beside a good key
        raise InvalidApiKey(
            "an API key in the address is not accepted",
            hint="send `Authorization: Bearer KEY`, and rotate this key",
        )
    return found.pop() if found else None


def caller_of(request: Request) -> Caller:
    """Return who sent a request that was authenticated."""
    caller: Caller = request.state.caller
    return caller
