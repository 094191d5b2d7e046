"""Frozen settings by topic; the only reader of the environment and of the configuration file.

Order: command line, then environment (`VITASCOPE_SECTION__KEY`), then `vitascope.toml`, then the default written here.
Rooms below never import this module: `app` hands them the few values that they need.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from .domain.errors import InvalidParameter, SettingsError, UrlRefused
from .domain.improved_sampling import DEFAULT_ITERATIONS, MAX_ITERATIONS
from .domain.marks import OPERATORS_IMAGE, MarkRules, check_watermark
from .domain.plan import MAX_PROMPT_CHARS
from .domain.prompting import PromptRules
from .domain.request import MAX_EXPIRES_SECONDS, MIN_EXPIRES_SECONDS, Position, Watermark
from .domain.secret import parse_keys
from .domain.speed_levels import SpeedLevel

if TYPE_CHECKING:
    from .moderation import PromptCheck

CONFIG_FILE = "vitascope.toml"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Key = Annotated[SecretStr | None, BeforeValidator(lambda value: value or None)]
"""Of a service; an empty one, as a compose file passes an unset variable on, is none."""


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
    """In vendors' dialects a model name that no card has, or whose files are on no machine of the deployment, is taken for the default model, with the reason in the job's metadata, because their clients send the vendors' own names. Off, it is refused, as the native API and the command line always do."""
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


def _json_list(value: object) -> object:
    """Read a list as the environment has it; the settings library's own words for a wrong one name no rule."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f'it must be a JSON list, such as ["{value.strip() or "minio.internal"}"]') from None


class ModelsSettings(_Section):
    """Models that are added while the server runs (`vitascope models add`). See docs/models.md."""

    allow: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_json_list)] = ("hub",)
    """Where they may come from: `hub` (all of its repositories), `hub:OWNER/NAME`, `hub:OWNER/*`, a folder's absolute path (all below it), or what https URLs of adapters begin with (`https://HOST/PATH/`). In the environment a JSON list."""


_BUCKET_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9._/-]*))?", re.ASCII)


class StorageSettings(_Section):
    """Where videos and what was sent for them are kept, and for how long."""

    kind: Literal["local", "s3"] = "local"
    """`local` is the folder `files` of the data folder; `s3` a bucket of any S3-compatible object storage, with `pip install vitascope[s3]`."""
    url: str | None = None
    """Bucket, and what is put before each name in it: `s3://BUCKET/PREFIX`."""
    endpoint: str | None = None
    """URL of an object storage other than AWS, such as `https://minio.internal:9000`. By default `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`, else AWS."""
    region: str | None = None
    """Region of the bucket. By default `AWS_REGION`, else `AWS_DEFAULT_REGION`, else `us-east-1`."""
    path_style: bool | None = None
    """Whether the bucket is in the path of URLs (`https://host/bucket/…`) rather than in the host name. By default wherever an endpoint is set, and not at AWS."""
    access_key_id: str | None = None
    """By default what AWS's variables say (`AWS_ACCESS_KEY_ID` and the others), else the machine's or the pod's role."""
    secret_access_key: SecretStr | None = None
    """Secret of `access_key_id`. Never in a log, nor in an engine's environment."""
    public_url: str | None = None
    """Where anyone can read the bucket, such as `https://videos.example`: dialects whose vendors link to object storage name this address. Its policy must let them; nothing is asked. By default nobody can."""
    content: Literal["proxy", "redirect"] = "proxy"
    """How clients get videos from S3: through this server, or sent on (302) to the bucket with an address that is good for an hour. Some clients do not follow, and the endpoint must be reachable for them."""
    link_seconds: Annotated[float, Field(ge=60, le=7 * 86400)] = 86400.0
    """How long the signed links in replies are good for."""
    patience_seconds: Annotated[float, Field(ge=0)] = 900.0
    """How long a finished job waits for an object storage that is away, or refuses the file, before it fails as `storage_error`. Its device waits too: 15 min are less than most videos cost to make again."""
    expire_seconds: Annotated[int, Field(ge=MIN_EXPIRES_SECONDS, le=MAX_EXPIRES_SECONDS)] | None = None
    """How long a job's files are kept once it has ended, where its request does not say; of new jobs only. By default for as long as the job."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 512 * 1024 * 1024
    """Free space of the disk below which no new jobs are taken, and none are begun where files are made. 512 MiB: the videos of a full queue, 1,000 of half a megabyte, still fit, and the database beside them."""

    @model_validator(mode="after")
    def _whole(self) -> StorageSettings:
        if self.kind == "local" and self.url is not None:
            message = "`url` is set, but `kind` is `local`; set it to `s3`"
            raise ValueError(message)
        if self.kind == "s3" and _BUCKET_URL.fullmatch(self.url or "") is None:
            message = f"`url` is {self.url!r}, but with `kind` `s3` it must be of the form s3://BUCKET or s3://BUCKET/PREFIX"
            raise ValueError(message)
        if (self.access_key_id is None) != (self.secret_access_key is None):
            message = "`access_key_id` and `secret_access_key` are set together or not at all"
            raise ValueError(message)
        for name, value in (("endpoint", self.endpoint), ("public_url", self.public_url)):
            if value is not None and re.match(r"https?://[^/]", value) is None:
                message = f"`{name}` is {value!r}, but it must begin with https:// or http://"
                raise ValueError(message)
        if self.kind == "local" and self.public_url is not None:
            message = "`public_url` is set, but `kind` is `local`: a folder has no address of its own"
            raise ValueError(message)
        return self

    @property
    def bucket(self) -> str:
        return self._place[1]

    @property
    def prefix(self) -> str:
        return self._place[2] or ""

    @property
    def _place(self) -> re.Match[str]:
        found = _BUCKET_URL.fullmatch(self.url or "")
        assert found is not None, "it was checked"
        return found

    @property
    def endpoint_url(self) -> str | None:
        return (
            self.endpoint
            or os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
            or None
        )

    @property
    def region_name(self) -> str:
        return (
            self.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        )

    @property
    def is_path_style(self) -> bool:
        return self.endpoint_url is not None if self.path_style is None else self.path_style


_OWN_STORAGE_SECRETS = ("VITASCOPE_STORAGE__ACCESS_KEY_ID", "VITASCOPE_STORAGE__SECRET_ACCESS_KEY")

_NOT_FOR_ENGINES = (
    *_OWN_STORAGE_SECRETS,
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "VITASCOPE_STORE__URL",
    "DATABASE_URL",
    "PGPASSWORD",
    "PGPASSFILE",
    "VITASCOPE_SECRETS__KEY",
    "VITASCOPE_API_KEY",
)


class WorkerSettings(_Section):
    """The process that owns a device."""

    lease_seconds: Annotated[float, Field(gt=0)] = 15.0
    """A job whose worker was silent for so long is given to another. 15 s rides out a paused machine."""
    poll_seconds: Annotated[float, Field(gt=0)] = 0.25
    """How often a worker looks for a job where it was not told of one, as it is of new ones. A claim on an empty queue costs well under a millisecond."""
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
    devices: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_json_list)] = ()
    """Several devices that make one video together, such as `["cuda:0", "cuda:1"]`; of one kind, each with the whole model. By default there is one, `device`. In the environment a JSON list. See docs/speed.md."""
    parallel: Literal["auto", "off", "guidance", "context"] = "auto"
    """What `devices` share of a step: one branch of guidance each (`guidance`, two devices), or a part of the tokens each (`context`). `auto` takes `guidance` where two devices and a request have it, else `context` where its model can. `off` leaves all but the first idle."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch; 0 is one per physical core."""
    slots: Annotated[int, Field(ge=1)] = 4
    """Generations that may be open at the same time in a worker, which begins a job beside others where that pays; those of one model over one set of weights. Four: one more costs about 1 MB and the latents and text embeddings of its video, and more in turn only make all of them late."""
    loras_folder: Path | None = None
    """Folder of adapters (LoRA, `*.safetensors`) that requests may name, each by its file's name; by default `loras` in the data folder. The same files on each machine. See docs/lora.md."""
    lora_cache_gb: Annotated[float, Field(ge=0)] = 2.0
    """Memory of the device for adapters that were used, so that the next request of one starts at once. Two: an adapter of rank 64 for a model of 14B has 0.6 GB."""
    embeddings_cache_mb: Annotated[float, Field(ge=0)] = 256.0
    """MB (10⁶ bytes) of the device's memory for what text encoders made, so that the next request or window with the same text, most often the same negative prompt, need not wait for it. 256: a prompt of Wan takes 4 MB. 0 keeps none."""
    memory_gb: Annotated[float, Field(ge=0)] = 0.0
    """GB (10⁹ bytes) that loaded models and their work may take; models that were not used for longest go first. 0 takes what is free where a model is loaded, but for a tenth of the device (0.5 to 4 GB)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What models compute in. `auto` takes what a card says, else bfloat16 where the device has it. float16 is refused on a CPU, which takes 100 times as long for it."""
    attention: Literal["auto", "native", "cudnn", "flash", "flash3", "sage", "xformers"] = "auto"
    """Attention kernels of the denoiser. `auto` takes the quickest that pass a try on this device and compute the same as torch's own (`native`); `sage` computes in fewer bits. All but `native` and `cudnn` are packages of their own."""
    vae_tiling: Literal["auto", "on", "off"] = "auto"
    """Decode frames in tiles, which takes less memory and blends seams. `auto` does where a clip does not fit otherwise."""
    vae_channels_last: Literal["auto", "on", "off"] = "auto"
    """Keep the autoencoder's numbers in the order that convolutions want. `auto` does where it was measured: Wan's on a CPU, which decodes in a fifth less time."""
    offload: Literal["auto", "none", "model", "group", "sequential"] = "auto"
    """Where weights wait that do not work: `none` keeps them on the device, `model` brings each part when it is used, `group` each block, `sequential` each layer. `auto` takes the first of these that fits; then one video is made at a time."""
    quantization: Literal["auto", "none", "int8", "fp8"] = "auto"
    """Keep the matrices of denoisers and text encoders in one byte a value. `auto` takes what a card says, else `int8` where a model does not fit otherwise."""

    improved_sampling_iterations: Annotated[int, Field(ge=2, le=MAX_ITERATIONS)] = DEFAULT_ITERATIONS
    """Rounds in which `improved_sampling` denoises, of as many steps each: a video takes so many times as long. FreeInit's authors take 5 and recommend 3 to 5."""

    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the blocks of denoisers, which torch then computes in fewer and larger steps. `auto` does on CUDA where a model stays on the device, and not for `vitascope generate`, whose one clip would not pay for it."""
    speed: SpeedLevel = "lossless"
    """How far videos may differ from what every denoising step computed in full would make, for requests that do not say: `balanced` and `fast` reuse parts of some steps. See docs/speed.md."""

    @property
    def first_device(self) -> str:
        """The device of what only one works on."""
        return self.devices[0] if self.devices else self.device

    @property
    def wishes(self) -> dict[str, str]:
        """How models are to be loaded, by the engine's names."""
        names = (
            "dtype",
            "attention",
            "vae_tiling",
            "vae_channels_last",
            "offload",
            "quantization",
            "compile",
        )
        return {name: getattr(self, name) for name in names}


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


class OpenAISettings(_Section):
    """The OpenAI Videos API and what other servers of its path answer. See docs/openai.md."""

    status_names: Literal["openai", "ezmodel"] = "openai"
    """`ezmodel` calls an unfinished video `pending` and `processing`, as that vendor's page does. OpenAI's SDK takes these for the end and stops polling."""
    generations: Literal["flat", "wrapped"] = "flat"
    """Replies of `/v1/video/generations`: `flat` as New API documents them, `wrapped` in `{"code", "message", "data"}` as its code sends them."""
    sync_seconds: Annotated[float, Field(gt=0)] = 540.0
    """How long `/v1/videos/sync` waits for its video before it answers with the job instead. 9 min: OpenAI's SDK waits ten for an answer."""


class CreditsSettings(_Section):
    """What videos cost API keys that are counted. See docs/credits.md."""

    prices: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = {}
    """Credits for a megapixel-second, by a model's id or its card's price class; they win over the card's. As JSON: `{"small": 4, "wan2.2": 25}`."""


class GallerySettings(_Section):
    """The gallery of public videos, `GET /api/v1/gallery`. See docs/soratasks.md."""

    open: bool = False
    """Let anybody read the gallery, without an API key. By default any key reads it, and nobody else."""


class ModelsLabSettings(_Section):
    """ModelsLab's and stablediffusionapi's calls. See docs/modelslab.md."""

    wait_seconds: Annotated[float, Field(ge=0, le=600)] = 20.0
    """How long a reply waits for its video before it says `processing`. 20 s: some of the vendor's clients give up after 30."""


class ProvenanceSettings(_Section):
    """What each file says of its origin. See docs/provenance.md."""

    enabled: bool = True
    """Sign into each file, as C2PA, that it was made by a machine: by which program and model, and when."""
    certificate: Path | None = None
    """PEM file of your own certificate chain, the signing one first. By default a chain that is made once, in `provenance.pem` of the data folder."""
    key: Path | None = None
    """PEM file of that certificate's private key: ECDSA, Ed25519 or RSA, not encrypted."""
    include_prompt: bool = False
    """Sign the prompt into the file too, where whoever gets the file can read it."""
    optional: bool = False
    """Let requests leave the statement out with `provenance: false`."""


MAX_INSTRUCTION_CHARS = 20_000


class PromptingSettings(_Section):
    """A language model that writes prompts out before their videos are made. See docs/prompts.md."""

    model: str | None = None
    """The language model: its name at `url`; without a `url` a folder of this machine, or the hub id of a model that was downloaded. By default there is none, and prompts are used as they are."""
    url: str | None = None
    """Base URL of an OpenAI-compatible chat endpoint, such as `http://127.0.0.1:11434/v1`."""
    api_key: _Key = None
    """Bearer token for `url`. Engine processes get it: they ask."""
    device: str | None = None
    """torch device of a model on this machine; by default the engine's (first) one. `cpu` where the video's model needs all of the GPU."""
    by_default: bool = False
    """Write out the prompts of requests that do not say whether (`enhance_prompt`)."""
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    """What it may take for one job, whose device waits; then the prompt is used as it was sent. 30 s: a small model on a CPU needs ten."""
    max_chars: Annotated[int, Field(ge=80, le=MAX_PROMPT_CHARS)] = 2000
    """Longest text that is taken from it. 2,000 characters are the 512 tokens that most text encoders read."""
    instructions: Path | None = None
    """Text file of what it is told, in place of our own words."""

    @model_validator(mode="after")
    def _whole(self) -> PromptingSettings:
        for name in ("url", "by_default", "instructions"):
            if getattr(self, name) and self.model is None:
                message = f"`{name}` is set, but there is no `model`"
                raise ValueError(message)
        if self.api_key is not None and self.url is None:
            message = "`api_key` is set, but there is no `url` to show it to"
            raise ValueError(message)
        _check_service(self.url, self.api_key)
        return self


class ModerationSettings(_Section):
    """Checks of what is asked for and of what was made; all off by default. See docs/moderation.md."""

    words: Path | None = None
    """UTF-8 text file of words and phrases, one a line, that no prompt may hold; case, accents and invisible characters make no difference, and `*` at an end stands for the rest of a word. Read at start."""
    url: str | None = None
    """Base URL of an OpenAI-compatible moderation endpoint, such as `https://api.openai.com/v1`, that is asked about each prompt before it is queued."""
    api_key: _Key = None
    """Bearer token for `url`."""
    model: str | None = None
    """Model of that endpoint. By default the endpoint's own."""
    categories: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_json_list)] = ()
    """Only what is flagged in these categories is refused, by the endpoint's names, such as `["sexual/minors"]`; by default all that it flags. In the environment a JSON list."""
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    """What the endpoint may take for a request; its client waits."""
    when_away: Literal["refuse", "pass"] = "refuse"
    """What becomes of requests about which the endpoint gives no answer: they are refused with 503, or pass unchecked."""
    frames: bool = False
    """Look at the pictures that are sent and at the frames that are made, before anything is stored or shown, with `pip install vitascope[moderation]`. There are no previews then."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Score of a picture from which on it is refused, as the detector's authors advise it; they take 0.2 for harmless."""
    frames_per_second: Annotated[float, Field(gt=0, le=120)] = 2.0
    """How many frames of each second are looked at, beside the first and the last. Two: each costs some 40 ms of two cores."""

    @model_validator(mode="after")
    def _whole(self) -> ModerationSettings:
        for name in ("api_key", "model", "categories"):
            if getattr(self, name) and self.url is None:
                message = f"`{name}` is set, but there is no `url`"
                raise ValueError(message)
        _check_service(self.url, self.api_key)
        return self

    def prompt_check(self) -> PromptCheck | None:
        """Make what looks at prompts; None if nothing does.

        Raises:
            SettingsError: the list of words cannot be read.
        """
        if self.words is None and self.url is None:
            return None
        from .moderation import ModerationEndpoint, PromptCheck, WordList
        from .outbound import OwnService

        endpoint = None
        if self.url is not None:
            key = None if self.api_key is None else self.api_key.get_secret_value()
            endpoint = ModerationEndpoint(
                OwnService(self.url, key),
                model=self.model,
                categories=self.categories,
                seconds=self.timeout_seconds,
            )
        words = None if self.words is None else WordList.read(self.words)
        return PromptCheck(words, endpoint, passes_when_away=self.when_away == "pass")

    def check_installed(self) -> None:
        """Find out before anything starts whether what is switched on is there; raises SettingsError."""
        if self.frames:
            from .moderation import check_installed

            check_installed()


def _check_service(url: str | None, key: SecretStr | None, key_name: str = "api_key") -> None:
    if url is not None:
        from .outbound.target import read  # only where there is one: it takes a tenth of a second

        try:
            read(url)
        except UrlRefused as error:
            shown = "" if "@" in url else f" is {url!r}, but"  # it may hold a password, and this goes to logs
            message = f"`url`{shown or ':'} {error.rule}"
            raise ValueError(message) from None
        if "?" in url or "#" in url:
            message = "`url` must end with a path: what follows a `?` or `#` would stand before the paths that are asked"
            raise ValueError(message)
    if key is not None and re.fullmatch(r"[!-~]+", key.get_secret_value()) is None:
        message = f"`{key_name}` holds characters that no key has"
        raise ValueError(message)


class WatermarkSettings(_Section):
    """What can be seen on each video whose request brings no watermark of its own."""

    text: str | None = None
    """Text to draw. By default none."""
    image: Path | None = None
    """Picture to draw, instead of text: PNG, JPEG, WebP or GIF, with its transparency. The same path on each machine."""
    position: Position = "bottom-right"
    """Where."""
    opacity: Annotated[float, Field(ge=0.05, le=1)] = 0.5
    """Up to 1, which is opaque."""
    always: bool = False
    """Requests may neither replace it nor leave it out."""

    @property
    def mark(self) -> Watermark | None:
        if self.text is None and self.image is None:
            return None
        image = None if self.image is None else OPERATORS_IMAGE
        return Watermark(text=self.text, image=image, position=self.position, opacity=self.opacity)


class PeerSettings(_Section):
    """Another server that jobs may be handed over to."""

    url: str
    """Where it is, such as `https://second.internal:8000`."""
    key: _Key = None
    """An API key of that server's; none where it has none."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 1
    """How many it makes for this one at a time: as many as it has workers."""

    @model_validator(mode="after")
    def _whole(self) -> PeerSettings:
        _check_service(self.url, self.key, key_name="key")
        return self


def _each_once(peers: tuple[PeerSettings, ...]) -> tuple[PeerSettings, ...]:
    urls = [peer.url.rstrip("/") for peer in peers]
    if len(set(urls)) < len(urls):
        message = "it names a server twice"
        raise ValueError(message)
    return peers


_PEERS_RULE = 'it must be a JSON list, such as [{"url": "https://second.internal:8000", "key": "vs_…"}]'


def _json_peers(value: object) -> object:
    """Read the list as the environment has it; an empty variable is none."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value or "[]")
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(_PEERS_RULE)
    return found


class Settings(BaseSettings):
    """All settings. Values are checked at start, never during a request."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="VITASCOPE_",
        env_nested_delimiter="__",
        toml_file=CONFIG_FILE,
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
    peers: Annotated[
        tuple[PeerSettings, ...], NoDecode, BeforeValidator(_json_peers), AfterValidator(_each_once)
    ] = ()
    """Other servers that jobs may be handed over to, if they may, while this one is busy: a JSON list of objects with `url` and `key`. See docs/peers.md."""
    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    storage: StorageSettings = StorageSettings()
    worker: WorkerSettings = WorkerSettings()
    engine: EngineSettings = EngineSettings()
    outbound: OutboundSettings = OutboundSettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    secrets: SecretsSettings = SecretsSettings()
    models: ModelsSettings = ModelsSettings()
    openai: OpenAISettings = OpenAISettings()
    credits: CreditsSettings = CreditsSettings()
    gallery: GallerySettings = GallerySettings()
    modelslab: ModelsLabSettings = ModelsLabSettings()
    provenance: ProvenanceSettings = ProvenanceSettings()
    watermark: WatermarkSettings = WatermarkSettings()
    prompting: PromptingSettings = PromptingSettings()
    moderation: ModerationSettings = ModerationSettings()

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
    def certificate_file(self) -> Path:
        return self.home / "provenance.pem"

    @property
    def mark_rules(self) -> MarkRules:
        """What the operator wants of all files.

        Raises:
            SettingsError: the watermark cannot be drawn.
        """
        mark = self.watermark.mark
        try:
            mark = mark and check_watermark(mark)
        except InvalidParameter as error:
            raise SettingsError(f"setting {error.message}", hint=error.hint) from None
        return MarkRules(self.provenance.enabled, self.provenance.optional, mark, self.watermark.always)

    @property
    def prompt_rules(self) -> PromptRules:
        return PromptRules(self.prompting.model is not None, self.prompting.by_default)

    @property
    def prompting_instructions(self) -> str | None:
        """What the language model is told, where that is not our own text.

        Raises:
            SettingsError: the file cannot be read.
        """
        path = self.prompting.instructions
        if path is None:
            return None
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise SettingsError(f"setting `prompting.instructions`: `{path}` cannot be read: {why}") from None
        if not 1 <= len(text) <= MAX_INSTRUCTION_CHARS:
            message = f"setting `prompting.instructions`: `{path}` has {len(text)} characters, but it must have from 1 to {MAX_INSTRUCTION_CHARS}"
            raise SettingsError(message)
        return text

    @property
    def cards_folder(self) -> Path:
        return self.cards or self.home / "cards"

    @property
    def loras_folder(self) -> Path:
        return self.engine.loras_folder or self.home / "loras"

    @property
    def engine_notes_folder(self) -> Path:
        """Where engines keep what they have found out about this machine: measured kernels, compiled blocks."""
        return self.home / "engine"


def load(**overrides: Any) -> Settings:
    """Read the settings; `overrides` are what the command line said, by section.

    Raises:
        SettingsError: a value is not legal, or the configuration file cannot be read.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            raise _unknown(*map(str, first["loc"])) from None
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"setting `{name}`: {first['msg'].removeprefix('Value error, ')}") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"`{CONFIG_FILE}` cannot be read: {error}") from None
    try:
        return settings.model_copy(update={"home": settings.home.expanduser().absolute()})
    except RuntimeError as error:
        raise SettingsError(f"setting `home`: {error}") from None


def _unknown(*name: str) -> SettingsError:
    """There is no setting of that name; tells the nearest one beside it, if one is near."""
    section: Any = Settings
    for part in name[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = field and field.annotation
    near = difflib.get_close_matches(name[-1], getattr(section, "model_fields", {}), n=1)
    hint = (
        f"did you mean `{'.'.join((*name[:-1], near[0]))}`?" if near else "docs/settings.md has all of them"
    )
    return SettingsError(f"there is no setting `{'.'.join(name)}`", hint=hint)


def share_cores() -> None:
    """Make torch's waiting CPU threads sleep instead of spin. Call it before torch is imported.

    A spinning thread keeps the core from the very thread that it waits for as soon as anything else runs on the machine.
    Measured on two cores beside one busy process: a clip of `pocket` in 5.2 s instead of 11.5 to 16.3 s
    (docs/experiments.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def keep_ranks_here() -> None:
    """Let processes that make one video together talk over loopback only. Call it before torch is imported."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)


def keep_compiled(settings: Settings) -> None:
    """Let torch keep compiled blocks in the data folder, so that they are compiled once a machine. Call it before torch is imported."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.engine_notes_folder / "compiled"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(settings.engine_notes_folder / "compiled" / "triton"))


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


def environment_of_engine(settings: Settings) -> dict[str, str]:
    """Write what an engine process needs, which runs models and reads users' files.

    Nothing is left that opens the database, the storage or the server.
    """
    variables = to_environment(settings)
    for name in _NOT_FOR_ENGINES:
        variables.pop(name, None)
    variables["VITASCOPE_PEERS"] = "[]"  # or it would read their keys in the file
    if (
        settings.prompting.model is None
    ):  # what a request says is looked at before, and nothing else is written here
        variables.pop("VITASCOPE_MODERATION__API_KEY", None)
    if settings.storage.access_key_id is not None:
        # or it would read one of the two in the file, and miss the other
        variables |= dict.fromkeys(_OWN_STORAGE_SECRETS, "not for engines")
    return variables


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value, default=_as_text) if isinstance(value, tuple | list | dict) else str(value)
