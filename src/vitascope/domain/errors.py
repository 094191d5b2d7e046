"""Every error that Vitascope raises on purpose.

    VitascopeError                  code, message, hint; the message defaults to the docstring
    ├── RequestError                the caller can fix it
    │   ├── InvalidParameter        .parameter .rule .nearest
    │   ├── UnknownModel
    │   ├── JobNotFound
    │   ├── CharacterNotFound
    │   ├── LinkNotFound            a signed one: changed, outdated, or of a file that is gone
    │   ├── VideoNotReady
    │   ├── VideoFailed
    │   ├── VideoExpired
    │   ├── JobConflict
    │   ├── IdempotencyConflict
    │   ├── InvalidApiKey
    │   ├── PermissionDenied
    │   ├── RateLimitExceeded       .retry_after_seconds .limit
    │   ├── StorageLimitReached
    │   ├── FileNotFound            one that was uploaded, or that a batch has written
    │   ├── BatchNotFound
    │   ├── BatchConflict
    │   ├── KeyNotFound
    │   ├── CommandNotFound
    │   ├── EndpointNotFound
    │   ├── EndpointSilent
    │   ├── NotAvailable            a call that a vendor has and this server has not
    │   ├── DeliveryNotFound
    │   ├── DeliveryConflict
    │   ├── ModelInUse
    │   ├── UnreadableBody
    │   ├── UnsupportedContentType
    │   ├── BodyTooLarge
    │   ├── BodyTooSlow
    │   ├── ForbiddenOrigin
    │   ├── UrlRefused              .rule
    │   ├── BucketRefused           one that videos shall go to: its storage says no
    │   ├── ContentRejected         .parameter .reasons
    │   ├── InsufficientCredits     .needed .left
    │   └── QueueFull               .retry_after_seconds
    ├── GenerationError             the job failed; stored with the job
    │   ├── ModelUnavailable
    │   ├── ModelTooLarge           its weights have no room, however they are placed
    │   ├── OutOfMemory             .peak_bytes
    │   ├── InvalidOutput
    │   ├── UnreadableImage
    │   ├── UnreadableVideo
    │   ├── WriteFailed
    │   ├── SigningFailed
    │   ├── WorkerLost
    │   └── InternalError
    ├── StorageError
    │   └── StorageUnavailable      it may do it later
    ├── ModerationUnavailable       nobody says whether a request's words are allowed; somebody may later
    ├── PeerUnavailable             a peer does not say what was added there
    ├── DiskFull                    no room for more videos; there may be later
    ├── SecretUnreadable            one in the database, with the keys that this machine has
    ├── NoWorker                    nobody is there to carry a command out
    ├── StoreUnavailable            the database does not answer; it may later
    ├── LeaseLost                   a worker came back too late; it writes nothing
    ├── ServerBusy                  another `serve` holds the data folder
    ├── ServerUnreachable           the command line asked a server that does not answer; it may later
    ├── ServerRefusal               .status .server_code; the command line asked a server that said no
    └── SettingsError               raised at start, never during a request

`code` is the class name in snake_case and never changes: it is stored, logged and shown to clients. Messages are
one sentence with the value and the rule; they hold no paths of the server and no tracebacks.
"""

from __future__ import annotations

import re
from typing import ClassVar


class VitascopeError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "vitascope_error"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        self.message = message or (self.__doc__ or "").split("\n", 1)[0]
        self.hint = hint
        super().__init__(self.message)


class RequestError(VitascopeError):
    """The request cannot be carried out as it stands."""


_SAID = frozenset({"given", "missing", "null", "a file", "an object", "a list"})
"""What is said of a value in place of it."""


class InvalidParameter(RequestError):
    """A parameter has a value that the model or the server does not accept.

    Args:
        parameter: name in our words (`num_frames`); dialects translate it into their own.
        value: what was asked for, shown shortened; or what is said of it, such as "missing".
        rule: the rule that it breaks, as the rest of the sentence "`x` …": "must be a multiple of 16".
        nearest: the nearest legal value, where there is one.
    """

    def __init__(
        self,
        parameter: str,
        value: object,
        rule: str,
        *,
        nearest: object | None = None,
        hint: str | None = None,
    ) -> None:
        # a client may call a field by half a character, which no answer can hold
        self.parameter = parameter.encode("utf-8", "backslashreplace").decode()
        self.value = value
        self.rule = rule
        self.nearest = nearest
        super().__init__(self.sentence(self.parameter), hint=hint)

    def sentence(self, parameter: str) -> str:
        """Say the error with the parameter under another name, as a dialect shows it."""
        is_said = isinstance(self.value, str) and self.value in _SAID
        shown = self.value if is_said else shorten(self.value)
        sentence = f"`{parameter}` is {shown}, but {self.rule}."
        if self.nearest is not None:
            sentence += f" The nearest legal value is {shorten(self.nearest)}."
        return sentence


class UnknownModel(RequestError):
    """No model of that name is configured."""


class JobNotFound(RequestError):
    """There is no such job."""


class CharacterNotFound(RequestError):
    """There is no such character."""


class LinkNotFound(RequestError):
    """The link is not valid, or not any more."""


class VideoNotReady(RequestError):
    """The video is not ready yet."""


class VideoFailed(RequestError):
    """There is no video: the job failed or was cancelled."""


class VideoExpired(RequestError):
    """The video is not kept any more."""


class JobConflict(RequestError):
    """The job is not in a state that allows this."""


class IdempotencyConflict(RequestError):
    """The Idempotency-Key was used for another request."""


class InvalidApiKey(RequestError):
    """The API key is not known."""


class PermissionDenied(RequestError):
    """The API key may not do this."""


class RateLimitExceeded(RequestError):
    """The API key has sent too many requests."""

    def __init__(self, message: str = "", *, limit: int, retry_after_seconds: int) -> None:
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class StorageLimitReached(RequestError):
    """The API key's videos and files take as much space as they may."""


class FileNotFound(RequestError):
    """There is no such file."""


class BatchNotFound(RequestError):
    """There is no such batch."""


class BatchConflict(RequestError):
    """The batch is not in a state that allows this."""


class KeyNotFound(RequestError):
    """There is no such API key."""


class CommandNotFound(RequestError):
    """There is no such command."""


class EndpointNotFound(RequestError):
    """There is no such webhook endpoint."""


class EndpointSilent(RequestError):
    """The webhook endpoint gave no answer."""


class NotAvailable(RequestError):
    """This server does not do this."""


class DeliveryNotFound(RequestError):
    """There is no such webhook delivery."""


class DeliveryConflict(RequestError):
    """The webhook cannot be sent: its endpoint or its API key is not good any more."""


class ModelInUse(RequestError):
    """A worker has the model loaded."""


class UnreadableBody(RequestError):
    """The request body cannot be read."""


class UnsupportedContentType(RequestError):
    """The request body is of a kind that the server does not read."""


class BodyTooLarge(RequestError):
    """The request body is larger than the server accepts."""


class BodyTooSlow(RequestError):
    """The request body came too slowly."""


class ForbiddenOrigin(RequestError):
    """The request comes from a page, or under a name, that may not use this server."""


class UrlRefused(RequestError):
    """The URL is not one that the server fetches, or what it leads to cannot be had.

    Args:
        rule: the rule that it breaks, as in `InvalidParameter`; tells nothing of what is in the server's own network.
    """

    def __init__(self, rule: str = "", *, hint: str | None = None) -> None:
        self.rule = rule
        super().__init__(f"the URL is refused: {rule}" if rule else "", hint=hint)


class BucketRefused(RequestError):
    """The bucket cannot be used as it was described."""


class ContentRejected(RequestError):
    """What was asked for, or what was made, is not what this server's operator allows.

    A job that was refused only once it was made, or because of the pictures that came with it, fails with this too.

    Args:
        parameter: in our words, such as `prompt`; "video" for what was made.
        value: the text that was sent, or what is said of it.
        rule: what was found, as in `InvalidParameter`: "it holds 'x'".
        reasons: the same in single words.
    """

    def __init__(
        self, parameter: str = "", value: str = "", rule: str = "", *, reasons: tuple[str, ...] = ()
    ) -> None:
        self.parameter = parameter
        self.value = value
        self.rule = rule
        self.reasons = reasons
        what = (
            "the video that was made is not given out"
            if parameter == "video"
            else f"`{parameter}` is refused"
        )
        super().__init__(f"{what}: {rule}" if rule else "")


class InsufficientCredits(RequestError):
    """The API key has not enough credits for this.

    Args:
        needed: what the request costs.
        left: what the key has.
    """

    def __init__(self, needed: int, left: int) -> None:
        self.needed = needed
        self.left = left
        message = f"this costs {needed} credits, and the API key has {left}"
        super().__init__(
            message, hint="ask for less or for a smaller or shorter video, or have credits granted"
        )


class QueueFull(RequestError):
    """The queue is full."""

    def __init__(self, message: str = "", *, retry_after_seconds: int = 30) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class GenerationError(VitascopeError):
    """The video could not be made."""


class ModelUnavailable(GenerationError):
    """The model's files could not be loaded."""


class ModelTooLarge(GenerationError):
    """The model is larger than this machine can hold."""


class OutOfMemory(GenerationError):
    """The device ran out of memory.

    Args:
        peak_bytes: most that was in use; 0 if that was not measured.
    """

    def __init__(self, message: str = "", *, peak_bytes: int = 0, hint: str | None = None) -> None:
        self.peak_bytes = peak_bytes
        super().__init__(message, hint=hint)


class InvalidOutput(GenerationError):
    """The model produced numbers that are not a picture."""


class UnreadableImage(GenerationError):
    """The image could not be read."""


class UnreadableVideo(GenerationError):
    """The video that was sent could not be read."""


class WriteFailed(GenerationError):
    """The video file could not be written."""


class SigningFailed(GenerationError):
    """The video's origin could not be signed into the file."""


class WorkerLost(GenerationError):
    """The worker stopped while it made this video, as often as the server tries."""


class InternalError(GenerationError):
    """An unexpected error occurred on the server."""


class StorageError(VitascopeError):
    """The storage did not do what was asked."""


class StorageUnavailable(StorageError):
    """The storage of videos does not answer."""


class ModerationUnavailable(VitascopeError):
    """The server's content check does not answer."""


class PeerUnavailable(VitascopeError):
    """A peer server does not answer, or not as one that this server may ask."""


class DiskFull(VitascopeError):
    """The server has too little disk space left for another video."""


class SecretUnreadable(VitascopeError):
    """A secret in the database was encrypted with another key than this machine has."""


class NoWorker(VitascopeError):
    """No worker is running that could carry this out."""


class StoreUnavailable(VitascopeError):
    """The job store does not answer."""


class LeaseLost(VitascopeError):
    """The job is another worker's by now."""


class ServerBusy(VitascopeError):
    """Another server is using this data folder."""


class ServerUnreachable(VitascopeError):
    """The server does not answer."""


class ServerRefusal(VitascopeError):
    """The server refused what it was asked.

    Args:
        status: of HTTP.
        server_code: the code that the server gave; empty if it gave none that we know.
    """

    def __init__(
        self, message: str = "", *, status: int, server_code: str = "", hint: str | None = None
    ) -> None:
        self.status = status
        self.server_code = server_code
        super().__init__(message, hint=hint)


class SettingsError(VitascopeError):
    """A setting has a value that cannot work."""


def shorten(value: object, limit: int = 60) -> str:
    """Show a user-given value in a message: quoted if text, never longer than `limit`."""
    # a text of megabytes is cut first: to quote all of it took the event loop a quarter of a second
    text = repr(value[:limit]) if isinstance(value, str) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
