"""A Vitascope server as its clients see it: the native API over HTTP, and what its answers mean."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import httpx

from vitascope import __version__
from vitascope.domain.errors import InvalidParameter, ServerRefusal, ServerUnreachable, SettingsError
from vitascope.settings import Settings

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
SILENCE_SECONDS = 45.0
"""An event stream that says nothing for three of its heartbeats is dead."""

JOBS_PER_PAGE = 100

WHERE_HINT = "is `vitascope serve` running there? Say where it is with --server or VITASCOPE_SERVER_URL"

#: Answered by what stands before a server that is away, and by a server whose database is.
_AWAY = frozenset({502, 503, 504})

_JOB_KEYS = frozenset({"id", "status", "progress", "stage", "model", "prompt", "created_at"})

_MODEL_KEYS = frozenset({"id", "loaded_on"})
_COMMAND_KEYS = frozenset({"id", "kind", "model", "status", "workers"})

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def server_url(option: str | None, settings: Settings) -> str:
    """Say where the server is: the option, else the setting, else this machine's own.

    Raises:
        InvalidParameter: it is no address.
        SettingsError: nobody knows.
    """
    if option is not None:
        return _checked("--server", option)
    if settings.server_url is not None:
        return _checked("server_url", settings.server_url)
    if settings.server.port == 0:
        message = "setting `server.port` is 0, so the server has taken any free port"
        raise SettingsError(message, hint="say which with --server or VITASCOPE_SERVER_URL")
    host = _ANYWHERE.get(settings.server.host, settings.server.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}"


def _checked(name: str, url: str) -> str:
    rule = "it must be an address such as http://127.0.0.1:8000"
    if re.fullmatch(r"[\w.-]+(:\d+)?/?", url, re.ASCII):
        raise InvalidParameter(name, url, rule, nearest=f"http://{url.rstrip('/')}")
    try:
        parts = urlsplit(url)
        is_legal = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        is_legal = False
    if not is_legal or parts.query or parts.fragment:
        raise InvalidParameter(name, url, rule)
    if parts.username is not None:  # it would be shown in messages
        raise InvalidParameter(name, f"{parts.scheme}://…@{parts.hostname}", "it must hold no user name")
    return url.rstrip("/")


class Server:
    """A server, in an `async with`.

    Every method may raise ServerUnreachable, if nothing or something that is away answers, and ServerRefusal.

    Args:
        url: where it is, without a slash at its end.
        api_key: shown to the server if there is one.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        headers = {"User-Agent": f"vitascope/{__version__}"}
        if api_key is not None:
            if not re.fullmatch(r"[!-~]+", api_key):
                raise SettingsError("setting `api_key` holds characters that no key has")
            headers["Authorization"] = f"Bearer {api_key}"
        self.url = url
        host = urlsplit(url).hostname or ""
        is_here = host in ("localhost", "::1") or host.startswith("127.")
        self._http = httpx.AsyncClient(
            base_url=f"{url}/api/v1",
            headers=headers,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
            trust_env=not is_here,  # a proxy does not know the way to this machine
        )

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def job(self, job_id: str) -> dict[str, Any]:
        return await self._one_job("GET", job_id)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        return await self._one_job("POST", job_id, "/cancel")

    async def retry(self, job_id: str) -> dict[str, Any]:
        """Return the new job."""
        return await self._one_job("POST", job_id, "/retry")

    async def jobs(
        self, statuses: Collection[str] = (), page_size: int = JOBS_PER_PAGE
    ) -> AsyncGenerator[dict[str, Any]]:
        """Yield jobs of these statuses, or all, the newest first; reads only as many pages as are asked for."""
        query: dict[str, str | int] = {"limit": min(page_size, JOBS_PER_PAGE)}
        if statuses:
            query["status"] = ",".join(sorted(statuses))
        has_more = True
        while has_more:
            page = await self._ask("GET", "/jobs", query)
            jobs = page.get("jobs")
            if not isinstance(jobs, list):
                self._is_something_else()
            for job in jobs:
                yield self._job(job)
            has_more = bool(page.get("has_more")) and bool(jobs)
            if jobs:
                query["after"] = jobs[-1]["id"]

    async def events(self, job_id: str, after: int) -> AsyncGenerator[dict[str, Any]]:
        """Yield what happened to a job after the event of that number, and what happens, until the server ends it."""
        path = f"/jobs/{self._known(job_id)}/events"
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        headers = {"Last-Event-ID": str(after)}
        with _transport(self.url):
            async with self._http.stream("GET", path, headers=headers, timeout=timeout) as answer:
                if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                    await answer.aread()
                    self._content(answer, job_id)
                    self._is_something_else()
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        yield self._event(line.removeprefix("data: "))

    async def models(self) -> list[dict[str, Any]]:
        """Return the models, with which workers have them loaded."""
        found = (await self._ask("GET", "/models")).get("models")
        if not isinstance(found, list) or not all(
            isinstance(m, dict) and m.keys() >= _MODEL_KEYS for m in found
        ):
            self._is_something_else()
        return found

    async def order(self, model: str, kind: str, options: dict[str, Any]) -> dict[str, Any]:
        """Tell workers to do something with a model; returns the command."""
        path = f"/models/{quote(model, safe='/')}/{kind}"
        return self._command(await self._ask("POST", path, content=options))

    async def add_model(self, content: dict[str, Any]) -> dict[str, Any]:
        """Have workers fetch a model that has no card; returns the command."""
        return self._command(await self._ask("POST", "/models", content=content))

    async def delete_model(self, model: str) -> dict[str, Any]:
        """Have a model that was added forgotten, and its files removed; returns the command."""
        path = f"/models/{quote(model, safe='/')}"
        return self._command(await self._ask("DELETE", path, {"force": "true"}))

    async def command(self, command_id: str) -> dict[str, Any]:
        return self._command(await self._ask("GET", f"/commands/{quote(command_id, safe='')}"))

    async def webhooks(
        self,
        method: str,
        path: str,
        query: dict[str, str | int] | None = None,
        content: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Ask about webhooks; an answer without content is an empty one."""
        return await self._ask(method, f"/webhooks/{path}", query, content=content)

    async def webhook_secrets(self, *, rotate: bool) -> list[dict[str, Any]]:
        """Return what webhooks of the caller's requests are signed with, the current secret first."""
        path = "/keys/self/webhook-secret"
        found = await (self._ask("POST", f"{path}/rotate") if rotate else self._ask("GET", path))
        secrets = found.get("secrets")
        if not isinstance(secrets, list) or not secrets:
            self._is_something_else()
        return secrets

    def segment(self, name: str) -> str:
        """Write an id as a part of a path."""
        return quote(name, safe="")

    def _command(self, content: dict[str, Any]) -> dict[str, Any]:
        if not content.keys() >= _COMMAND_KEYS or not content["workers"]:
            self._is_something_else()
        return content

    async def _one_job(self, method: str, job_id: str, action: str = "") -> dict[str, Any]:
        return self._job(await self._ask(method, f"/jobs/{self._known(job_id)}{action}", job_id=job_id))

    async def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, str | int] | None = None,
        *,
        job_id: str = "",
        content: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        with _transport(self.url):
            answer = await self._http.request(method, path, params=query, json=content)
        return self._content(answer, job_id)

    def _known(self, job_id: str) -> str:
        """Refuse what would lead to another path; no API shows such an id."""
        if not re.fullmatch(r"[\w-]{1,200}", job_id, re.ASCII):
            raise self._no_job(job_id)
        return job_id

    def _no_job(self, job_id: str) -> ServerRefusal:
        hint = f"`vitascope jobs list` shows the jobs of {self.url}"
        return ServerRefusal(
            f"there is no job `{job_id}`", status=404, server_code="job_not_found", hint=hint
        )

    def _content(self, answer: httpx.Response, job_id: str) -> dict[str, Any]:
        """Return what the server says, or raise what it says is wrong."""
        if answer.status_code == 204:
            return {}
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.is_success and isinstance(content, dict):
            return content
        problem = content.get("error") if isinstance(content, dict) else None
        if not isinstance(problem, dict) or not isinstance(problem.get("message"), str):
            problem = {}
        if answer.status_code in _AWAY:
            reason = problem.get("message") or f"it answers {answer.status_code}"
            raise ServerUnreachable(f"the server at `{self.url}` cannot answer now: {reason}")
        code = problem.get("code")
        if code == "job_not_found":
            raise self._no_job(job_id)
        if not isinstance(code, str) or code in ("not_found", "method_not_allowed"):
            self._is_something_else(f" ({answer.status_code} to {answer.request.method} {answer.url.path})")
        hint = problem.get("hint")
        if answer.status_code == 401:
            hint = "set VITASCOPE_API_KEY to a key of this server"  # the server's own is for programs
        raise ServerRefusal(problem["message"], status=answer.status_code, server_code=code, hint=hint)

    def _is_something_else(self, answered: str = "") -> NoReturn:
        message = f"what answers at `{self.url}` is not a Vitascope server of this version{answered}"
        raise ServerRefusal(message, status=200, hint=WHERE_HINT)

    def _job(self, content: Any) -> dict[str, Any]:
        if not isinstance(content, dict) or not content.keys() >= _JOB_KEYS:
            self._is_something_else()
        return content

    def _event(self, text: str) -> dict[str, Any]:
        try:
            event = json.loads(text)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not event.keys() >= {"sequence", "kind"}:
            self._is_something_else()
        return event


@contextmanager
def _transport(url: str) -> Iterator[None]:
    """Say what the network's errors mean."""
    try:
        yield
    except httpx.ConnectTimeout:
        reason = f"no connection within {CONNECT_SECONDS:.0f} s"
    except httpx.TimeoutException:
        reason = f"nothing came within {ANSWER_SECONDS:.0f} s"
    except httpx.ConnectError as error:
        reason = re.sub("^All connection attempts failed$", "no connection", str(error)) or "no connection"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
    else:
        return
    raise ServerUnreachable(f"the server at `{url}` does not answer: {reason}", hint=WHERE_HINT)
