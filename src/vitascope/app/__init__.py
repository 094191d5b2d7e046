"""The composition root: settings in, a running web app or a worker out. Imports no torch.

Here settings meet the rooms: each room is handed the few values that it needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .checks import (
    check_address,
    check_guards,
    check_host,
    check_marks,
    check_secrets,
    check_storage,
)
from .opening import (
    cipher_of,
    known_certificates,
    open_catalog,
    open_credentials,
    open_outbound,
    open_places,
    open_prompt_check,
    open_storage,
    open_store,
)
from .workers import check_peer, open_peer_worker, open_worker, why_no_peers

if TYPE_CHECKING:
    from .server import run_web
    from .web import WEBHOOK_FORMATS, create_web_app

__all__ = [
    "WEBHOOK_FORMATS",
    "check_address",
    "check_guards",
    "check_host",
    "check_marks",
    "check_peer",
    "check_secrets",
    "check_storage",
    "cipher_of",
    "create_web_app",
    "known_certificates",
    "open_catalog",
    "open_credentials",
    "open_outbound",
    "open_peer_worker",
    "open_places",
    "open_prompt_check",
    "open_storage",
    "open_store",
    "open_worker",
    "run_web",
    "why_no_peers",
]

_OF_THE_WEB = {"run_web": "server", "WEBHOOK_FORMATS": "web", "create_web_app": "web"}
"""What needs the web framework and all dialects: imported when it is named, so that workers, the supervisor and commands
start without (docs/experiments.md)."""


def __getattr__(name: str) -> Any:
    if name in _OF_THE_WEB.values():
        return importlib.import_module(f".{name}", __name__)
    if name in _OF_THE_WEB:
        return getattr(importlib.import_module(f".{_OF_THE_WEB[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
