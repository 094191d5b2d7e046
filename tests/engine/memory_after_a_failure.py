"""Let an allocation fail in the middle of a job and print what memory this process has before, then and after, as JSON."""

from __future__ import annotations

import json
import sys

import psutil
import pytest
import torch
from test_memory import Failing, cpu_error

from tiny import make_plan, run
from vitascope.catalog import Catalog, locate
from vitascope.domain.errors import OutOfMemory
from vitascope.engine.engine import DiffusersEngine


def rss() -> int:
    return int(psutil.Process().memory_info().rss)


def main() -> None:
    """In blocks below 32 MB, which the C library would keep."""
    spec = Catalog.open().resolve_local(sys.argv[1])
    engine = DiffusersEngine(locate, device="cpu", threads=1)
    run(engine, spec, make_plan(spec))
    taken: list[int] = []

    def error() -> BaseException:
        frames = [torch.ones(2**20) for _ in range(64)]  # 256 MB
        taken.append(rss())
        failure = RuntimeError(str(cpu_error()))
        failure.frames = frames  # type: ignore[attr-defined]
        return failure

    with pytest.MonkeyPatch.context() as patch:
        Failing("transformer", 3, error).install(patch)
        engine.unload(spec.id)
        engine.load(spec)
        engine.clear_caches()
        level = rss()
        with pytest.raises(OutOfMemory) as raised:
            run(engine, spec, make_plan(spec))
        after = rss()
    print(json.dumps({"level": level, "taken": taken[0], "after": after, "peak": raised.value.peak_bytes}))
    engine.close()


if __name__ == "__main__":
    main()
