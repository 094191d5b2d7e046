"""Prompts that are written out in the engine process, as a job's first stage: kept, reused, cancelled. Real processes, a real endpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import endpoints
import working
from endpoints import Answer, Service, chat
from vitascope.domain.job import Job, JobStatus
from working import Bench

LONG = "A brown dog walks along a beach at sunset."


@pytest.fixture
def service() -> Iterator[Service]:
    with endpoints.serving(chat(LONG)) as service:
        yield service


@pytest.fixture
def bench(tmp_path: Path, service: Service) -> Iterator[Bench]:
    asked = {"URL": service.url, "MODEL": "talker", "API_KEY": "s3cret"}
    with working.working(
        tmp_path, **{f"VITASCOPE_PROMPTING__{name}": text for name, text in asked.items()}
    ) as made:
        yield made
        service.is_over.set()


def choice_of(job: Job) -> tuple[str, str]:
    assert job.details is not None
    (found,) = (choice for choice in job.details["choices"] if choice["name"] == "enhance_prompt")
    return found["value"], found["reason"]


def test_the_new_text_is_kept_beside_the_old_one(bench: Bench, service: Service) -> None:
    job = bench.ended(bench.submit("job1", enhance_prompt=True))
    assert job.status is JobStatus.SUCCEEDED
    assert (job.request.prompt, job.plan.prompt, job.enhanced_prompt) == ("a dog", "a dog", LONG)
    assert choice_of(job) == ("on", "written out by `talker`")
    assert job.details is not None
    assert job.details["seconds"]["enhance_prompt"] > 0
    assert service.headers[0]["authorization"] == "Bearer s3cret"


def test_a_second_try_does_not_ask_again(bench: Bench, service: Service) -> None:
    """The model would write something else, and what was promised is the same video."""
    bench.step_seconds = 0.3
    job = bench.submit("job1", enhance_prompt=True, num_inference_steps=100)
    bench.wait(job, lambda found: found.stage == "denoise" and found.enhanced_prompt)
    os.kill(bench.engines[-1].pid, signal.SIGKILL)
    service.answer = lambda _: chat("something else")
    bench.step_seconds = 0.0
    job = bench.ended(job)
    assert (job.status, job.attempt, job.enhanced_prompt) == (JobStatus.SUCCEEDED, 2, LONG)
    assert choice_of(job) == ("on", "as it was written out for an earlier try")
    assert len(service.asked) == 1


@pytest.mark.parametrize("answer", [Answer(status=500), Answer(b"<html>"), chat("")])
def test_a_job_is_made_whatever_the_model_says(bench: Bench, service: Service, answer: Answer) -> None:
    service.answer = lambda _: answer
    job = bench.ended(bench.submit("job1", enhance_prompt=True))
    assert (job.status, job.enhanced_prompt, choice_of(job)[0]) == (JobStatus.SUCCEEDED, None, "off")


def test_a_cancel_does_not_wait_for_the_model(bench: Bench, service: Service) -> None:
    service.answer = lambda _: Answer(hangs=True)
    job = bench.submit("job1", enhance_prompt=True)
    bench.wait(job, lambda found: found.stage == "enhance_prompt")
    bench.store.request_cancel(job.id)
    assert bench.ended(job).status is JobStatus.CANCELLED
    service.answer = lambda _: chat(LONG)
    assert bench.ended(bench.submit("job2", enhance_prompt=True)).status is JobStatus.SUCCEEDED
    assert len(bench.engines) == 1, "no engine had to be killed for it"


def test_a_model_of_this_machine_writes_too(tmp_path: Path) -> None:
    """A tiny one of random weights writes nonsense, but the job has it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tiny import text

    folder, tokenizer = tmp_path / "tiny-talker", text.unigrams()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=None, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(1)  # not all that random weights write is text
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    asked = {"MODEL": str(folder), "MAX_CHARS": "32000", "TIMEOUT_SECONDS": "120"}
    settings = {f"VITASCOPE_PROMPTING__{name}": value for name, value in asked.items()}
    with working.working(tmp_path, **settings) as bench:
        job = bench.ended(bench.submit("job1", enhance_prompt=True))
    assert job.status is JobStatus.SUCCEEDED
    assert choice_of(job) == ("on", "written out by `tiny-talker`")
    assert job.enhanced_prompt
