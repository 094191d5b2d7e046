"""The process that reads the origin of one file, which may be anybody's: `python -m vitascope.media.verifying_process`.

The file is its standard input, opened by who asks; what it is to know comes as one JSON argument, its answer is one line of JSON.
Before it looks at the file it gives up what an attacker could use: other files, the network, more memory, time.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import signal
import sys
import warnings
from typing import Any

_IS_LINUX = sys.platform == "linux"


def main() -> None:
    """Answer for the file."""
    from .provenance import examine

    warnings.simplefilter("ignore")
    order: dict[str, Any] = json.loads(sys.argv[1])
    _limit(order["memory_bytes"], order["seconds"])
    with io.FileIO(0, closefd=False) as raw, io.BufferedReader(raw) as file:
        finding = examine(file, order["format"], order["certificates"], order["serial"])
    sys.stdout.write(json.dumps(finding.to_dict()) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a library that was led astray shall not go on at the interpreter's end


def _limit(memory_bytes: int, seconds: int) -> None:
    """Set limits that cannot be lifted again. Threads are allowed: c2pa hashes in one."""
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_NOFILE: 0,  # neither files nor sockets; what is open stays usable
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for what, value in limits.items():
        try:
            resource.setrlimit(what, (value, value))
        except (ValueError, OSError):
            if _IS_LINUX:  # other systems know fewer of them
                raise
    signal.setitimer(signal.ITIMER_REAL, seconds)  # of the clock; the signal ends the process
    if _IS_LINUX:
        pr_set_pdeathsig, pr_set_dumpable, pr_set_no_new_privs = 1, 4, 38  # linux/prctl.h
        prctl = ctypes.CDLL(None).prctl
        prctl(pr_set_dumpable, 0, 0, 0, 0)
        prctl(pr_set_no_new_privs, 1, 0, 0, 0)
        prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    main()
