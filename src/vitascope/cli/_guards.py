"""What stands around the making of videos on this machine, for commands that make them. Beside `app`, as `_marks` is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vitascope.domain.request import GenerationRequest
from vitascope.settings import Settings
from vitascope.worker.opening import Guards

if TYPE_CHECKING:
    from vitascope.engine import Engine
    from vitascope.engine.writer import LocalWriter
    from vitascope.moderation import FrameCheck
    from vitascope.prompting import Enhancer, Message, Stop, Writer


def open_guards(settings: Settings, engine: Engine) -> Guards:
    """Make what the settings ask for; of a room that they do not ask for, nothing is imported.

    Args:
        settings: all of them.
        engine: of this process, beside which a language model may work.

    Raises:
        SettingsError: it cannot be made.
    """
    return Guards(enhancer=_enhancer(settings, engine), frames=_frame_check(settings))


def check_prompt(settings: Settings, request: GenerationRequest) -> None:
    """Do what a server does before it queues a request; raises ContentRejected or ModerationUnavailable."""
    check = settings.moderation.prompt_check()
    if check is not None:
        asyncio.run(check.check(request.texts))


def _frame_check(settings: Settings) -> FrameCheck | None:
    wanted = settings.moderation
    if not wanted.frames:
        return None
    wanted.check_installed()
    from vitascope.moderation import FrameCheck

    return FrameCheck(wanted.threshold, wanted.frames_per_second)


def _enhancer(settings: Settings, engine: Engine) -> Enhancer | None:
    wanted = settings.prompting
    if wanted.model is None:
        return None
    from vitascope.prompting import Enhancer

    check = settings.moderation.prompt_check()
    return Enhancer(
        _writer(settings, wanted.model, engine),
        instructions=settings.prompting_instructions,
        seconds=wanted.timeout_seconds,
        max_chars=wanted.max_chars,
        check=None if check is None else check.check_now,
    )


def _writer(settings: Settings, model: str, engine: Engine) -> Writer:
    wanted = settings.prompting
    if wanted.url is None:
        return _Local(model, wanted.device or settings.engine.first_device, engine)
    from vitascope.outbound import OwnService
    from vitascope.prompting import ChatEndpoint

    key = None if wanted.api_key is None else wanted.api_key.get_secret_value()
    return ChatEndpoint(OwnService(wanted.url, key), model)


class _Local:
    """The engine's writer as `prompting` wants it: the rooms do not know each other. Torch comes with the first text."""

    def __init__(self, source: str, device: str, engine: Engine) -> None:
        self.name = source.rstrip("/").rpartition("/")[2]
        self._source, self._device, self._engine = source, device, engine
        self._writer: LocalWriter | None = None

    def write(self, messages: Sequence[Message], *, seed: int, seconds: float, stop: Stop) -> str:
        del seed  # it writes the most likely words
        from vitascope.engine.writer import LocalWriter, WriterFailed
        from vitascope.prompting import NotWritten

        if self._writer is None:
            self._writer = LocalWriter(self._source, device=self._device)
        try:
            with self._engine.aside():
                return self._writer.write(
                    [{"role": m["role"], "content": m["content"]} for m in messages],
                    seconds=seconds,
                    stop=stop,
                )
        except WriterFailed as error:
            raise NotWritten(error.reason) from error

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
