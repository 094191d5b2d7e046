"""What stands around the making of videos on this machine, for commands that make them. Beside `app`, as `_marks` is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vitascope.settings import Settings
from vitascope.worker.opening import Guards

if TYPE_CHECKING:
    from vitascope.engine.writer import LocalWriter
    from vitascope.prompting import Enhancer, Message, Stop, Writer


def open_guards(settings: Settings) -> Guards:
    """Make what the settings ask for; of a room that they do not ask for, nothing is imported.

    Raises:
        SettingsError: it cannot be made.
    """
    return Guards(enhancer=_enhancer(settings))


def _enhancer(settings: Settings) -> Enhancer | None:
    wanted = settings.prompting
    if wanted.model is None:
        return None
    from vitascope.prompting import Enhancer

    return Enhancer(
        _writer(settings, wanted.model),
        instructions=settings.prompting_instructions,
        seconds=wanted.timeout_seconds,
        max_chars=wanted.max_chars,
    )


def _writer(settings: Settings, model: str) -> Writer:
    wanted = settings.prompting
    if wanted.url is None:
        return _Local(model, settings.engine.device)
    from vitascope.outbound import OwnService
    from vitascope.prompting import ChatEndpoint

    key = None if wanted.api_key is None else wanted.api_key.get_secret_value()
    return ChatEndpoint(OwnService(wanted.url, key), model)


class _Local:
    """The engine's writer as `prompting` wants it: the rooms do not know each other. Torch comes with the first text."""

    def __init__(self, source: str, device: str) -> None:
        self.name = source.rstrip("/").rpartition("/")[2]
        self._source, self._device = source, device
        self._writer: LocalWriter | None = None

    def write(self, messages: Sequence[Message], *, seed: int, seconds: float, stop: Stop) -> str:
        del seed  # it writes the most likely words
        from vitascope.engine.writer import LocalWriter, WriterFailed
        from vitascope.prompting import NotWritten

        if self._writer is None:
            self._writer = LocalWriter(self._source, device=self._device)
        try:
            return self._writer.write(
                [{"role": m["role"], "content": m["content"]} for m in messages], seconds=seconds, stop=stop
            )
        except WriterFailed as error:
            raise NotWritten(error.reason) from error

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
