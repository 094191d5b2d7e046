"""Signatures as Standard Webhooks has them, which OpenAI's SDK checks too.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from vitascope.domain.secret import Secret

PREFIX = "whsec_"
_SECRET_BYTES = 32
"""The specification asks for 24 to 64."""


def new_secret() -> str:
    """Make what messages are signed with, in the form in which receivers are told it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signed_headers(message_id: str, body: bytes, now: datetime, good: Sequence[Secret]) -> dict[str, str]:
    """Return the headers of one attempt: signed anew at each with all that are good now, so that receivers can change over."""
    now = now.astimezone(UTC)  # the library takes any other zone's numbers for UTC's
    text = body.decode()
    signatures = [Webhook(secret.value).sign(message_id, now, text) for secret in good]
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
