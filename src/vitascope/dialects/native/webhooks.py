"""/api/v1/webhooks: a key's endpoints, and what became of what they were told."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vitascope.dialects import _http
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.secret import Secret
from vitascope.domain.webhook import MessageStatus

from . import schema
from .answers import error_response
from .keys import PRIVATE


def router() -> APIRouter:
    """Make the routes."""
    made = APIRouter(
        prefix="/api/v1/webhooks", tags=["Webhooks"], route_class=_http.route_class(error_response)
    )
    add, errors = made.add_api_route, schema.ERRORS
    new = {201: {"model": schema.NewEndpoint}, **errors}
    one = {200: {"model": schema.Endpoint}, **errors}
    secrets = {200: {"model": schema.EndpointSecrets}, **errors}
    delivery = {200: {"model": schema.Delivery}, **errors}
    pages = {200: {"model": schema.DeliveryPage}, **errors}
    sent = {202: {"model": schema.Delivery}, **errors}
    path = "/endpoints/{endpoint_id}"
    add("/endpoints", add_endpoint, methods=["POST"], status_code=201, responses=new, openapi_extra=schema.ADD_ENDPOINT)  # fmt: skip
    add("/endpoints", endpoints, responses={200: {"model": schema.EndpointList}, **errors})
    add(path, endpoint, responses=one)
    add(path, remove, methods=["DELETE"], status_code=204, responses=errors)
    add(f"{path}/enable", enable, methods=["POST"], responses=one)
    add(f"{path}/secret", secret, responses=secrets)
    add(f"{path}/rotate", rotate, methods=["POST"], responses=secrets)
    add(f"{path}/test", test, methods=["POST"], status_code=202, responses=sent)
    add("/deliveries", deliveries, responses=pages, openapi_extra=schema.DELIVERY_PAGE)
    add("/deliveries/{delivery_id}", show, responses=delivery)
    add("/deliveries/{delivery_id}/replay", replay, methods=["POST"], status_code=202, responses=sent)
    return made


async def add_endpoint(request: Request) -> Response:
    """Tell a URL how this key's jobs end, from now on. The answer has what its messages are signed with."""
    desk = _http.desk_of(request)
    fields = await _http.read_body(request, desk.max_body_bytes)
    fields.check_names(("url", "events", "name"))
    url = fields.text("url")
    if not url:
        raise InvalidParameter("url", "missing", "it must say where webhooks are sent")
    await desk.service.webhooks.check(url, "url")
    caller, events = _http.caller_of(request), _events(fields)
    name = fields.text("name", max_chars=255) or ""
    made, secret = await desk.write(desk.service.webhooks.add, url, events, caller, name)
    return JSONResponse({**made.to_dict(), "secret": secret.value}, status_code=201, headers=PRIVATE)


async def endpoints(request: Request) -> Response:
    """List the key's endpoints, or everybody's for a key with the scope `admin`."""
    desk = _http.desk_of(request)
    found = await desk.read(desk.service.webhooks.endpoints, _http.caller_of(request))
    return JSONResponse({"endpoints": [one.to_dict() for one in found]})


async def endpoint(endpoint_id: str, request: Request) -> Response:
    """Show an endpoint."""
    desk = _http.desk_of(request)
    found = await desk.read(desk.service.webhooks.endpoint, endpoint_id, _http.caller_of(request))
    return JSONResponse(found.to_dict())


async def remove(endpoint_id: str, request: Request) -> Response:
    """Forget an endpoint; what was still to be sent there is not."""
    desk = _http.desk_of(request)
    await desk.write(desk.service.webhooks.remove, endpoint_id, _http.caller_of(request))
    return Response(status_code=204)


async def enable(endpoint_id: str, request: Request) -> Response:
    """Let an endpoint that was disabled be told again, of what happens from now on."""
    desk = _http.desk_of(request)
    found = await desk.write(desk.service.webhooks.enable, endpoint_id, _http.caller_of(request))
    return JSONResponse(found.to_dict())


async def secret(endpoint_id: str, request: Request) -> Response:
    """Show what an endpoint's messages are signed with."""
    desk = _http.desk_of(request)
    # makes one where it was lost with the key that it was encrypted with
    found = await desk.write(desk.service.webhooks.secrets, endpoint_id, _http.caller_of(request))
    return _secrets_answer(endpoint_id, found)


async def rotate(endpoint_id: str, request: Request) -> Response:
    """Make another secret for an endpoint; its messages are signed with the old one too for 24 hours."""
    desk = _http.desk_of(request)
    found = await desk.write(desk.service.webhooks.rotate, endpoint_id, _http.caller_of(request))
    return _secrets_answer(endpoint_id, found)


async def test(endpoint_id: str, request: Request) -> Response:
    """Send an endpoint a message that is about no job; the answer is its delivery, to be read again."""
    desk = _http.desk_of(request)
    made = await desk.write(desk.service.webhooks.test, endpoint_id, _http.caller_of(request))
    return JSONResponse(made.to_dict(), status_code=202)


async def deliveries(request: Request) -> Response:
    """List webhooks with all attempts, the newest first."""
    desk = _http.desk_of(request)
    query = _http.Fields(dict(request.query_params))
    query.check_names(("limit", "order", "after", "status", "job", "endpoint"))
    limit, order = _http.limit_and_order(query, min_limit=1)
    job_id = query.text("job")
    page = await desk.read(
        desk.service.webhooks.deliveries,
        _http.caller_of(request),
        after=query.text("after") or None,
        limit=limit,
        order=order,
        status=_status(query.text("status")),
        job_id=job_id.rpartition("_")[2] if job_id else None,
        endpoint_id=query.text("endpoint") or None,
    )
    shown = [delivery.to_dict() for delivery in page.deliveries]
    return JSONResponse({"deliveries": shown, "has_more": page.has_more})


async def show(delivery_id: str, request: Request) -> Response:
    """Show a webhook with all attempts to deliver it."""
    desk = _http.desk_of(request)
    found = await desk.read(desk.service.webhooks.delivery, delivery_id, _http.caller_of(request))
    return JSONResponse(found.to_dict())


async def replay(delivery_id: str, request: Request) -> Response:
    """Send a webhook once more, with the id and the body that it had; a new round of attempts begins."""
    desk = _http.desk_of(request)
    found = await desk.write(desk.service.webhooks.replay, delivery_id, _http.caller_of(request))
    return JSONResponse(found.to_dict(), status_code=202)


def _secrets_answer(endpoint_id: str, secrets: tuple[Secret, ...]) -> Response:
    shown = {"endpoint_id": endpoint_id, "secrets": [one.to_dict() for one in secrets]}
    return JSONResponse(shown, headers=PRIVATE)


def _events(fields: _http.Fields) -> list[str]:
    events = fields.listing("events", 10)
    if not all(isinstance(event, str) for event in events):
        raise InvalidParameter("events", "given", "it must be a list of names")
    return [name.strip() for event in events for name in event.split(",")]


def _status(text: str | None) -> MessageStatus | None:
    if not text:
        return None
    try:
        return MessageStatus(text)
    except ValueError:
        raise InvalidParameter("status", text, f"it must be one of {', '.join(MessageStatus)}") from None
