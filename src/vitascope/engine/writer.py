"""A language model of transformers that writes prompts out: loaded for it, and unloaded when it has."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from . import background, shortage
from .device import choose_device

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 400
"""Three times the words that a prompt is asked to have; a model that never ends costs no more."""


class WriterFailed(Exception):
    """There is no text.

    Args:
        reason: why, as the rest of the sentence "the language model …".
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class LocalWriter:
    """Writes with a model of this machine's disk: the most likely words, so that the same prompt gives the same text.

    Safetensors only, classes of transformers only, nothing is fetched from a hub.

    Args:
        source: a folder, or the id of a hub's model that has been downloaded.
        device: torch device, or "auto".
    """

    def __init__(self, source: str, *, device: str = "auto") -> None:
        self.name = Path(source).name
        self._source = source
        self._device, _ = choose_device(device)
        self._tokenizer: Any = None
        self._model: Any = None

    def write(
        self, messages: Sequence[Mapping[str, str]], *, seconds: float, stop: Callable[[], bool]
    ) -> str:
        """Continue a conversation.

        Raises:
            WriterFailed: the model cannot be loaded, does not fit, or has not ended in time.
        """
        until = time.monotonic() + seconds
        try:
            self._load()
            return self._written(messages, until, stop)
        except (RuntimeError, OSError, MemoryError, ValueError) as error:
            if shortage.is_shortage(error):
                raise WriterFailed("did not fit into the memory") from error
            if isinstance(error, RuntimeError):
                raise
            # what transformers raises where files are missing or of another kind
            raise WriterFailed("could not be loaded") from error

    def close(self) -> None:
        """Unload it."""
        self._tokenizer = self._model = None
        shortage.reclaim(self._device)

    def _load(self) -> None:
        if self._model is not None:
            return
        only = {"local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(self._source, **only)
        loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        self._tokenizer = AutoTokenizer.from_pretrained(self._source, **only)
        model = loader.from_pretrained(self._source, use_safetensors=True, dtype="auto", **only)
        if self._device.type == "cpu" and model.dtype == torch.float16:
            model = model.float()  # hundreds of times faster there
        self._model = model.to(self._device).eval()

    def _written(self, messages: Sequence[Mapping[str, str]], until: float, stop: Callable[[], bool]) -> str:
        tokens = self._read(messages)
        is_over = _Until(lambda: stop() or time.monotonic() > until)
        with torch.inference_mode():
            made = self._model.generate(
                **tokens,
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
                stopping_criteria=transformers.StoppingCriteriaList([is_over]),
            )
        if is_over.is_met:
            raise WriterFailed("had not ended in time")
        start = 0 if self._model.config.is_encoder_decoder else tokens["input_ids"].shape[1]
        return str(self._tokenizer.decode(made[0, start:], skip_special_tokens=True))

    def _read(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        if self._tokenizer.chat_template:
            read = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        else:  # a model that was not taught to talk, but perhaps to write prompts on
            read = self._tokenizer(messages[-1]["content"], return_tensors="pt")
        wanted = ("input_ids", "attention_mask")
        return {name: read[name].to(self._device) for name in wanted if name in read}


class _Until(transformers.StoppingCriteria):  # type: ignore[misc]
    """Ends the writing after the next word."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over
        self.is_met = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_more: Any) -> torch.Tensor:
        self.is_met = self.is_met or self._is_over()
        background.rest()
        return torch.full((input_ids.shape[0],), self.is_met, dtype=torch.bool, device=input_ids.device)
