"""Drafts: from a request to all that can be known and stored of its job before there is one."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from vitascope.domain import improved_sampling, prompting, speed_levels
from vitascope.domain.access import Caller
from vitascope.domain.choice import Choice
from vitascope.domain.errors import (
    JobConflict,
    PermissionDenied,
    StorageError,
    StorageUnavailable,
    VitascopeError,
)
from vitascope.domain.job import Job
from vitascope.domain.marks import MarkRules
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import DEFAULT_RULES, Plan, plan
from vitascope.domain.prompting import NO_PROMPT_RULES, PromptRules
from vitascope.domain.request import GenerationRequest, Lora
from vitascope.domain.speed_levels import SpeedLevel
from vitascope.outbound import Outbound
from vitascope.storage import Storage

from . import ids, inputs
from .characters import Characters
from .files import Files
from .inputs import NOTHING, Sent
from .jobs import remove_files
from .results import Results

if TYPE_CHECKING:
    from vitascope.moderation import PromptCheck

SEED_BITS = 32
"""Drawn seeds stay small enough that JavaScript reads them exactly."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked request that has an id, but is not a job yet: nothing is stored and nothing is promised."""

    job_id: str
    request: GenerationRequest
    plan: Plan
    #: Pictures and videos that came with it; `request` has the keys under which they will be stored.
    sent: Sent = NOTHING
    #: What its dialect decided.
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True)
class OperatorRules:
    """What the operator decides of requests."""

    marks: MarkRules = DEFAULT_RULES
    """What is wanted of all files."""
    improved_sampling_iterations: int = improved_sampling.DEFAULT_ITERATIONS
    speed: SpeedLevel = "lossless"
    expire_seconds: int | None = None
    """How long files are kept whose request does not say; None for as long as their job."""
    prompts: PromptRules = NO_PROMPT_RULES
    """Whether prompts are written out."""
    shows_previews: bool = True
    """Whether what is not finished may be seen."""


NO_RULES = OperatorRules()


class Loras(Protocol):
    """What the service needs of the operator's adapters."""

    def check(self, asked: Sequence[Lora], spec: ModelSpec) -> None:
        """Find out whether they are there and fit. Raises InvalidParameter."""

    def of(self, spec: ModelSpec) -> list[str]:
        """Name those that fit a model."""

    def problem_of_card(self, spec: ModelSpec) -> str | None:
        """Say what is wrong with those that the model's card names."""


class Models(Protocol):
    """What the service needs of the catalog."""

    def all(self) -> list[ModelSpec]: ...

    def resolve(self, name: str | None) -> ModelSpec:
        """Find a model; None is the default. Raises UnknownModel."""

    def is_here(self, spec: ModelSpec) -> bool:
        """Whether this machine has its files."""

    def look_soon(self) -> None:
        """Look anew at what was added."""

    @property
    def loras(self) -> Loras: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Where that is which a request names by an id."""

    files: Files
    characters: Characters
    results: Results


def _drawn_seed() -> int:
    return secrets.randbits(SEED_BITS)


class Drafts:
    """Makes them. `prepare` is quick and pure, `fetch_inputs` waits for other servers, `store_inputs` reads pictures and videos.

    Args:
        models: the catalog.
        storage: where inputs are kept.
        sources: of what a request names by id, and of own links.
        rules: the operator's.
        prompt_check: looks at requests' texts; None lets all pass.
        expected_seconds: how long a plan takes, from measured speeds.
        outbound: the way to URLs that users give; None refuses them.
        max_fetched_bytes: the largest file that is fetched from them.
        clock: tells what has expired.
    """

    def __init__(
        self,
        models: Models,
        storage: Storage,
        sources: Sources,
        *,
        rules: OperatorRules,
        prompt_check: PromptCheck | None,
        expected_seconds: Callable[[Plan], float | None],
        outbound: Outbound | None,
        max_fetched_bytes: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._models = models
        self._storage = storage
        self._sources = sources
        self.rules = rules
        self._prompt_check = prompt_check
        self._expected_seconds = expected_seconds
        self._outbound = outbound
        self._max_fetched_bytes = max_fetched_bytes
        self._clock = clock

    def prepare(
        self,
        request: GenerationRequest,
        caller: Caller,
        sent: Sent = NOTHING,
        choices: Sequence[Choice] = (),
    ) -> Draft:
        """Check and plan a request.

        Args:
            request: what is asked for; missing seeds are drawn here.
            caller: who asks.
            sent: pictures and videos that came with it. The request's fields for them are then set.
            choices: what the dialect decided on its own; kept with the job.

        Raises:
            UnknownModel: there is no such model.
            PermissionDenied: the caller may not use it.
            InvalidParameter: it asks for something that cannot be made.
        """
        job_id = ids.new_id()
        if request.seed is None:
            request = dataclasses.replace(request, seed=_drawn_seed(), is_seed_drawn=True)
        request = improved_sampling.drawn(request, self.rules.improved_sampling_iterations, _drawn_seed)
        request = speed_levels.settled(request, self.rules.speed)
        if request.expires_in_seconds is None:
            request = dataclasses.replace(request, expires_in_seconds=self.rules.expire_seconds)
        request = inputs.named(request, sent, job_id)
        spec = self._models.resolve(request.model)
        if not caller.may_use(spec.id):
            raise PermissionDenied(f"this API key may not use the model `{spec.id}`")
        request, followed = inputs.following_kept(request, sent, spec.fps)
        request, told = prompting.settled(request, spec, self.rules.prompts)
        request, hidden = self._with_previews(request)
        choices = (*choices, *followed, *told, *hidden)
        return Draft(job_id, request, self._planned(request, spec, choices), sent, tuple(choices))

    def _with_previews(self, request: GenerationRequest) -> tuple[GenerationRequest, tuple[Choice, ...]]:
        if self.rules.shows_previews or not request.preview_every:
            return request, ()
        reason = "this server looks at frames before anybody sees them, and previews come before that"
        return dataclasses.replace(request, preview_every=0), (Choice("preview_every", "0", reason),)

    def _planned(self, request: GenerationRequest, spec: ModelSpec, choices: Sequence[Choice]) -> Plan:
        planned = plan(request, spec, self.rules.marks)
        return dataclasses.replace(planned, choices=(*choices, *planned.choices)) if choices else planned

    def prepare_plan(self, request: GenerationRequest, caller: Caller, sent: Sent = NOTHING) -> Draft:
        """Do what `prepare` does for who asks for the plan only, and tell what it does not know yet; raises the same."""
        draft = self.prepare(request, caller, sent)
        choices = (*inputs.not_followed(draft.request), *draft.plan.choices)
        return dataclasses.replace(draft, plan=dataclasses.replace(draft.plan, choices=choices))

    def prepare_again(self, job: Job, caller: Caller) -> Draft:
        """Plan a job's request anew, with the seed that it had and inputs of its own. Reads the inputs.

        Raises:
            JobConflict: the job has not ended, or its inputs are not kept any more.
            UnknownModel: its model is not there any more.
            InvalidParameter: its model no longer makes this.
        """
        if not job.status.is_terminal:
            message = f"the job is {job.status}: only one that has ended can be made again"
            raise JobConflict(message, hint="cancel it first, or send its request a second time")
        # what was decided of its prompt stays, whatever the operator wants by now
        request = dataclasses.replace(
            job.request,
            enhance_prompt=job.plan.enhance_prompt,
            enhanced_prompts=job.enhanced_prompts,
            is_seed_drawn=False,  # who makes a video again wants its seed
        )
        draft = self.prepare(request, caller, self._sent_with(job))
        own = draft.plan.choices
        if job.plan.choices[len(job.plan.choices) - len(own) :] != own:
            return draft
        # planned as before, so what its dialect had decided is true of this one too
        return dataclasses.replace(draft, plan=dataclasses.replace(draft.plan, choices=job.plan.choices))

    def _sent_with(self, job: Job) -> Sent:
        request = job.request
        if not request.inputs:
            return NOTHING
        what = "its first frame is" if request.inputs == (request.image,) else "what was sent with it is"
        message = f"the job cannot be made again: {what} not kept any more"
        if job.is_expired(self._clock()):
            raise JobConflict(message, hint="send its request and its files again")

        def read(key: str | None) -> bytes | None:
            if key is None:
                return None
            with self._storage.open(key) as file:
                return file.read()

        try:
            references = [read(key) for key in request.references]
            return Sent(
                image=read(request.image),
                last_image=read(request.last_image),
                video=read(request.video),
                continues=read(request.continues),
                references=tuple(content for content in references if content is not None),
                watermark=read(None if request.watermark is None else request.watermark.image),
            )
        except StorageUnavailable:
            raise
        except StorageError as error:
            raise JobConflict(message, hint="send its request and its files again") from error

    def expected_seconds(self, draft: Draft) -> float | None:
        """Estimate how long a draft would take once it runs, from measured speeds; None if nobody knows."""
        return self._expected_seconds(draft.plan)

    def has_loras(self, draft: Draft) -> bool:
        """Whether adapters are applied, which `check_loras` is to look at."""
        return bool(draft.request.loras) or any(spec.loras for spec in self._specs_of(draft))

    def check_loras(self, draft: Draft) -> None:
        """Find out whether the draft's adapters are there and were made for its model. Looks at files.

        Raises:
            InvalidParameter: one is not there, not whole, a pickle, or made for another architecture; or one of a card.
        """
        first, *second = self._specs_of(draft)
        self._models.loras.check(draft.request.loras, first)
        for spec in second:
            self._models.loras.check((), spec)

    def _specs_of(self, draft: Draft) -> list[ModelSpec]:
        """Return the draft's model, and the one of its second pass if that is another."""
        spec = self._models.resolve(draft.request.model)
        return [spec] if draft.plan.upscale is None or spec.second is None else [spec, spec.second]

    @property
    def checks_texts(self) -> bool:
        return self._prompt_check is not None

    async def check_texts(self, texts: Mapping[str, str]) -> None:
        """Find out whether texts, by the names of their parameters, are allowed here. May wait for another server.

        Raises:
            ContentRejected: one of them is not.
            ModerationUnavailable: nobody can say.
        """
        if self._prompt_check is not None:
            await self._prompt_check.check(texts)

    async def fetch_inputs(self, draft: Draft) -> Draft:
        """Fetch what the draft names by URL, so that nothing later depends on that.

        Raises:
            InvalidParameter: a URL is not one that is fetched, or there is no file of a bearable size.
            QueueFull: too many are being fetched.
        """
        return dataclasses.replace(draft, sent=await self.fetched(draft.sent))

    async def fetched(self, sent: Sent) -> Sent:
        return await inputs.fetched(
            sent, self._outbound, self._max_fetched_bytes, self._sources.results.read_own_link
        )

    def look_up_inputs(self, draft: Draft, caller: Caller) -> Draft:
        """Read what the draft names by ids of uploaded files. May wait for a network.

        Raises:
            InvalidParameter: the caller has no such file or character.
        """
        sent = self._sources.characters.looked_up(self._sources.files.looked_up(draft.sent, caller), caller)
        return dataclasses.replace(draft, sent=sent)

    def follow(self, draft: Draft) -> Draft:
        """Take from the video that was sent, which is measured, what it decides; nothing is stored.

        Raises:
            InvalidParameter: it cannot be read, or asks for something that cannot be made.
        """
        sent, spec = draft.sent, self._models.resolve(draft.request.model)
        if isinstance(sent.video, bytes):
            request, choices = inputs.following(draft.request, inputs.measured(sent.video), spec.fps)
        elif isinstance(sent.continues, bytes):
            measured = inputs.measured(sent.continues, "continues")
            request, choices = inputs.continuing(draft.request, measured)
        else:
            return draft
        if not choices:  # as of a job that is made again: its plan says what was taken from the video
            return draft
        choices = (*draft.choices, *choices)
        return dataclasses.replace(draft, request=request, plan=self._planned(request, spec, choices))

    def store_inputs(self, draft: Draft) -> Draft:
        """Check the draft's pictures and video and store them. A video that was sent may decide size and length.

        Raises:
            InvalidParameter: one of them cannot be read, or its video asks for something that cannot be made.
            QueueFull: too many are being read.
        """
        draft = self.follow(draft)
        try:
            inputs.store(draft.sent, draft.request, draft.plan, self._storage)
        except VitascopeError:
            self.drop_inputs(draft)  # those that came before the wrong one: no job has this id yet
            raise
        return draft

    def drop_inputs(self, draft: Draft) -> None:
        """Remove the stored inputs of a draft that did not become a job. May wait for a network.

        After any error but those that `enqueue` names the job may be stored all the same: then its inputs must stay.
        """
        if any(draft.sent.items()):
            remove_files(self._storage, draft.request.inputs)
