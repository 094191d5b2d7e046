"""Calls ModelsLab's Python SDKs as it is told: a line of JSON in, a line of JSON out. Knows nothing of this project.

    {"of": "modelslab_py", "enterprise": true, "call": "text_to_video", "schema": "Text2Video", "params": {"model_id": …}}
    {"of": "modelslab_py", "enterprise": true, "call": "fetch", "params": {"id": "7"}}
    {"of": "modelslab", "call": "open_sora", "params": {"prompt": …}}

The arguments of this program are the base URL (which ends in `/api/`) and the API key.
"""

import json
import sys

from modelslab.ep_video import EPVideo
from modelslab_py.core.apis.video import Video
from modelslab_py.core.client import Client
from modelslab_py.providers.openai import OpenAIProvider, Sora2Schema
from modelslab_py.schemas import video as schemas

BASE_URL, KEY = sys.argv[1:3]


def new_sdk(order):
    client = Client(api_key=KEY, fetch_timeout=1, fetch_retry=200)
    client.base_url = BASE_URL  # as its users do
    if order["call"] == "sora_2":
        return OpenAIProvider(client=client).sora_2(Sora2Schema(**order["params"]))
    video = Video(client=client, enterprise=order.get("enterprise", False))
    method = getattr(video, order["call"])
    if "schema" in order:
        return method(getattr(schemas, order["schema"])(**order["params"]))
    return method(**order.get("params", {}))


def old_sdk(order):
    video = EPVideo()
    video.base_url = BASE_URL + "v1/enterprise/video"
    return json.loads(getattr(video, order["call"])(key=KEY, **order["params"]))


print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    try:
        reply = {"answer": new_sdk(asked) if asked["of"] == "modelslab_py" else old_sdk(asked)}
    except Exception as error:  # noqa: BLE001  the SDK raises nothing else
        reply = {"error": str(error)}
    print(json.dumps(reply), flush=True)
