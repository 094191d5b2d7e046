"""Downloads from a model hub: resumable, of one revision, only what the pipeline loads, and checked before it counts.

The hub's own client lists, authorises and transfers (`HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` mean what they mean elsewhere), and
the files lie where it looks for them. What it does not do is done here: a file that was cut off goes on where it stopped also
in another process, every file is compared with the hub's checksum, and a manifest says when all of it is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from vitascope.domain.errors import InvalidParameter, ModelInUse, ModelUnavailable, StorageError
from vitascope.domain.model_spec import CardLora, ModelSpec

from . import checkpoint, manifest
from .manifest import Manifest, ManifestFile

LIST_SECONDS = 30.0
"""How long the hub may take to say what there is."""

TRIES = 5
"""Broken connections in a row, without a byte between them, after which a download gives up."""

SPARE_BYTES = 64 * 1024 * 1024
"""Room that is left on the disk beside the download."""

LARGEST_PLAIN_BYTES = 50 * 1000**3
"""Larger files are sent in the hub's own way only, which goes on where it stopped as well."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[\w-]{8,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download or a check is."""

    #: waiting (another process is at it), listing, downloading, checking.
    stage: str
    num_bytes: int = 0
    total_bytes: int = 0
    #: Which file is being transferred or read.
    file: str = ""


Report = Callable[[Progress], None]
"""Told at every change and every few megabytes. May raise, to stop: what has been transferred stays."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """A file as the hub lists it."""

    num_bytes: int
    sha256: str | None
    git_id: str | None


def repository_of(spec: ModelSpec) -> str:
    """Name the repository that a model's weights come from.

    Raises:
        InvalidParameter: they come from none.
    """
    kind, _, name = spec.source.partition(":")
    if kind == "hub":
        return name
    rule = "it comes with Vitascope" if kind == "embedded" else "its card names a folder of this machine"
    raise InvalidParameter("model", spec.id, f"{rule}: it has no download")


def cache_folder(repository: str) -> Path:
    """Return the folder that the hub's cache keeps for a repository."""
    from huggingface_hub import constants  # alone it takes 2 ms to import, the rest of the client 160

    return Path(constants.HF_HUB_CACHE) / constants.REPO_ID_SEPARATOR.join(["models", *repository.split("/")])


def own_folder(repository: str) -> Path:
    """Return where manifests are, and what belongs to them."""
    return cache_folder(repository) / "vitascope"


def snapshot(repository: str, commit: str) -> Path:
    """Return where the files of a commit are."""
    return cache_folder(repository) / "snapshots" / commit


def pull(spec: ModelSpec, report: Report, *, repair: bool = False, with_pickles: bool = False) -> Manifest:
    """Download what a model needs, from other repositories too; does nothing if all of it is there.

    Args:
        spec: the model.
        report: told how far it is.
        repair: read what is there, and fetch again what is not right.
        with_pickles: also fetch weights that are pickles, unread, for their conversion; nothing is made of them here.

    Raises:
        InvalidParameter: the model does not come from a hub.
        ModelUnavailable: the hub does not have it or does not give it, it is a pickle or wants code of its own, or a file
            is not the one that the hub lists.
        StorageError: the disk has no room for it.
    """
    adapters = [lora for lora in spec.loras if lora.source.startswith("hub:")]
    if adapters and not spec.source.startswith("hub:"):
        return _pull_adapters(spec, adapters, report)
    made = _pull_one(spec, report, repair=repair, with_pickles=with_pickles)
    for part in spec.parts.values():
        if part.source.startswith("hub:"):
            _pull_one(part, report, repair=repair, with_pickles=False)
    _pull_adapters(spec, adapters, report)
    return made


def lacks_adapters(spec: ModelSpec) -> bool:
    """Whether an adapter of the model's card is still to be downloaded."""
    return any(adapter(lora) is None for lora in spec.loras if lora.source.startswith("hub:"))


def adapter(lora: CardLora) -> Path | None:
    """Return where the file of a card's adapter is; None if it is not downloaded."""
    from huggingface_hub import try_to_load_from_cache

    repository, name = _adapter_of(lora)
    found = try_to_load_from_cache(repository, name, revision=lora.revision)
    return Path(found) if isinstance(found, str) else None


def _adapter_of(lora: CardLora) -> tuple[str, str]:
    owner, repository, name = lora.source.removeprefix("hub:").split("/", 2)
    return f"{owner}/{repository}", name


def _pull_adapters(spec: ModelSpec, adapters: Sequence[CardLora], report: Report) -> Manifest:
    """Download the adapters of a card; the manifest that tells of it is not kept."""
    return Manifest(
        source=spec.source,
        asked=None,
        commit="",
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=tuple(_pull_adapter(spec, lora, report) for lora in adapters),
        folder="",
    )


def _pull_adapter(spec: ModelSpec, lora: CardLora, report: Report) -> ManifestFile:
    """Download one file, in the hub's own way: adapters are small."""
    from huggingface_hub import hf_hub_download

    repository, name = _adapter_of(lora)
    report(Progress("downloading", file=name))
    with hub_errors(spec):
        path = Path(hf_hub_download(repository, name, revision=lora.revision))
    if problem := checkpoint.cut(path):
        raise ModelUnavailable(f"the adapter `{lora.name}` of model `{spec.id}` {problem}")
    return ManifestFile(name, path.stat().st_size, manifest.sha256(path))


def _pull_one(spec: ModelSpec, report: Report, *, repair: bool, with_pickles: bool) -> Manifest:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    # it would say on standard error that a connection broke; and its HTTP client each address, signed ones too
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    repository = repository_of(spec)
    with only_one(own_folder(repository), report):
        known = None if repair or with_pickles or spec.revision is None else installed(spec)
        if known is not None and known.commit == spec.revision and not _is_wrong(known, repository):
            return known
        report(Progress("listing"))
        commit, listed = _list(spec, repository)
        path = own_folder(repository) / f"{commit}.json"
        known = manifest.read(path)
        # what was made of pickles is of this commit as well: the repository has nothing to mend it with
        keeps = known is not None and (known.converted or not repair) and not _is_wrong(known, repository)
        if known is not None and keeps and not with_pickles:
            return known
        download = _Download(spec, repository, commit, listed, report)
        made = download.run(with_pickles=with_pickles)
        if not with_pickles:
            made.write(path)
        return made


def installed(spec: ModelSpec) -> Manifest | None:
    """Return the manifest of a model's download; None if there is none that was complete."""
    kind, _, repository = spec.source.partition(":")
    if kind != "hub":
        return None
    for _, made in manifest.all_in(own_folder(repository)):
        if spec.revision in (made.asked, made.commit):
            return made
    return None


def snapshot_of_others(spec: ModelSpec, repository: str) -> Path | None:
    """Return what another program has downloaded of this revision, which has no manifest and may be incomplete."""
    asked = spec.revision or "main"
    commit = asked
    if not _COMMIT.fullmatch(asked):
        try:
            commit = (cache_folder(repository) / "refs" / asked).read_text("utf-8").strip()
        except OSError:
            return None
    folder = snapshot(repository, commit)
    return folder if _COMMIT.fullmatch(commit) and (folder / checkpoint.INDEX).exists() else None


def files_of(made: Manifest, repository: str) -> Path:
    """Return where the files of a manifest are."""
    return (own_folder(repository) / made.folder).resolve()


def _is_wrong(made: Manifest, repository: str) -> bool:
    return manifest.wrong_size(made, files_of(made, repository)) is not None


@contextlib.contextmanager
def only_one(folder: Path, report: Report | None) -> Iterator[None]:
    """Let nobody else download, convert or remove the same.

    Args:
        folder: of the repository.
        report: told that somebody does, which is then waited for; None does not wait.

    Raises:
        ModelInUse: somebody does, and is not waited for.
        StorageError: the cache cannot be written.
    """
    try:
        with _locked(folder, report):
            yield
    except PermissionError as error:
        raise StorageError(f"the hub's cache cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def _locked(folder: Path, report: Report | None) -> Iterator[None]:
    path = folder / "lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if report is None:
                    hint = "stop that, or wait for its end"
                    raise ModelInUse("the model is being downloaded or converted", hint=hint) from None
                report(Progress("waiting"))
                fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # who had it has removed the folder
            yield
            return


def _list(spec: ModelSpec, repository: str) -> tuple[str, dict[str, _Listed]]:
    """Ask the hub for the commit that is meant and for its files."""
    from huggingface_hub import HfApi

    with hub_errors(spec):
        info = HfApi().model_info(
            repository, revision=spec.revision, files_metadata=True, timeout=LIST_SECONDS
        )
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise ModelUnavailable(f"the hub names no commit of model `{spec.id}`")
    if spec.revision is not None and _COMMIT.fullmatch(spec.revision) and commit != spec.revision:
        raise ModelUnavailable(f"the hub answers with another commit of model `{spec.id}` than its card says")
    return commit, {
        file.rfilename: _Listed(file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id)
        for file in info.siblings or ()
    }


def names_in(spec: ModelSpec, repository: str) -> tuple[str, list[str]]:
    """Ask the hub for the commit of a model that is meant, and for the names of a repository's files there.

    Raises:
        ModelUnavailable: it has none, or does not say.
    """
    commit, listed = _list(spec, repository)
    return commit, list(listed)


def small_file(spec: ModelSpec, name: str) -> Path:
    """Download one file of a model's repository in the hub's own way; returns where it is.

    Raises:
        ModelUnavailable: there is none, or the hub does not give it.
    """
    from huggingface_hub import hf_hub_download

    with hub_errors(spec):
        return Path(hf_hub_download(repository_of(spec), name, revision=spec.revision))


@contextlib.contextmanager
def hub_errors(spec: ModelSpec) -> Iterator[None]:
    """Say in one sentence what the hub's client found wrong."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        hint = "accept its terms on its page at the hub, then set HF_TOKEN to a token of that account"
        raise ModelUnavailable(
            f"the hub gives model `{spec.id}` to those only who accept its terms", hint=hint
        ) from None
    except errors.RevisionNotFoundError:
        message = f"the hub has no revision `{spec.revision}` of model `{spec.id}`"
        raise ModelUnavailable(message, hint="correct `revision` in its card") from None
    except errors.RepositoryNotFoundError:
        message = (
            f"the hub has no repository `{spec.source.partition(':')[2]}` for model `{spec.id}`, or hides it"
        )
        hint = "check `source` in its card; a private one needs HF_TOKEN"
        raise ModelUnavailable(message, hint=hint) from None
    except errors.OfflineModeIsEnabled:
        raise _offline(spec) from None
    except (
        errors.LocalEntryNotFoundError
    ) as error:  # an EntryNotFoundError too, though it only says that no hub was reached
        if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            raise _offline(spec) from None
        raise _silent(spec, error.__cause__ or error) from None
    except errors.EntryNotFoundError:
        raise ModelUnavailable(
            f"the hub has no model index for model `{spec.id}`: it is not in diffusers' format"
        ) from None
    except errors.HfHubHTTPError as error:
        message = f"the hub answers {error.response.status_code} for model `{spec.id}`"
        raise ModelUnavailable(message, hint="try again later") from None
    except _transport_errors() as error:
        raise _silent(spec, error) from None


def _offline(spec: ModelSpec) -> ModelUnavailable:
    return ModelUnavailable(f"model `{spec.id}` cannot be downloaded: HF_HUB_OFFLINE is set")


def _silent(spec: ModelSpec, error: BaseException) -> ModelUnavailable:
    reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
    hint = "what has come stays: the same command goes on where it stopped"
    return ModelUnavailable(f"the hub does not answer for model `{spec.id}`: {reason}", hint=hint)


def _transport_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub import errors

    # the client library's own root of network errors, under whatever name this version has it
    http_error = cast("type[Exception]", errors.HfHubHTTPError.__mro__[1])
    return (http_error, ConnectionError, TimeoutError)


class _Download:
    """One download of one commit.

    Args:
        spec: the model.
        repository: its name on the hub.
        commit: what is downloaded.
        listed: the commit's files by name.
        report: told how far it is.
    """

    def __init__(
        self, spec: ModelSpec, repository: str, commit: str, listed: Mapping[str, _Listed], report: Report
    ) -> None:
        self._spec = spec
        self._repository = repository
        self._commit = commit
        self._listed = listed
        self._report = report
        self._snapshot = snapshot(repository, commit)
        self._done_bytes = self._total_bytes = 0

    def run(self, *, with_pickles: bool) -> Manifest:
        names = self._choose(with_pickles=with_pickles)
        self._total_bytes = sum(self._listed[name].num_bytes for name in names)
        self._check_room(names)
        files = []
        # small ones first: what they say may be a reason to refuse the large ones
        for name in sorted(names, key=lambda name: (not name.endswith(".json"), name)):
            files.append(self._have(name))
            checkpoint.check_config(self._spec.id, name, self._config_at(name))
        for file in files:
            problem = (
                checkpoint.cut(self._snapshot / file.name) if file.name.endswith(".safetensors") else None
            )
            if problem:
                raise ModelUnavailable(f"`{file.name}` of model `{self._spec.id}` {problem}")
        return Manifest(
            source=self._spec.source,
            asked=self._spec.revision,
            commit=self._commit,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            files=tuple(sorted(files, key=lambda file: file.name)),
            folder=f"../snapshots/{self._commit}",
        )

    def _config_at(self, name: str) -> Path:
        is_config = name.endswith(("/config.json", "/tokenizer_config.json"))
        return self._snapshot / name if is_config else self._snapshot / "no configuration"

    def _choose(self, *, with_pickles: bool) -> list[str]:
        if self._spec.is_part:
            return checkpoint.files_of_part(self._spec.id, self._listed)
        if checkpoint.INDEX not in self._listed:
            message = f"model `{self._spec.id}` is not in diffusers' format: its repository has no {checkpoint.INDEX}"
            raise ModelUnavailable(message, hint="choose the repository of its conversion to diffusers")
        self._have(checkpoint.INDEX)
        index = checkpoint.read_index(self._snapshot / checkpoint.INDEX, self._spec.id)
        self._done_bytes = 0
        if with_pickles:
            return checkpoint.files_with_pickles(self._spec.id, index, self._listed)
        return checkpoint.needed_files(self._spec.id, index, self._listed)

    def _check_room(self, names: list[str]) -> None:
        missing = sum(self._listed[name].num_bytes for name in names if not (self._snapshot / name).exists())
        begun = sum(part.stat().st_size for part in own_folder(self._repository).glob("*.part"))
        free = shutil.disk_usage(own_folder(self._repository)).free
        if missing - begun + SPARE_BYTES > free:
            message = f"model `{self._spec.id}` needs {_gigabytes(missing - begun)} more, and the disk has {_gigabytes(free)} free"
            raise StorageError(message, hint="make room, or set HF_HOME to a folder on a larger disk")

    def _have(self, name: str) -> ManifestFile:
        """Make sure that a file is there and right."""
        path, listed = self._snapshot / name, self._listed[name]
        if path.exists():
            digest = self._checked(path, name)
            if digest is not None:
                self._done_bytes += listed.num_bytes
                return ManifestFile(name, listed.num_bytes, digest)
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        self._fetch(name)
        digest = self._checked(path, name)
        assert digest is not None, "it was checked before it was put here"
        return ManifestFile(name, listed.num_bytes, digest)

    def _checked(self, path: Path, name: str) -> str | None:
        """Return a file's checksum; None if it is not the file that the hub lists."""
        listed = self._listed[name]
        if path.stat().st_size != listed.num_bytes:
            return None
        self._tell("checking", name)
        digest = manifest.sha256(path, lambda _num_bytes: self._tell("checking", name))
        if listed.sha256 is not None:
            return digest if digest == listed.sha256 else None
        if listed.git_id is not None and _git_id(path) != listed.git_id:
            return None
        return digest

    def _fetch(self, name: str) -> None:
        """Transfer a file and put it where the hub's client looks for it."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        with hub_errors(self._spec):
            if self._listed[name].num_bytes > LARGEST_PLAIN_BYTES:
                hf_hub_download(self._repository, name, revision=self._commit)
                return
            url = hf_hub_url(self._repository, name, revision=self._commit)
            found = get_hf_file_metadata(url)
            if found.etag is None or not _ETAG.fullmatch(found.etag):
                raise ModelUnavailable(f"the hub names no checksum of `{name}` of model `{self._spec.id}`")
            part = own_folder(self._repository) / f"{found.etag}.part"
            self._transfer(url, found.location, part, name)
            if self._checked(part, name) is None:
                part.unlink()
                message = f"`{name}` of model `{self._spec.id}` has another checksum than the hub lists: it was damaged on its way"
                raise ModelUnavailable(message, hint="run the same command again")
            blob = cache_folder(self._repository) / "blobs" / found.etag
            blob.parent.mkdir(parents=True, exist_ok=True)
            part.replace(blob)
            hf_hub_download(self._repository, name, revision=self._commit)  # finds the blob and links it

    def _transfer(self, url: str, location: str, part: Path, name: str) -> None:
        """Write a file, going on after what is there; over broken connections, as long as something comes."""
        from huggingface_hub.utils._headers import build_hf_headers

        headers = build_hf_headers()
        if urlsplit(url).netloc != urlsplit(location).netloc:
            headers.pop("authorization", None)  # a signed address of another server
        before = self._done_bytes
        try:
            self._write(location, dict(headers), part, name)
        except OSError as error:
            if isinstance(error, _transport_errors()):
                raise
            reason = error.strerror or "it came incomplete"
            raise StorageError(f"`{name}` of model `{self._spec.id}` cannot be written: {reason}") from None
        finally:
            self._done_bytes = before + (part.stat().st_size if part.exists() else 0)

    def _write(self, location: str, headers: dict[str, str], part: Path, name: str) -> None:
        from huggingface_hub.file_download import http_get

        expected, before = self._listed[name].num_bytes, self._done_bytes
        part.touch()
        tries = 0
        while (size := part.stat().st_size) < expected:
            self._done_bytes = before + size
            try:
                with part.open("r+b") as file:
                    file.seek(size)
                    counted = cast("BinaryIO", _Counted(file, lambda count: self._count(count, name)))
                    http_get(location, counted, resume_size=size, headers=headers, expected_size=expected)
            except _transport_errors() as error:
                tries = 0 if part.stat().st_size > size else tries + 1
                if tries >= TRIES or hasattr(
                    error, "response"
                ):  # what the hub has answered is no broken connection
                    raise

    def _count(self, num_bytes: int, name: str) -> None:
        self._done_bytes += num_bytes
        self._tell("downloading", name)

    def _tell(self, stage: str, name: str) -> None:
        if not self._total_bytes:  # the index comes before it is known what else does
            return
        self._report(Progress(stage, self._done_bytes, max(self._total_bytes, self._done_bytes), name))


class _Counted:
    """A file whose writing is noticed."""

    def __init__(self, file: BinaryIO, notice: Callable[[int], None]) -> None:
        self._file = file
        self._notice = notice

    def write(self, data: bytes) -> int:
        count = self._file.write(data)
        self._notice(count)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _git_id(path: Path) -> str:
    """Name a file as git does; for small ones."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1000**3:.1f} GB"
