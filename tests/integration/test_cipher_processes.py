"""Processes that start together on a new data folder agree on one key for its secrets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vitascope.store import Cipher

MAKE = """
import sys
from pathlib import Path
from vitascope.store import Cipher
cipher = Cipher((), Path(sys.argv[1]))
sys.stdin.readline()
cipher.make_key()
sys.stdout.write(cipher.encrypt("from here").hex())
"""


def test_processes_make_one_key_file(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    encrypted = [maker.communicate("\n")[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0] * 4
    cipher = Cipher((), path)
    assert {cipher.decrypt(bytes.fromhex(text)) for text in encrypted} == {"from here"}
    assert [file.name for file in tmp_path.glob("*secrets*")] == ["secrets.key"]
    assert path.stat().st_mode & 0o777 == 0o600
