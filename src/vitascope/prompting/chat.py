"""A language model behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from vitascope.outbound import OwnService, Unanswered

from .writer import Message, NotWritten, Stop

PATH = "/chat/completions"

STOP_LOOK_SECONDS = 0.1

SEED_BITS = 31
"""Endpoints read a seed into a signed integer of 32 bits."""


class ChatEndpoint:
    """Asks an endpoint.

    Args:
        service: where it is.
        model: its name there.
    """

    def __init__(self, service: OwnService, model: str) -> None:
        self._service = service
        self.name = model

    def write(self, messages: Sequence[Message], *, seed: int, seconds: float, stop: Stop) -> str:
        return _text_of(asyncio.run(self._asked(messages, seed, seconds, stop)))

    def close(self) -> None:
        """Nothing is held."""

    async def _asked(self, messages: Sequence[Message], seed: int, seconds: float, stop: Stop) -> Any:
        asking = asyncio.ensure_future(self._ask(messages, seed, seconds))
        try:
            while not (await asyncio.wait({asking}, timeout=STOP_LOOK_SECONDS))[0]:
                if stop():
                    raise NotWritten("was not waited for")
            return asking.result()
        except Unanswered as error:
            raise NotWritten(error.reason) from error
        finally:
            asking.cancel()

    async def _ask(self, messages: Sequence[Message], seed: int, seconds: float) -> Any:
        plain = {"model": self.name, "messages": list(messages), "stream": False}
        until = asyncio.get_running_loop().time() + seconds
        try:
            steady = {**plain, "temperature": 0, "seed": seed % (1 << SEED_BITS)}
            return await self._service.post(PATH, steady, seconds=seconds)
        except Unanswered as error:
            if error.status not in (400, 422):
                raise
        # models that reason take no temperature, and some servers no seed
        left = max(0.1, until - asyncio.get_running_loop().time())
        return await self._service.post(PATH, plain, seconds=left)


def _text_of(answer: Any) -> str:
    """Find the text in an answer, which may be anything."""
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
    except (AttributeError, IndexError, KeyError, TypeError):
        raise NotWritten("answered in a form that is not a chat's") from None
    if refusal or choice.get("finish_reason") == "content_filter":
        raise NotWritten("refused to write it")
    if choice.get("finish_reason") == "length":
        raise NotWritten("did not come to an end")
    if isinstance(content, list):  # parts, as some servers send them
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str | None):
        raise NotWritten("answered in a form that is not a chat's")
    return content or ""
