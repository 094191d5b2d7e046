"""Where models may come from that are added while the server runs: what the operator's list allows, read without opening anything."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vitascope.domain.errors import InvalidParameter, SettingsError

from .sources import HUB_ID

HUB = "hub"
"""Allows all repositories of the hub."""

ENDING = ".safetensors"

_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")

_HUB_FILE = re.compile(r"([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/(.+)")
_HUB_PAGE = re.compile(r"([^/]+/[^/]+?)(?:/tree/([^/]+))?/?")
_SAFE_FILE = re.compile(r"(?:[\w][\w .+-]*/)*[\w][\w .+-]*\.safetensors")
_REVISION = re.compile(r"[\w][\w.-]*")


class Allowed:
    """The operator's list.

    Args:
        entries: `hub`, `hub:OWNER/NAME`, `hub:OWNER/*`, a folder's absolute path, or what https URLs begin with.

    Raises:
        SettingsError: an entry is none of these.
    """

    def __init__(self, entries: Sequence[str] = (HUB,)) -> None:
        self._hub: list[str] = []
        self._folders: list[Path] = []
        self._urls: list[str] = []
        for entry in entries:
            kind, _, name = entry.partition(":")
            if kind == HUB and (not name or HUB_ID.fullmatch(name.replace("/*", "/all"))):
                self._hub.append(name or "*/*")
            elif entry.startswith("https://") and urlsplit(entry).hostname and entry.endswith("/"):
                self._urls.append(entry)
            elif Path(entry).is_absolute():
                self._folders.append(Path(entry))
            else:
                rule = "it must be `hub`, hub:OWNER/NAME, hub:OWNER/*, a folder's absolute path, or https://HOST/PATH/"
                raise SettingsError(f"setting `models.allow`: `{entry}` cannot be read: {rule}")

    def source_of(self, text: str, parameter: str = "source") -> tuple[str, str | None]:
        """Read where a model is, as its operator says it: a hub id, its page's URL, a folder, or an https URL.

        Args:
            text: what was given.
            parameter: its name, for messages.

        Returns:
            The source as cards say it, and the revision if it names one.

        Raises:
            InvalidParameter: it is none of these, or the list does not have it.
        """
        text = text.strip()
        if text.startswith("/"):
            return f"folder:{self._folder(text, parameter)}", None
        if text.startswith(("https://", "http://")):
            try:
                address = urlsplit(text)
            except ValueError:  # such as `https://[half/`
                raise self._not_allowed(parameter, text) from None
            if (address.hostname or "") in self._hub_hosts():
                return self._of_hub(unquote(address.path.strip("/")), text, parameter)
            return f"url:{self._url(text, parameter)}", None
        return self._of_hub(text.removeprefix("hub:"), text, parameter)

    @staticmethod
    def _hub_hosts() -> set[str]:
        from huggingface_hub import constants

        return {*_HUB_HOSTS, urlsplit(constants.ENDPOINT).hostname or ""}

    def _of_hub(self, name: str, text: str, parameter: str) -> tuple[str, str | None]:
        file, page = _HUB_FILE.fullmatch(name), _HUB_PAGE.fullmatch(name)
        revision: str | None
        if file:
            repository, revision, path = file[1], file[2], file[3]
        elif page:
            repository, revision, path = page[1], page[2], ""
        else:  # OWNER/NAME/FILE, as cards name adapters
            owner, _, rest = name.partition("/")
            repository, _, path = rest.partition("/")
            repository, revision = f"{owner}/{repository}", None
        is_file = not path or _SAFE_FILE.fullmatch(path) is not None
        if (
            not HUB_ID.fullmatch(repository)
            or not is_file
            or (revision and not _REVISION.fullmatch(revision))
        ):
            rule = "it must be a hub's OWNER/NAME, with /FILE.safetensors for an adapter, or its URL, a folder or an https URL"
            raise InvalidParameter(parameter, text[:200], rule)
        owner = repository.partition("/")[0]
        if not {"*/*", f"{owner}/*", repository} & set(self._hub):
            raise self._not_allowed(parameter, text)
        source = f"hub:{repository}/{path}" if path else f"hub:{repository}"
        return source, None if revision == "main" else revision

    def _folder(self, text: str, parameter: str) -> str:
        real = os.path.realpath(text)  # links must not lead out of what is allowed
        if not any(Path(real).is_relative_to(os.path.realpath(folder)) for folder in self._folders):
            raise self._not_allowed(parameter, text)
        return real

    def _url(self, text: str, parameter: str) -> str:
        address = urlsplit(text)
        path = unquote(address.path)
        is_plain = not (address.query or address.fragment or "@" in address.netloc or "\\" in path)
        is_plain = is_plain and not {".", ".."} & set(path.split("/"))
        if not is_plain or not any(text.startswith(prefix) for prefix in self._urls):
            raise self._not_allowed(parameter, text)
        return text

    @staticmethod
    def _not_allowed(parameter: str, text: str) -> InvalidParameter:
        rule = "it must be on the operator's list of where models may come from"
        return InvalidParameter(parameter, text[:200], rule, hint="the operator adds it to `models.allow`")
