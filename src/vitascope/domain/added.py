"""Models, adapters and autoencoders that an operator adds while the server runs, beside the cards of its machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

WITH_VAE = "+vae="
"""Between a model's id and that of the autoencoder that was added for it; together they are an id as well."""


class ModelKind(StrEnum):
    """What was added."""

    #: Makes videos: all components of one, in diffusers' layout.
    PIPELINE = "pipeline"
    #: An autoencoder that takes the place of a pipeline's own.
    VAE = "vae"
    #: An adapter, for requests to name.
    LORA = "lora"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedModel:
    """A row of what was added."""

    id: str
    kind: ModelKind
    #: As a card says it: "hub:OWNER/NAME", "folder:PATH"; of an adapter also "hub:OWNER/NAME/FILE" or "url:URL".
    source: str
    revision: str | None
    #: What a card of it says; None before its files were there.
    card: Mapping[str, Any] | None
    #: The command that fetches it.
    command_id: str
    created_at: datetime
    ready_at: datetime | None = None
    deleted_at: datetime | None = None
