"""What an error is in HTTP: its status, and when to try again. How it is worded is each dialect's own."""

from __future__ import annotations

from vitascope.domain.access import Allowance
from vitascope.domain.errors import (
    BatchNotFound,
    BodyTooLarge,
    BodyTooSlow,
    CharacterNotFound,
    CommandNotFound,
    DeliveryConflict,
    DeliveryNotFound,
    DiskFull,
    EndpointNotFound,
    FileNotFound,
    ForbiddenOrigin,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidApiKey,
    JobConflict,
    JobNotFound,
    KeyNotFound,
    LinkNotFound,
    ModelInUse,
    ModerationUnavailable,
    NotAvailable,
    NoWorker,
    PeerUnavailable,
    PermissionDenied,
    QueueFull,
    RateLimitExceeded,
    RequestError,
    StorageLimitReached,
    StorageUnavailable,
    StoreUnavailable,
    UnsupportedContentType,
    VideoExpired,
    VideoFailed,
    VideoNotReady,
    VitascopeError,
)

#: HTTP status by error; every other RequestError is 400, every other error 500.
_STATUS: dict[type[VitascopeError], int] = {
    ForbiddenOrigin: 403,
    JobNotFound: 404,
    CharacterNotFound: 404,
    LinkNotFound: 404,
    VideoNotReady: 404,
    VideoFailed: 404,
    VideoExpired: 404,
    JobConflict: 409,
    InvalidApiKey: 401,
    InsufficientCredits: 402,
    PermissionDenied: 403,
    StorageLimitReached: 403,
    KeyNotFound: 404,
    BatchNotFound: 404,
    FileNotFound: 404,
    CommandNotFound: 404,
    EndpointNotFound: 404,
    NotAvailable: 404,
    DeliveryNotFound: 404,
    DeliveryConflict: 409,
    ModelInUse: 409,
    NoWorker: 503,
    RateLimitExceeded: 429,
    IdempotencyConflict: 409,
    BodyTooLarge: 413,
    BodyTooSlow: 408,
    UnsupportedContentType: 415,
    QueueFull: 429,
    StoreUnavailable: 503,
    StorageUnavailable: 503,
    DiskFull: 503,
    ModerationUnavailable: 503,
    PeerUnavailable: 503,
}

STORE_RETRY_SECONDS = 2

MODERATION_RETRY_SECONDS = 5

DISK_RETRY_SECONDS = 30
"""Expired files are looked for so often. The OpenAI SDK tries twice more by itself, so its caller hears of it within a minute."""


def status_of(error: VitascopeError) -> int:
    return _STATUS.get(type(error), 400 if isinstance(error, RequestError) else 500)


def retry_headers(error: VitascopeError) -> dict[str, str]:
    """Tell when to try again, where that helps, and not to where it does not."""
    if isinstance(error, IdempotencyConflict | DeliveryConflict | InsufficientCredits):
        return {"x-should-retry": "false"}  # the SDKs would retry a 409, and OpenAI's 429
    if isinstance(error, InvalidApiKey):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, RateLimitExceeded):
        nothing_left = Allowance(error.limit, 0, error.retry_after_seconds)
        return {"retry-after": str(error.retry_after_seconds), **allowance_headers(nothing_left)}
    if isinstance(error, QueueFull):
        return {"retry-after": str(error.retry_after_seconds)}
    if isinstance(error, StoreUnavailable | StorageUnavailable):
        return {"retry-after": str(STORE_RETRY_SECONDS)}
    if isinstance(error, ModerationUnavailable):
        return {"retry-after": str(MODERATION_RETRY_SECONDS)}
    if isinstance(error, DiskFull):
        return {"retry-after": str(DISK_RETRY_SECONDS)}
    return {}


def allowance_headers(allowance: Allowance) -> dict[str, str]:
    """Tell what a key has left in this minute, as OpenAI's clients read it."""
    return {
        "x-ratelimit-limit-requests": str(allowance.limit),
        "x-ratelimit-remaining-requests": str(allowance.remaining),
        "x-ratelimit-reset-requests": f"{allowance.reset_seconds}s",
    }
