"""Prompts that a language model writes out: what is taken from it, and that nothing that it does fails a job."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pytest

import endpoints
from endpoints import Answer, chat, json_answer
from vitascope.domain.errors import ContentRejected, ModerationUnavailable
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.prompting import PromptRules, settled, texts_of, with_texts
from vitascope.domain.request import GenerationRequest, Shot
from vitascope.domain.step import Step, percent
from vitascope.outbound import OwnService
from vitascope.prompting import ChatEndpoint, Enhancer, NotWritten, Outcome
from vitascope.prompting.judging import judged
from vitascope.prompting.writer import Message, Stop
from vitascope.worker.opening import Enhanced, Guards, opened
from waiting import eventually

MEBIBYTE = 1 << 20
LONG = "A brown dog walks along a beach at sunset while the camera follows it."


def planned(spec: ModelSpec, **asked: object) -> Plan:
    request = GenerationRequest(
        **{"prompt": "a dog", "model": "small", "seed": 7, "enhance_prompt": True, **asked}  # type: ignore[arg-type]
    )
    return plan(request, spec)


def outcome_of(enhancer: Enhancer, of: Plan) -> tuple[Outcome, list[Step]]:
    steps, asking = [], enhancer.enhance(of)
    while True:
        try:
            steps.append(next(asking))
        except StopIteration as finished:
            return finished.value, steps


class TestWhatIsAsked:
    @pytest.mark.parametrize(
        ("asked", "rules", "becomes", "is_told"),
        [
            (None, PromptRules(), None, False),
            (False, PromptRules(), False, False),
            (True, PromptRules(), False, True),
            (None, PromptRules(is_there=True), None, False),
            (True, PromptRules(is_there=True), True, False),
            (None, PromptRules(is_there=True, by_default=True), True, False),
            (False, PromptRules(is_there=True, by_default=True), False, False),
        ],
    )
    def test_the_operator_has_the_model_and_the_client_the_choice(
        self,
        small_spec: ModelSpec,
        asked: bool | None,
        rules: PromptRules,
        becomes: bool | None,
        is_told: bool,
    ) -> None:
        request = GenerationRequest(prompt="a dog", model="small", enhance_prompt=asked)
        found, choices = settled(request, small_spec, rules)
        assert found.enhance_prompt is becomes
        assert [choice.value for choice in choices] == ["off"] * is_told

    def test_what_is_made_again_needs_no_model(self, small_spec: ModelSpec) -> None:
        request = GenerationRequest(
            prompt="a dog", model="small", enhance_prompt=True, enhanced_prompts=(LONG,)
        )
        assert settled(request, small_spec, PromptRules()) == (request, ())

    def test_a_model_that_reads_no_text_is_told_of(self, small_spec: ModelSpec) -> None:
        spec = replace(small_spec, takes_prompt=False)
        request = GenerationRequest(prompt="", model="small", enhance_prompt=True)
        found, (choice,) = settled(request, spec, PromptRules(is_there=True))
        assert (found.enhance_prompt, choice.value) == (False, "off")

    def test_what_was_written_already_needs_no_model(self, small_spec: ModelSpec) -> None:
        request = GenerationRequest(
            prompt="a dog", model="small", enhance_prompt=True, enhanced_prompts=(LONG,)
        )
        found, choices = settled(request, small_spec, PromptRules())
        assert (found.enhance_prompt, choices) == (True, ())

    def test_a_plan_stored_before_reads_back(self, small_spec: ModelSpec) -> None:
        values = planned(small_spec).to_dict()
        del values["enhance_prompt"], values["enhanced_prompts"]
        assert Plan.from_dict(values) == planned(small_spec, enhance_prompt=None)


class TestTexts:
    def test_each_text_is_one(self, small_spec: ModelSpec) -> None:
        long = planned(small_spec, num_frames=40)
        assert len(long.windows) > 1
        assert texts_of(long) == ("a dog",)
        changed = with_texts(long, ["a cat"])
        assert (changed.prompt, texts_of(changed)) == ("a cat", ("a cat",))

    def test_shots_have_their_own(self, small_spec: ModelSpec) -> None:
        shots = (Shot("it runs"), Shot("it sleeps"), Shot("it runs"))
        of = planned(small_spec, shots=shots)
        assert texts_of(of) == ("a dog it runs", "a dog it sleeps")
        changed = with_texts(of, ["one", "two"])
        assert [window.prompt for window in changed.windows] == ["one", "two", "one"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (LONG, LONG),
        (f"  {LONG}\n\n", LONG),
        ("A dog.\n\nIt runs.", "A dog. It runs."),
        (f'"{LONG}"', LONG),
        (f"\u201c{LONG}\u201d", LONG),
        ('"A" and "B"', '"A" and "B"'),
        (f"Prompt: {LONG}", LONG),
        (f"Here is the enhanced prompt:\n\n{LONG}", LONG),
        (f"```\n{LONG}\n```", LONG),
        (f"```text\n{LONG}```", LONG),
        (f"<think>The user wants a dog.\nHm.</think>\n\n{LONG}", LONG),
        (f"The user wants a dog.\n</think>\n\n{LONG}", LONG),
        ("A \x1b[31mred\x00 dog", "A [31mred dog"),
        ("一只狗在沙滩上奔跑", "一只狗在沙滩上奔跑"),
        ("Sorry old dogs walk by", "Sorry old dogs walk by"),
    ],
)
def test_what_is_around_a_prompt_goes(answer: str, text: str) -> None:
    assert judged(answer, 2000) == text


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "nothing"),
        (" \n\t ", "nothing"),
        ('""', "nothing"),
        ("<think>All day long", "only thought"),
        ("<!DOCTYPE html><html><body>502</body></html>", "page"),
        ("<html>\n<h1>Bad gateway</h1></html>", "page"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("I\u2019m sorry, I cannot", "refused"),
        ("As an AI language model, I", "refused"),
        ("word " * 1000, "4999 characters"),
        ("a \ud800 dog", "no text"),
        # each of the longest that is read: none takes time in the square of its length
        (f"a{' ' * MEBIBYTE}b", "1048578 characters"),
        ("<think>" * (MEBIBYTE // 7), "only thought"),
        (f"here is{' ' * MEBIBYTE}b", "1048584 characters"),
        (f"prompt{' ' * 90_000}{LONG * 40}", "2807 characters"),
    ],
    ids=range(15),
)
def test_what_is_no_prompt_is_refused(answer: str, reason: str) -> None:
    with pytest.raises(NotWritten, match=reason):
        judged(answer, 2000)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


class TestEndpoint:
    def enhancer(self, url: str, *, seconds: float = 30.0, key: str | None = None) -> Enhancer:
        return Enhancer(ChatEndpoint(OwnService(url, key), "talker"), seconds=seconds)

    def test_it_is_asked_as_documented(self, small_spec: ModelSpec) -> None:
        with endpoints.serving(chat(LONG)) as service:
            outcome, steps = outcome_of(self.enhancer(service.url, key="s3cret"), planned(small_spec))
        assert outcome.texts == (LONG,)
        assert (outcome.choice.value, outcome.choice.reason) == ("on", "written out by `talker`")
        (asked,), (headers,) = service.asked, service.headers
        assert service.paths == ["/v1/chat/completions"]
        assert headers["authorization"] == "Bearer s3cret"
        assert (asked["model"], asked["seed"], asked["temperature"]) == ("talker", 7, 0)
        assert [message["role"] for message in asked["messages"]] == ["system", "user"]
        assert asked["messages"][1]["content"] == "a dog"
        assert {step.stage for step in steps} == {"enhance_prompt"}
        assert [percent(step) for step in steps] == [0] * len(steps)

    def test_a_server_that_takes_no_seed_is_asked_without(self, small_spec: ModelSpec) -> None:
        def said(body: dict[str, object]) -> Answer:
            return json_answer({"error": {}}, 400) if "seed" in body else chat(LONG)

        with endpoints.serving(said) as service:
            outcome, _ = outcome_of(self.enhancer(service.url), planned(small_spec))
        assert outcome.texts == (LONG,)
        assert len(service.asked) == 2

    def test_text_in_parts_is_joined(self, small_spec: ModelSpec) -> None:
        parts = {"content": [{"type": "text", "text": "A dog "}, {"type": "text", "text": "runs."}]}
        with endpoints.serving(chat(None, message=parts)) as service:
            outcome, _ = outcome_of(self.enhancer(service.url), planned(small_spec))
        assert outcome.texts == ("A dog runs.",)

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (Answer(status=500), "answered 500"),
            (json_answer({"error": {"message": "no such key"}}, 401), "answered 401"),
            (json_answer({"error": {}}, 400), "answered 400"),
            (Answer(status=302, headers={"location": "http://127.0.0.1:1/"}), "answered 302"),
            (Answer(b"<html>hello</html>", kind="text/html"), "no JSON"),
            (Answer(b'{"choices": ['), "no JSON"),
            (Answer(b"[" * 200_000), "no JSON"),
            (Answer(b"\xff\xfe"), "no JSON"),
            (json_answer([]), "form"),
            (json_answer({"choices": []}), "form"),
            (json_answer({"choices": [{"message": "hello"}]}), "form"),
            (json_answer({"choices": [{"message": {"content": 7}}]}), "form"),
            (json_answer("hello"), "form"),
            (chat(None), "nothing"),
            (chat(""), "nothing"),
            (chat("<html><body>hi</body></html>"), "page"),
            (chat("word " * 10_000), "49999 characters"),
            (chat("A dog", finish_reason="length"), "end"),
            (chat("", finish_reason="content_filter"), "refused"),
            (chat(None, message={"refusal": "No."}), "refused"),
            (chat("I'm sorry, I can't."), "refused"),
            (Answer(b"x" * (1 << 20) + b"x"), "bytes"),
        ],
    )
    def test_what_cannot_be_used_leaves_the_prompt_as_it_was(
        self, small_spec: ModelSpec, answer: Answer, reason: str
    ) -> None:
        with endpoints.serving(answer) as service:
            outcome, _ = outcome_of(self.enhancer(service.url), planned(small_spec))
        assert outcome.texts == ()
        assert outcome.choice.value == "off"
        assert reason in outcome.choice.reason
        assert outcome.choice.reason.endswith(": the prompt is used as it was sent")

    @pytest.mark.parametrize("answer", [Answer(hangs=True), Answer(b" " * 1000, drip_seconds=0.05)])
    def test_a_slow_one_is_not_waited_for(self, small_spec: ModelSpec, answer: Answer) -> None:
        with endpoints.serving(answer) as service:
            outcome, _ = outcome_of(self.enhancer(service.url, seconds=0.3), planned(small_spec))
        assert outcome.choice.reason.startswith("the language model gave no answer in time")

    def test_one_that_is_down_is_told_of(self, small_spec: ModelSpec, closed_port: int) -> None:
        outcome, _ = outcome_of(self.enhancer(f"http://127.0.0.1:{closed_port}"), planned(small_spec))
        assert "cannot be reached" in outcome.choice.reason
        assert str(closed_port) not in outcome.choice.reason

    def test_one_bad_shot_leaves_all_as_they_were(self, small_spec: ModelSpec) -> None:
        """Half of a story in another style would be worse than none."""

        def said(body: dict[str, list[dict[str, str]]]) -> Answer:
            return chat("" if "sleeps" in body["messages"][1]["content"] else LONG)

        of = planned(small_spec, shots=(Shot("it runs"), Shot("it sleeps")))
        with endpoints.serving(said) as service:
            outcome, _ = outcome_of(self.enhancer(service.url), of)
        assert outcome.texts == ()

    def test_a_cancel_does_not_wait_for_it(self, small_spec: ModelSpec) -> None:
        with endpoints.serving(Answer(hangs=True)) as service:
            asking = self.enhancer(service.url).enhance(planned(small_spec))
            with closing(asking):
                next(asking)
                eventually(lambda: service.asked)
            names = [thread.name for thread in threading.enumerate()]
        assert "enhance-prompt" not in names

    @pytest.mark.parametrize(
        ("call", "words"), [({}, 90), ({"max_sequence_length": 64}, 44), ({"max_sequence_length": 8}, 10)]
    )
    def test_it_is_told_how_much_the_video_model_reads(
        self, small_spec: ModelSpec, call: dict[str, int], words: int
    ) -> None:
        for instructions in (None, "In {words} words."):
            with endpoints.serving(chat(LONG)) as service:
                writer = ChatEndpoint(OwnService(service.url), "talker")
                spec = replace(small_spec, call=call)
                list(opened(planned(spec), spec, Guards(Enhancer(writer, instructions=instructions))))
            assert f"{words} words" in " ".join(service.asked[0]["messages"][0]["content"].split())

    def test_a_picture_is_told_of(self, small_spec: ModelSpec) -> None:
        with endpoints.serving(chat(LONG)) as service:
            outcome_of(self.enhancer(service.url), planned(small_spec, image="a.png"))
        assert "pictures that you do not see" in service.asked[0]["messages"][0]["content"]


class Parrot:
    """A writer that says what it is told to."""

    name = "parrot"

    def __init__(self, text: str | Exception) -> None:
        self.text = text
        self.num_asked = 0
        self.is_closed = False

    def write(self, messages: Sequence[Message], *, seed: int, seconds: float, stop: Stop) -> str:
        self.num_asked += 1
        if isinstance(self.text, Exception):
            raise self.text
        return self.text

    def close(self) -> None:
        self.is_closed = True


class TestStage:
    def run(self, of: Plan, guards: Guards, spec: ModelSpec) -> tuple[Plan, list[Enhanced]]:
        found, stage = [], opened(of, spec, guards)
        while True:
            try:
                event = next(stage)
            except StopIteration as finished:
                return finished.value, found
            if isinstance(event, Enhanced):
                found.append(event)

    def test_the_plan_has_the_new_text_and_says_so(self, small_spec: ModelSpec) -> None:
        parrot = Parrot(LONG)
        made, found = self.run(planned(small_spec), Guards(Enhancer(parrot)), small_spec)
        assert (made.prompt, found) == (LONG, [Enhanced((LONG,))])
        assert [(c.name, c.value) for c in made.choices][-1] == ("enhance_prompt", "on")
        assert parrot.is_closed

    def test_off_is_off(self, small_spec: ModelSpec) -> None:
        parrot = Parrot(LONG)
        of = planned(small_spec, enhance_prompt=False)
        assert self.run(of, Guards(Enhancer(parrot)), small_spec) == (of, [])
        assert parrot.num_asked == 0

    def test_another_try_asks_nobody(self, small_spec: ModelSpec) -> None:
        parrot = Parrot("something else")
        of = planned(small_spec, enhanced_prompts=(LONG,))
        made, found = self.run(of, Guards(Enhancer(parrot)), small_spec)
        assert (made.prompt, found, parrot.num_asked) == (LONG, [Enhanced((LONG,))], 0)

    def test_what_was_kept_of_other_texts_is_not_taken(self, small_spec: ModelSpec) -> None:
        of = planned(small_spec, enhanced_prompts=("one", "two"))
        made, _ = self.run(of, Guards(Enhancer(Parrot(LONG))), small_spec)
        assert made.prompt == LONG

    def test_a_machine_without_a_model_says_so(self, small_spec: ModelSpec) -> None:
        made, found = self.run(planned(small_spec), Guards(), small_spec)
        assert (made.prompt, found, made.choices[-1].value) == ("a dog", [], "off")

    @pytest.mark.parametrize("error", [RuntimeError("surprise"), NotWritten("is away")])
    def test_no_failure_fails_the_job(
        self, small_spec: ModelSpec, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        parrot = Parrot(error)
        made, found = self.run(planned(small_spec), Guards(Enhancer(parrot)), small_spec)
        assert (made.prompt, found, made.choices[-1].value) == ("a dog", [], "off")
        assert parrot.is_closed

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (ContentRejected("prompt", LONG, "it may not"), "content check does not let pass"),
            (ModerationUnavailable(), "could not be checked"),
        ],
    )
    def test_what_the_content_check_rejects_is_not_used(
        self, small_spec: ModelSpec, error: Exception, words: str
    ) -> None:
        def check(_text: str) -> None:
            raise error

        made, found = self.run(planned(small_spec), Guards(Enhancer(Parrot(LONG), check=check)), small_spec)
        assert (made.prompt, found) == ("a dog", [])
        assert words in made.choices[-1].reason
