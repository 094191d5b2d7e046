"""What a file says of its origin: the claim that is signed into it, and what a check of a file found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["valid", "tampered", "none"]
"""`valid`: signed, and unchanged since. `tampered`: signed, but not as it is now. `none`: nothing was signed."""

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for what a model made; C2PA and XMP both use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who made a file, with what and when."""

    generator: str
    version: str
    model: str
    #: Licence of the model and where it is from, as its card says.
    license: str
    source: str
    #: The pinned commit of a hub's model.
    revision: str | None
    #: ISO 8601, UTC.
    made_at: str
    #: Only where the operator wants it told.
    prompt: str | None = None

    @property
    def sentence(self) -> str:
        """One line for metadata that people read."""
        return f"Made by AI: {self.generator} {self.version}, model {self.model}"

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check of a file found. All but `state` and `is_known` are the file's own words, true only if it is valid."""

    state: State
    #: Whether its certificate is the server's own or one that was named as trusted.
    is_known: bool = False
    generator: str | None = None
    model: str | None = None
    model_license: str | None = None
    model_source: str | None = None
    made_at: str | None = None
    prompt: str | None = None
    digital_source_type: str | None = None
    #: Of the certificate.
    signer: str | None = None
    #: C2PA's codes, or ours, of what is wrong.
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "problems": list(self.problems)}

    @property
    def sentence(self) -> str:
        """What it means, for a person."""
        if self.state == "none":
            return "The file carries no signed statement of its origin."
        if self.state == "tampered":
            return "The file was changed after it was signed, or is damaged: what it says of its origin is not to be believed."
        maker = f"{self.generator or 'a program that gives no name'}, with the model {self.model or '(not named)'}"
        when = f" at {self.made_at}" if self.made_at else ""
        if self.is_known:
            return f"Made by this server ({self.signer}): {maker}{when}; unchanged since."
        return (
            f"Unchanged since it was signed by `{self.signer}`, a certificate that is not known here, so that anybody may "
            f"have signed it. It says that it was made by {maker}{when}."
        )
