"""From a request over HTTP to its job: what all routes that take these fields do."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request

from vitascope.dialects import _http
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.job import Job

from .create import Order, prepare, to_order


async def make_job(request: Request, check: Callable[[Order], None] | None = None) -> Job:
    """Read a request's body and make its job, once.

    Args:
        request: whose body it is.
        check: what a route asks for beyond the rest; raises InvalidParameter.

    Raises:
        VitascopeError: nothing was stored: the body cannot be read, asks for what cannot be made, or there is no room.
    """
    desk = _http.desk_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    order = await _http.in_thread_if_large(
        fields.num_bytes, lambda: to_order(fields, desk.service.spec_of_vendor)
    )
    once = await _http.once_of(request, fields)
    caller = _http.caller_of(request)
    await desk.admit(request, once)
    try:
        if check is not None:
            check(order)
        draft = prepare(desk.service, order, caller)
        return await desk.submit(caller, draft, once, base_url=_http.base_url_of(request))
    except InvalidParameter as error:
        raise order.in_clients_words(error) from None
