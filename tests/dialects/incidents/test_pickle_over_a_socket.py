"""Other servers read pickles from sockets: whoever reaches the socket runs code. Here processes speak JSON."""

from __future__ import annotations

import ast
import os
import pickle
import socket
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import vitascope
from vitascope.worker.messages import Pipe

FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, ("pwned",)


def test_a_pickle_in_the_pipe_is_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours, theirs = socket.socketpair()
    pipe, other = Pipe(ours.detach()), Connection(theirs.detach())
    other.send_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"decode|Expecting"):
        pipe.receive(5)
    assert list(tmp_path.iterdir()) == []
    pipe.close()
    other.close()


def test_nothing_in_the_package_can_read_one() -> None:
    for path in Path(vitascope.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name.partition(".")[0] for alias in node.names} & FORBIDDEN, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in FORBIDDEN, path
