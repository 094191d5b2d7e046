"""A service that the operator has named in the settings, such as a language model on this machine.

No gate stands before it: what the operator has written may lead anywhere. What it answers is believed no more than a user's file.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import ssl
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import httpx

MAX_ANSWER_BYTES = 1 << 20
"""A prompt or a verdict is a few kilobytes."""


class Unanswered(Exception):
    """The service gave no answer that can be used.

    Args:
        reason: why, as the rest of the sentence "the service …"; holds neither its address nor what it said.
        status: of HTTP, where it gave one.
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        self.reason = reason
        self.status = status
        super().__init__(reason)


class OwnService:
    """Sends JSON and reads JSON. Redirects are not followed: the key goes where the operator has said, and nowhere else.

    Args:
        url: what all its paths begin with.
        api_key: sent as a bearer token.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"accept": "application/json", "accept-encoding": "identity"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        for name in ("httpx", "httpcore"):  # their lines hold addresses and headers
            logging.getLogger(name).setLevel(logging.WARNING)

    async def post(self, path: str, body: Mapping[str, Any], *, seconds: float) -> Any:
        """Send `body` and return what came back, decoded.

        Args:
            path: behind the service's URL, with its slash.
            body: plain JSON values.
            seconds: what all of it may take, however slowly the answer drips.

        Raises:
            Unanswered: there is no answer in time, or it is an error, too long or no JSON.
        """
        try:
            async with asyncio.timeout(seconds):
                data = await self._exchange(path, body)
        except TimeoutError:
            raise Unanswered("gave no answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unanswered("cannot be reached, or broke off") from error
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise Unanswered("answered with something that is no JSON") from None

    async def _exchange(self, path: str, body: Mapping[str, Any]) -> bytes:
        data = bytearray()
        async with (
            # the time limit is the caller's: this one is only between bytes
            httpx.AsyncClient(
                verify=self._verify,
                headers=self._headers,
                timeout=None,
                trust_env=not self._is_here,  # a proxy does not know the way to this machine
            ) as client,
            client.stream("POST", self._url + path, json=dict(body)) as response,
        ):
            if response.status_code != 200:
                raise Unanswered(f"answered {response.status_code}", response.status_code)
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > MAX_ANSWER_BYTES:
                    raise Unanswered(f"answered with more than {MAX_ANSWER_BYTES} bytes")
        return bytes(data)

    @cached_property
    def _is_here(self) -> bool:
        host = httpx.URL(self._url).host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @cached_property
    def _verify(self) -> ssl.SSLContext | bool:
        """Certificates take 20 ms to read: once, and only where they are needed."""
        return httpx.create_ssl_context() if self._url.startswith("https:") else False
