"""What clients ask for: small jobs, in each form that a create may have. All drawn from the seed."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

Dialect = Literal["native", "openai"]
Fate = Literal["keep", "watch", "follow", "cancel", "delete"]
Moment = Literal["soon", "running", "ended"]

#: Steps are short sleeps of the fake engine; with these a job takes about 0.3 s at 0.05 s a step.
MOST_STEPS = 10

FATES: Mapping[Fate, float] = {"keep": 0.55, "watch": 0.15, "follow": 0.1, "cancel": 0.1, "delete": 0.1}

PICTURE_SHARE = 0.04
SEVERAL_SHARE = 0.2
KEY_SHARE = 0.5
FORM_SHARE = 0.5
"""Of the OpenAI dialect's creates: its own SDK sends forms."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A create that a client is about to send, and what it does with the job afterwards."""

    dialect: Dialect
    path: str
    content_type: str
    body: bytes
    #: Idempotency-Key; with one the client repeats the create until there is an answer.
    key: str | None
    fate: Fate
    #: Seconds that the client lets pass before it looks at its job or acts on it.
    delay: float
    #: When it cancels or deletes.
    moment: Moment


def draw(rng: random.Random, number: int) -> Draft:
    """Draw the request of that number, which is in its prompt."""
    dialect: Dialect = rng.choice(("native", "openai"))
    fate = rng.choices(list(FATES), list(FATES.values()))[0]
    fields: dict[str, Any] = {"prompt": f"job {number}", "num_inference_steps": rng.randint(1, MOST_STEPS)}
    if rng.random() < PICTURE_SHARE:
        fields["image" if dialect == "native" else "input_reference"] = _picture(rng)
    if dialect == "native":
        path, fields = "/api/v1/jobs", {**fields, "height": 32, "width": 32, "num_frames": 5}
        if rng.random() < SEVERAL_SHARE:
            fields["num_videos"] = rng.randint(2, 3)
    else:
        path, fields = "/v1/videos", {**fields, "size": "32x32", "num_frames": 5}
    as_form = dialect == "openai" and rng.random() < FORM_SHARE
    content_type, body = _form(fields) if as_form else ("application/json", json.dumps(fields).encode())
    moment: Moment = rng.choice(("soon", "running", "ended"))
    key = f"chaos-{number}" if rng.random() < KEY_SHARE else None
    return Draft(dialect, path, content_type, body, key, fate, rng.uniform(0, 1), moment)


def _picture(rng: random.Random) -> str:
    file = io.BytesIO()
    Image.new("RGB", (24, 24), (rng.randrange(256), rng.randrange(256), rng.randrange(256))).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _form(fields: Mapping[str, Any]) -> tuple[str, bytes]:
    boundary = "chaos-boundary"
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    return f"multipart/form-data; boundary={boundary}", f"{''.join(parts)}--{boundary}--\r\n".encode()
