"""One of two processes that make a clip together: `rank.py RANK FOLDER MODEL STEPS`; writes the frames and what it computed."""

from __future__ import annotations

import dataclasses
import datetime
import os
import sys
from pathlib import Path
from typing import get_args

os.environ["GLOO_SOCKET_IFNAME"] = "lo"

import numpy as np
import torch.distributed as dist

from tiny import make_plan, run
from vitascope.catalog import Catalog, locate
from vitascope.engine import denoising
from vitascope.engine.calls import Call
from vitascope.engine.engine import DiffusersEngine
from vitascope.engine.parallel import Kind, Ranks

rank, folder, model, steps = sys.argv[1:]
calls: list[int] = []
forward = denoising._Denoiser._run


def counted(self: denoising._Denoiser, asked: list[Call]) -> object:
    calls.append(len(asked))
    return forward(self, asked)


denoising._Denoiser._run = counted  # type: ignore[assignment,method-assign]
dist.init_process_group(
    "gloo",
    init_method=f"file://{folder}/meeting",
    rank=int(rank),
    world_size=2,
    timeout=datetime.timedelta(seconds=240),
)
spec = dataclasses.replace(Catalog.open().resolve_local(model), dtype="float32")
for kind in get_args(Kind):
    calls.clear()
    engine = DiffusersEngine(locate, device="cpu", threads=1, ranks=Ranks(kind))
    clip = run(engine, spec, make_plan(spec, num_inference_steps=int(steps), guidance_scale=4.0))[1]
    told = [f"{choice.name}: {choice.value}" for choice in clip.choices]
    np.savez(Path(folder) / f"{kind}{rank}.npz", frames=clip.frames, calls=calls, told=told)
    engine.close()
dist.destroy_process_group()
