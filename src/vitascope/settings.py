"""Frozen settings by topic; the only reader of the environment and of the configuration file.

Order: command line, then environment (`VITASCOPE_SECTION__KEY`), then `vitascope.toml`, then the default written here.
Rooms below never import this module: `app` hands them the few values that they need.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from .domain.errors import SettingsError
from .domain.secret import parse_keys

CONFIG_FILE = "vitascope.toml"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerSettings(_Section):
    """The web process."""

    host: str = "127.0.0.1"
    """Address to listen on. Loopback by default; another address needs an API key (`vitascope keys create`) or `allow_public`."""
    allow_public: bool = False
    """Listen beyond loopback although there are no API keys: whoever reaches the address may use the server."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 takes a free one."""
    public_url: str | None = None
    """Where clients reach a server behind a proxy. Without API keys no other host name than this and loopback is answered."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the API from a browser, such as `["https://app.example"]`. None by default."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed. None by default."""
    drain_seconds: Annotated[float, Field(ge=0)] = 5.0
    """How long `vitascope web` goes on answering after SIGTERM while `/readyz` is 503, so that load balancers notice."""
    unknown_model_falls_back: bool = True
    """In vendors' dialects a model name that no card has is taken for the default model, with the reason in the job's metadata, because their clients send the vendors' own names. Off, it is refused, as the native API and the command line always do."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    """Largest request body. 32 MiB: the biggest documented reference image is 20 MiB as base64 text."""


class StoreSettings(_Section):
    """Where jobs are kept."""

    url: str | None = None
    """URL of the database, `sqlite:///PATH` or `postgresql://…`. By default `DATABASE_URL`, else a SQLite file in the data folder."""
    max_queued: Annotated[int, Field(ge=1)] = 1000
    """Jobs that may wait; one more is answered 429. 1,000 is a day of work for one device at 90 s a video."""
    max_queued_per_key: Annotated[int, Field(ge=1)] | None = None
    """Jobs of one API key that may wait, so that one client cannot fill the queue. By default only `max_queued` counts."""


class WorkerSettings(_Section):
    """The process that owns a device."""

    lease_seconds: Annotated[float, Field(gt=0)] = 15.0
    """A job whose worker was silent for so long is given to another. 15 s rides out a paused machine."""
    poll_seconds: Annotated[float, Field(gt=0)] = 0.25
    """How often an idle worker looks for a job. A claim on an empty queue costs well under a millisecond."""
    max_attempts: Annotated[int, Field(ge=1)] = 3
    """A job that took its worker down so often fails as `worker_lost`."""
    hang_seconds: Annotated[float, Field(gt=0)] = 900.0
    """An engine that says nothing for so long is killed. 15 min: loading a large model from a slow disk says nothing. Between denoising steps ten times a step's time is enough, but at least 10 s."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """At SIGTERM a running job may go on for so long before it is handed back."""
    frame_interpolation: Literal["motion", "blend", "repeat"] = "motion"
    """What is shown between two frames of the model where a file has a higher rate: what moved on its way (`motion`; 25 frames of 512x512 from 8 to 24 fps take 3.3 s of two cores), one fading into the other (`blend`, 0.1 s), or the nearer one (`repeat`)."""
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    """Niceness of a CPU engine, so that the web process stays quick. Measured: p99 of a poll 166 ms without, 40 ms with 10."""


class EngineSettings(_Section):
    """The denoising engine."""

    kind: Literal["diffusers", "fake"] = "diffusers"
    """`fake` draws a test pattern at a set pace, for client developers and load tests. It uses no model."""
    fake_step_seconds: Annotated[float, Field(ge=0)] = 0.1
    """Seconds that the fake engine takes for one denoising step."""
    default_model: str = "pocket"
    """Model of requests that name none."""
    device: str = "auto"
    """torch device, such as `cuda:0`; `auto` takes the first of CUDA, XPU, MPS, CPU that works."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch; 0 is one per physical core."""


def _json_list(value: object) -> object:
    """Read a list as the environment has it; the settings library's own words for a wrong one name no rule."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f'it must be a JSON list, such as ["{value.strip() or "minio.internal"}"]') from None


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class OutboundSettings(_Section):
    """What the server fetches from URLs that its users give, and where it calls them."""

    enabled: bool = True
    """Fetch http and https URLs that users give for images, and call those that they give for webhooks. Off, they send the files themselves and ask how jobs are."""
    allow: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_json_list)] = ()
    """Hosts (`minio.internal`), addresses and networks (`10.0.0.0/8`) that users' URLs may lead to beyond the public internet; a host or address may name its only port (`minio.internal:9000`). In the environment a JSON list."""
    max_bytes: Annotated[int, Field(ge=1024)] = 20 * 1024 * 1024
    """Largest file that is fetched. 20 MiB: no vendor takes a bigger reference image."""
    max_seconds: Annotated[float, Field(gt=0)] = 30.0
    """What a fetch may take, redirects included; its client waits for it."""


class WebhooksSettings(_Section):
    """Telling receivers how jobs have ended."""

    keep_days: Annotated[float, Field(gt=0)] = 30.0
    """How long it can be read what became of a webhook, and be sent once more, after it was delivered or given up."""


def _checked_keys(value: SecretStr) -> SecretStr:
    parse_keys(value.get_secret_value())
    return value


class SecretsSettings(_Section):
    """How secrets that must be readable again, such as those that webhooks are signed with, are kept."""

    key: Annotated[SecretStr, AfterValidator(_checked_keys)] | None = None
    """Key that secrets in the database are encrypted with: 32 random bytes as base64. Several with commas between: the first encrypts, all decrypt. The same on each machine of a deployment. By default the file `secrets.key` of the data folder, which is made once."""

    @property
    def keys(self) -> tuple[bytes, ...]:
        return () if self.key is None else parse_keys(self.key.get_secret_value())


class Settings(BaseSettings):
    """All settings. Values are checked at start, never during a request."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="VITASCOPE_",
        env_nested_delimiter="__",
        toml_file=CONFIG_FILE,
        use_attribute_docstrings=True,
    )

    home: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("vitascope")))
    """Data folder: database, videos, inputs."""
    cards: Path | None = None
    """Folder of the operator's own model cards (`*.toml`); by default `cards` in the data folder."""
    server_url: str | None = None
    """Server that commands such as `vitascope jobs` talk to; by default the one of these settings on this machine."""
    api_key: Annotated[str | None, Field(repr=False)] = None
    """Key that these commands show to the server."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    """Least severe kind of lines in the log, which goes to standard error. Prompts, keys, secrets and the rest of users' URLs beyond the host are in none."""
    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    worker: WorkerSettings = WorkerSettings()
    engine: EngineSettings = EngineSettings()
    outbound: OutboundSettings = OutboundSettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    secrets: SecretsSettings = SecretsSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def database_url(self) -> str:
        default = f"sqlite:///{self.home / 'vitascope.db'}"
        return self.store.url or os.environ.get("DATABASE_URL") or default

    @property
    def files_folder(self) -> Path:
        return self.home / "files"

    @property
    def key_file(self) -> Path:
        return self.home / "secrets.key"

    @property
    def cards_folder(self) -> Path:
        return self.cards or self.home / "cards"


def load(**overrides: Any) -> Settings:
    """Read the settings; `overrides` are what the command line said, by section.

    Raises:
        SettingsError: a value is not legal, or the configuration file cannot be read.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"setting `{name}`: {first['msg'].removeprefix('Value error, ')}") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"`{CONFIG_FILE}` cannot be read: {error}") from None
    try:
        return settings.model_copy(update={"home": settings.home.expanduser().absolute()})
    except RuntimeError as error:
        raise SettingsError(f"setting `home`: {error}") from None


def share_cores() -> None:
    """Make torch's waiting CPU threads sleep instead of spin. Call it before torch is imported.

    A spinning thread keeps the core from the very thread that it waits for as soon as anything else runs on the machine.
    Measured on two cores beside one busy process: a clip of `pocket` in 5.2 s instead of 11.5 to 16.3 s
    (docs/experiments.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def to_environment(settings: Settings) -> dict[str, str]:
    """Write `settings` as environment variables, so that a process started with them reads the same values."""
    variables: dict[str, str] = {}
    for name, value in settings.model_dump(exclude_none=True).items():
        if isinstance(value, dict):
            for key, inner in value.items():
                variables[f"VITASCOPE_{name}__{key}".upper()] = _as_text(inner)
        else:
            variables[f"VITASCOPE_{name}".upper()] = _as_text(value)
    return {**os.environ, **variables}


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, tuple | list) else str(value)
