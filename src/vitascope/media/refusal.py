"""Why a file that somebody sent is not read: a code and numbers, no text from a decoder."""

from __future__ import annotations


class Refusal(Exception):
    """A file is not read.

    Args:
        code: one of those that `opener` has a sentence for.
        numbers: what the sentence tells.
    """

    def __init__(self, code: str, **numbers: int) -> None:
        self.code = code
        self.numbers = numbers
        super().__init__(code)
