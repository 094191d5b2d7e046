"""Content checks: what a list of words finds, what an endpoint says, which frames are looked at and what the detector tells."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import endpoints
from endpoints import Answer, json_answer
from vitascope.domain.errors import ContentRejected, ModerationUnavailable, SettingsError
from vitascope.domain.request import GenerationRequest, Shot, Watermark
from vitascope.moderation import (
    FrameCheck,
    ModerationEndpoint,
    PromptCheck,
    WordList,
    check_installed,
    nsfw_scores,
)
from vitascope.moderation.frames import sampled
from vitascope.outbound import OwnService

SKIN = (210, 150, 120)
"""A plain picture of this colour scores 0.27, one of red 0.04."""

RED = (255, 0, 0)


def plain(color: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((64, 96, 3), color, np.uint8)


class TestWords:
    @pytest.mark.parametrize(
        ("entry", "text"),
        [
            ("gore", "a scene of gore"),
            ("gore", "GORE!"),
            ("GORE", "gore"),
            ("gore", "a (gore) b"),
            ("gore", "gore,blood"),
            ("gore", "some_gore_here"),
            ("gore", "go\u200bre"),
            ("gore", "go\u00adre"),
            ("gore", "go\u034fre"),  # a joiner of marks
            ("gore", "go\ufe0fre"),  # the selector that colours emoji
            ("gore", "go\U000e0100re"),
            ("gore", "go\u180bre"),
            ("gore", "go\u3164re"),  # fillers: letters without a shape
            ("gore", "go\uffa0re"),
            ("gore", "go\u115fre"),
            ("gore", "go\u17b4re"),
            ("gore", "go\u2065re"),
            ("gore", "go\x01re"),
            ("gore", "go\x7fre"),
            ("gore", "g\x9fo\x1fré"),
            ("gore", "g\u0336o\u1dc4r\u20dde\u0489"),
            ("gore", "ｇｏｒｅ"),  # noqa: RUF001
            ("gore", "górê"),
            ("fúnf", "Funf"),
            ("straße", "STRASSE"),
            ("file", "a ﬁle"),
            ("bad thing", "a bad   thing"),
            ("bad thing", "a bad-thing"),
            ("bad thing", "a bad\nthing"),
            ("bad thing", "a bad\u00a0thing"),
            ("bad thing", "a bad\x85thíng"),
            ("kill*", "he killed it"),
            ("kill*", "kill"),
            ("x*", "xylophone"),
            ("x*", "x"),
            ("xy*", "xylophone"),
            ("*ware", "malware"),
            ("*war*", "a wargame"),
            ("bad th*", "a bad thing"),
            ("don't", "DON'T"),
            ("血腥", "一个血腥的场面"),
            ("グロ", "エログロな絵"),
            ("आतंक", "यह आतंक है"),
            ("террор", "ТЕРРОР"),  # noqa: RUF001
        ],
    )
    def test_a_word_is_found_however_it_is_written(self, entry: str, text: str) -> None:
        assert WordList([entry]).found(text) == entry

    @pytest.mark.parametrize(
        ("entry", "text"),
        [
            ("gore", "Igor and Al Gorey"),
            ("ass", "a classic bassoon passage"),
            ("bad thing", "a bad other thing"),
            ("bad thing", "things are bad"),
            ("kill*", "overkill"),
            ("*ware", "warehouse"),
            ("आतंक", "आतंकी"),
            ("gore", ""),
            ("gore", "g o r e"),
        ],
    )
    def test_other_words_are_not(self, entry: str, text: str) -> None:
        assert WordList([entry]).found(text) is None

    def test_a_file_has_comments_and_empty_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "words.txt"
        path.write_text("\ufeff# ours\n\ngore  # never\r\nbad thing\n", "utf-8")
        words = WordList.read(path)
        assert words.num_entries == 2
        assert words.found("a bad thing") == "bad thing"
        assert words.found("never ours") is None

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "holds no words"),
            (b"# nothing\n\n", "holds no words"),
            (b"gore\n*\n", "no word in line 2"),
            (b"gore\n...\n", "no word in line 2"),
            (b"gore\n\xff\xfe\n", "not UTF-8 text in line 2"),
            (b"a" * (4 << 20) + b"b", "larger than"),
        ],
    )
    def test_a_file_that_cannot_be_meant_is_refused(
        self, tmp_path: Path, content: bytes, problem: str
    ) -> None:
        path = tmp_path / "words.txt"
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=problem):
            WordList.read(path)

    def test_a_file_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="cannot be read: No such file"):
            WordList.read(tmp_path / "words.txt")


def verdict(*flagged: bool, **categories: bool) -> Answer:
    return json_answer({"results": [{"flagged": one, "categories": categories} for one in flagged]})


class TestPrompts:
    def check(self, check: PromptCheck, **texts: str) -> None:
        asyncio.run(check.check(texts))

    def test_a_word_is_named_with_its_parameter(self) -> None:
        check = PromptCheck(WordList(["gore"]))
        self.check(check, prompt="a dog", negative="")
        with pytest.raises(ContentRejected) as refusal:
            self.check(check, prompt="a dog in gore")
        error = refusal.value
        assert (error.parameter, error.reasons) == ("prompt", ("words",))
        assert error.message == "`prompt` is refused: it holds 'gore', which this server does not take"

    def test_a_long_text_is_looked_through_too(self) -> None:
        with pytest.raises(ContentRejected):
            self.check(PromptCheck(WordList(["gore"])), prompt="a dog " * 5000 + "gore")

    def endpoint(self, url: str, **more: Any) -> ModerationEndpoint:
        return ModerationEndpoint(OwnService(url, "s3cret"), **more)

    def test_an_endpoint_is_asked_about_all_at_once(self) -> None:
        with endpoints.serving(verdict(False, False)) as service:
            check = PromptCheck(None, self.endpoint(service.url, model="omni"))
            self.check(check, **{"prompt": "a dog", "shots[0].prompt": "it runs", "empty": " "})
        assert service.asked == [{"input": ["a dog", "it runs"], "model": "omni"}]
        assert service.paths == ["/v1/moderations"]
        assert service.headers[0]["authorization"] == "Bearer s3cret"

    def test_what_it_flags_is_refused_with_its_categories(self) -> None:
        with endpoints.serving(verdict(True, sexual=True, hate=False)) as service:
            check = PromptCheck(None, self.endpoint(service.url))
            with pytest.raises(ContentRejected, match=r"\(sexual\)") as refusal:
                self.check(check, prompt="a dog")
        assert refusal.value.reasons == ("sexual",)

    def test_only_some_categories_may_count(self) -> None:
        with endpoints.serving(verdict(True, violence=True)) as service:
            self.check(PromptCheck(None, self.endpoint(service.url, categories=["sexual"])), prompt="a dog")
            check = PromptCheck(None, self.endpoint(service.url, categories=["sexual", "violence"]))
            with pytest.raises(ContentRejected, match="violence"):
                self.check(check, prompt="a dog")

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(status=500),
            json_answer({"error": {}}, 401),
            Answer(b"<html>", kind="text/html"),
            json_answer({"results": []}),
            json_answer({"results": [{}]}),
            json_answer({"results": [{"flagged": "no"}]}),
            json_answer([True]),
            Answer(hangs=True),
        ],
    )
    def test_no_answer_lets_nothing_pass_unless_the_operator_wants_that(self, answer: Answer) -> None:
        with endpoints.serving(answer) as service:
            endpoint = self.endpoint(service.url, seconds=0.3)
            with pytest.raises(ModerationUnavailable):
                self.check(PromptCheck(None, endpoint), prompt="a dog")
            self.check(PromptCheck(None, endpoint, passes_when_away=True), prompt="a dog")

    def test_an_answer_without_categories_lets_nothing_pass_where_only_some_count(self) -> None:
        with endpoints.serving(json_answer({"results": [{"flagged": True}]})) as service:
            with pytest.raises(ModerationUnavailable):
                self.check(PromptCheck(None, self.endpoint(service.url, categories=["sexual"])), prompt="a")
            with pytest.raises(ContentRejected):
                self.check(PromptCheck(None, self.endpoint(service.url)), prompt="a")

    def test_a_long_list_keeps_no_event_loop_waiting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        threads: list[str] = []
        check = PromptCheck(WordList([f"*word{number}*" for number in range(3000)]))
        look = WordList.found

        def found(words: WordList, text: str) -> str | None:
            threads.append(threading.current_thread().name)
            return look(words, text)

        monkeypatch.setattr(WordList, "found", found)
        with pytest.raises(ContentRejected):
            self.check(check, prompt="a password7")
        assert threads != [threading.current_thread().name]

    def test_a_list_counts_also_while_the_endpoint_is_away(self) -> None:
        with endpoints.serving(Answer(status=500)) as service:
            check = PromptCheck(WordList(["gore"]), self.endpoint(service.url), passes_when_away=True)
            with pytest.raises(ContentRejected):
                self.check(check, prompt="gore")
        assert service.asked == []

    def test_what_is_not_wanted_may_be_named(self) -> None:
        """Negative prompts are full of what nobody wants to see."""
        request = GenerationRequest(
            prompt="a dog",
            model="m",
            negative_prompt="gore",
            shots=(Shot("it runs"),),
            watermark=Watermark(text="mine"),
        )
        assert request.texts == {
            "prompt": "a dog",
            "shots[0].prompt": "a dog it runs",
            "watermark.text": "mine",
        }

    def test_what_was_written_out_for_an_earlier_job_is_looked_at_anew(self) -> None:
        request = GenerationRequest(prompt="a dog", model="m", enhanced_prompts=("a dog", "much gore"))
        assert request.texts == {"prompt": "a dog", "enhanced_prompt": "a dog / much gore"}

    def test_a_phrase_is_found_that_begins_in_the_prompt_and_ends_in_a_shot(self) -> None:
        request = GenerationRequest(
            prompt="all that is bad", model="small", shots=(Shot("a dog"), Shot("thing"))
        )
        with pytest.raises(ContentRejected, match=r"`shots\[1\]\.prompt` is refused: it holds 'bad thing'"):
            self.check(PromptCheck(WordList(["bad thing"])), **request.texts)


class TestFrames:
    @pytest.mark.parametrize(
        ("num_frames", "fps", "a_second", "chosen"),
        [
            (25, 8, 2, [0, 4, 8, 12, 16, 20, 24]),
            (24, 8, 2, [0, 4, 8, 12, 16, 20, 23]),
            (5, 8, 100, [0, 1, 2, 3, 4]),
            (5, 8, 0.1, [0, 4]),
            (1, 8, 2, [0]),
            (0, 8, 2, []),
        ],
    )
    def test_some_of_each_second_are_looked_at(
        self, num_frames: int, fps: float, a_second: float, chosen: list[int]
    ) -> None:
        assert sampled(num_frames, fps, a_second) == chosen

    def test_the_detector_tells_pictures_apart(self) -> None:
        skin, red = nsfw_scores([plain(SKIN), plain(RED)])
        assert 0 < red < 0.1 < 0.2 < skin < 1

    def test_one_bad_frame_is_enough(self) -> None:
        check = FrameCheck(threshold=0.2)
        good, bad = np.stack([plain(RED)] * 9), np.stack([plain(RED)] * 8 + [plain(SKIN)])
        assert list(check.check("video", good, 8)) == [(1, 3), (2, 3), (3, 3)]
        with pytest.raises(ContentRejected, match="the video that was made is not given out"):
            list(check.check("video", bad, 8))

    def test_the_last_frame_of_a_stream_is_looked_at(self) -> None:
        check = FrameCheck(threshold=0.2)
        frames = [plain(RED)] * 6
        assert len(list(check.check_stream("continues", frames, 8))) == 6
        with pytest.raises(ContentRejected, match="`continues` is refused"):
            list(check.check_stream("continues", [*frames, plain(SKIN)], 8))

    def test_without_the_extra_it_says_how_to_install_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check_installed()
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
        )
        with pytest.raises(SettingsError, match=re.escape("`onnxruntime` is not installed")) as refusal:
            check_installed()
        assert refusal.value.hint == "pip install 'vitascope[moderation]'"


def test_the_room_alone_does_not_load_the_detector() -> None:
    code = "import sys, vitascope.moderation; sys.exit('onnxruntime' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_engine_process_loads_nothing_of_what_is_off() -> None:
    code = """
import sys
from vitascope import settings
from vitascope.cli._guards import open_guards
from vitascope.engine.fake import FakeEngine
assert open_guards(settings.load(), FakeEngine()) == open_guards(settings.load(), FakeEngine())
rooms = ("vitascope.prompting", "vitascope.moderation", "onnxruntime")
sys.exit(", ".join(name for name in sys.modules if name.startswith(rooms)) or 0)
"""
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
