"""What a call takes or answers, as the API's description tells it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Described(BaseModel):
    """A model of `/openapi.json`.

    FastAPI wants what validates it for each route that names it, and hardly any is ever asked to validate: to make these when they are
    asked, and not before, takes two fifths off the time in which a web process makes its routes.
    """

    model_config = ConfigDict(defer_build=True)
