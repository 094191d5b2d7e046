"""The composition root: settings in, a running web app or a worker out. Imports no torch.

Here settings meet the rooms: each room is handed the few values that it needs.
"""

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
from .server import run_web
from .web import WEBHOOK_FORMATS, create_web_app
from .workers import check_peer, open_peer_worker, open_worker, why_no_peers

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
