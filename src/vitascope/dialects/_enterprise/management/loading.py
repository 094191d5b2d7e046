"""Models, adapters and autoencoders that are brought to this server, and taken from it."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from vitascope.dialects import _http
from vitascope.domain.added import ModelKind
from vitascope.domain.command import CommandStatus
from vitascope.domain.errors import InternalError, InvalidParameter
from vitascope.service import Wish

from .calls import TEXT, Call, done
from .models import check_here, model_id_of
from .waiting import ended, said

_KINDS = {
    "huggingface": ModelKind.PIPELINE,
    "api_trained": ModelKind.PIPELINE,
    "diffusers": ModelKind.PIPELINE,
    "lora": ModelKind.LORA,
    "vae": ModelKind.VAE,
}

_NOT_SERVED = {
    "custom_ckpt": "single files of whole checkpoints are not served: convert it to diffusers' layout, of safetensors",
    "embeddings": "textual inversions are not served: no video pipeline takes them",
    "controlnet": "this server makes videos only, and its models take no ControlNet",
}

MAX_TRACK_CHARS = 255

_PRECISIONS = ("fp16", "fp32", "bf16")


async def load_model(request: Request, fields: _http.Fields) -> dict[str, Any]:
    """Fetch a model or an adapter and load it, beside the videos that are being made. `webhook` is told of the end."""
    kind = _kind_of(fields, "model_type")
    return await _load(request, fields, kind, "url", model_id_of(fields), "model load started")


async def load_model_v2(request: Request, fields: _http.Fields) -> dict[str, Any]:
    """Do the same; the kind is in `model_category` or `model_format` here."""
    kind = _kind_of(fields, "model_category", "model_format")
    return await _load(request, fields, kind, "url", model_id_of(fields), "model load started")


async def load_vae(request: Request, fields: _http.Fields) -> dict[str, Any]:
    """Fetch an autoencoder, which video calls then name as `vae`; one that does not fit their model is left out, and their `tip` says so."""
    kind = (fields.text("vae_type") or "diffusers").strip().lower()
    if kind not in ("diffusers", "safetensors"):
        rule = (
            "it must be `diffusers`: a pickle is never opened" if kind == "pt" else "it must be `diffusers`"
        )
        raise InvalidParameter("vae_type", kind, rule)
    name = (fields.text("vae_id") or "").strip()
    if not name:
        raise InvalidParameter("vae_id", "missing", "it must name the VAE")
    return await _load(request, fields, ModelKind.VAE, "vae_url", name, "VAE load started")


async def delete_model(request: Request, fields: _http.Fields) -> dict[str, Any]:
    """Let no request find a model any more, and remove its files unless another model needs them. Waits a moment for it."""
    desk, name = _http.desk_of(request), model_id_of(fields)
    additions = desk.service.additions
    if not await desk.read(additions.has, name):
        await check_here(request, name)
    command = await desk.write(additions.delete, name)
    if command is None:
        return done("Model deleted on server; no worker runs that could remove its files")
    command = await ended(desk, command)
    if command.status is CommandStatus.FAILED:
        raise InternalError("the model is not known any more, but its files stay: " + said(command))
    if command.status is CommandStatus.DONE:
        return done("Model deleted on server")
    return done("Model deleted on server; its files go once the running videos are made")


async def sync_models(request: Request, fields: _http.Fields) -> dict[str, Any]:
    """Take over what was added on another server: `sync_key` is its key, as the setting `peers` has it, of the scope `admin` there."""
    key = (fields.text("sync_key") or "").strip()
    if not key:
        raise InvalidParameter("sync_key", "missing", "it must be the other server's key")
    syncing = _http.desk_of(request).service.syncing
    synced = await asyncio.to_thread(syncing.take_over, key, _http.caller_of(request))
    message = f"{len(synced.taken)} Models synced successfully"
    left = {"skipped": dict(synced.left)} if synced.left else {}
    return done(message, model_list=list(synced.taken), **left)


async def _load(
    request: Request, fields: _http.Fields, kind: ModelKind, url_name: str, name: str, message: str
) -> dict[str, Any]:
    desk, caller = _http.desk_of(request), _http.caller_of(request)
    url = (fields.text(url_name) or "").strip()
    if not url:
        raise InvalidParameter(url_name, "missing", "it must say where the files are")
    webhook = (fields.text("webhook") or "").strip() or None
    if webhook is not None:
        await desk.service.webhooks.check(webhook)
    revision = (fields.text("revision") or "").strip()
    track_id = fields.values().get("track_id")
    if not isinstance(track_id, str | int | None) or len(str(track_id)) > MAX_TRACK_CHARS:
        raise InvalidParameter(
            "track_id", track_id, f"it must be a number, or text of up to {MAX_TRACK_CHARS}"
        )
    shown = {"model_id": name, "track_id": track_id}
    wish = Wish(
        id=name,
        source=url,
        kind=kind,
        revision=None if revision.lower() in ("", *_PRECISIONS) else revision,
        webhook=webhook,
        done={"status": "success", "message": "Model loaded", **shown},
        failed={"status": "failed", **shown},
    )
    try:
        await desk.write(desk.service.additions.add, wish, caller)
    except InvalidParameter as error:
        names = {"source": url_name, "id": "vae_id" if kind is ModelKind.VAE else "model_id"}
        shown_as = names.get(error.parameter, error.parameter)
        raise InvalidParameter(shown_as, error.value, error.rule, hint=error.hint) from None
    return done(message)


def _kind_of(fields: _http.Fields, *names: str) -> ModelKind:
    """Read what shall be loaded; a model unless something else is said.

    Raises:
        InvalidParameter: it is something that this server cannot serve.
    """
    for name in names:
        said_kind = (fields.text(name) or "").strip().lower()
        if said_kind in _NOT_SERVED:
            raise InvalidParameter(name, said_kind, _NOT_SERVED[said_kind])
        if said_kind in _KINDS:
            return _KINDS[said_kind]
        if said_kind and len(names) == 1:
            raise InvalidParameter(name, said_kind, f"it must be one of {', '.join(_KINDS)}")
    return ModelKind.PIPELINE


_SYNCED = done("3 Models synced successfully", model_list=["wan", "paint", "soft"])

_LOADED = {
    "url": TEXT,
    "model_id": TEXT,
    "revision": TEXT,
    "webhook": TEXT,
    "track_id": TEXT,
    "from_safetensors": TEXT,
    "upcast_attention": TEXT,
}

CALLS = (
    Call(
        "load_model",
        load_model,
        done("model load started"),
        {**_LOADED, "model_type": TEXT},
        ("url", "model_id"),
    ),
    Call(
        "load_model_v2",
        load_model_v2,
        done("model load started"),
        {**_LOADED, "model_category": TEXT, "model_format": TEXT},
        ("url", "model_id"),
    ),
    Call(
        "load_vae",
        load_vae,
        done("VAE load started"),
        {"vae_id": TEXT, "vae_url": TEXT, "vae_type": TEXT, "webhook": TEXT, "track_id": TEXT},
        ("vae_id", "vae_url"),
    ),
    Call("delete_model", delete_model, done("Model deleted on server"), {"model_id": TEXT}, ("model_id",)),
    Call("sync_models", sync_models, _SYNCED, {"sync_key": TEXT}, ("sync_key",), aliases=("sync_image",)),
)
