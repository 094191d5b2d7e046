"""Calls the official Python SDK as it is told: a line of JSON in, a line of JSON out. Knows nothing of this project.

    {"call": "videos.retrieve", "ids": ["video_1"], "params": {}, "client": {"max_retries": 0}}
    {"answer": {"id": "video_1", …}}  or  {"error": {"class": "NotFoundError", "status": 404, "code": …}}

`{"file": PATH}` among the values is that file. The arguments of this program are the base URL and the API key.
"""

import json
import sys
import warnings
from pathlib import Path

import openai

warnings.simplefilter("ignore", DeprecationWarning)


def given(value):
    if isinstance(value, dict):
        return (
            Path(value["file"])
            if set(value) == {"file"}
            else {name: given(part) for name, part in value.items()}
        )
    return [given(part) for part in value] if isinstance(value, list) else value


def shown(result, order):
    if hasattr(result, "iter_pages"):
        return [item.to_dict(mode="json") for item in result]
    if "save" in order:
        result.write_to_file(order["save"])
        return {"content_type": result.response.headers["content-type"]}
    return result.to_dict(mode="json")


def obey(client, order):
    found = client.with_options(**order.get("client", {}))
    for name in order["call"].split("."):
        found = getattr(found, name)
    params = given(order.get("params", {}))
    return shown(found(*order.get("ids", ()), **params), order)


with openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2]) as client:
    print(json.dumps({"answer": openai.__version__}), flush=True)
    for line in sys.stdin:
        try:
            reply = {"answer": obey(client, json.loads(line))}
        except (openai.OpenAIError, ValueError) as error:
            names = ("status_code", "code", "param", "type", "message")
            told = {name: getattr(error, name, None) for name in names}
            reply = {"error": {"class": type(error).__name__, **told, "status": told.pop("status_code")}}
        print(json.dumps(reply), flush=True)
