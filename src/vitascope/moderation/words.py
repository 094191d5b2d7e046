"""An operator's list of words and phrases that texts must not hold.

Both sides are folded first: compatibility forms, letter case, accents and characters that cannot be seen make no difference. What is compared
then are whole words; in scripts that write none apart, single characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitascope.domain.errors import SettingsError

MAX_BYTES = 4 << 20

WILDCARD = "*"

KNOWN_LETTERS = 2
"""By so many letters entries are found that end in a wildcard; an entry may have fewer, that is one."""

_NO_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x9FFF),  # Chinese, Japanese
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Scripts that put no spaces between words: there each character counts as one."""

_ASCII_WORDS = re.compile(r"[A-Za-z0-9]+")

_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""What text encoders leave out and nobody sees: control characters, and all that Unicode says to ignore where it cannot be drawn (its
property Default_Ignorable_Code_Point: joiners, selectors of variants, fillers)."""

_ACCENTS = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
"""Marks that go with any letter. Those of one script alone, such as Hindi's vowels, are letters in all but name."""


def folded(text: str) -> str:
    """Return a text with all differences gone that do not matter here."""
    text = _UNSEEN.sub("", text)
    if text.isascii():
        return text.lower()
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text).casefold())
    seen = (c for c in plain if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", "".join(seen))


def words_of(text: str) -> list[str]:
    """Split a folded text into words: letters, digits and the marks on them, or one character of a script without spaces."""
    if text.isascii():
        return _ASCII_WORDS.findall(text)
    words: list[str] = []
    is_open = False
    for character in text:
        if _stands_alone(character):
            words.append(character)
            is_open = False
        elif character.isalnum() or unicodedata.category(character)[0] == "M":
            if is_open:
                words[-1] += character
            else:
                words.append(character)
            is_open = True
        else:
            is_open = False
    return words


def _stands_alone(character: str) -> bool:
    number = ord(character)
    return number >= _NO_SPACES[0][0] and any(low <= number <= high for low, high in _NO_SPACES)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the list."""

    text: str
    words: tuple[str, ...]
    #: Whether its first word may end another one, and its last one begin one.
    opens: bool
    closes: bool

    def is_at(self, words: Sequence[str], at: int) -> bool:
        """Whether the entry stands in a text from its word number `at` on."""
        found = words[at : at + len(self.words)]
        if len(found) < len(self.words):
            return False
        last = len(self.words) - 1
        for index, (mine, its) in enumerate(zip(self.words, found, strict=True)):
            before, after = self.opens and index == 0, self.closes and index == last
            if before and after:
                is_equal = mine in its
            elif before:
                is_equal = its.endswith(mine)
            elif after:
                is_equal = its.startswith(mine)
            else:
                is_equal = mine == its
            if not is_equal:
                return False
        return True


class WordList:
    """Words and phrases to look for.

    Args:
        lines: one entry each. Empty lines, and what follows a `#`, do not count; a `*` at an entry's beginning or end stands for the rest
            of a word.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._by_first_word: dict[str, list[_Entry]] = {}
        #: Those of whose first word only the beginning is known, by its first letters.
        self._by_beginning: dict[str, list[_Entry]] = {}
        #: Those of whose first word only the end is known.
        self._others: list[_Entry] = []
        self.num_entries = 0
        for line in lines:
            entry = _entry_of(line.partition("#")[0].strip())
            if entry is not None:
                self._add(entry)

    @classmethod
    def read(cls, path: Path) -> WordList:
        """Read a list from a file of UTF-8 text.

        Raises:
            SettingsError: it cannot be read, or holds nothing to look for.
        """
        name = f"setting `moderation.words`: `{path}`"
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            text = data.decode("utf-8-sig")
        except OSError as error:
            raise SettingsError(f"{name} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise SettingsError(f"{name} is not UTF-8 text in line {line}") from None
        if len(data) > MAX_BYTES:
            raise SettingsError(f"{name} is larger than {MAX_BYTES} bytes")
        for number, given in enumerate(text.splitlines(), start=1):
            entry = given.partition("#")[0].strip()
            if entry and not words_of(folded(entry)):
                raise SettingsError(f"{name} has no word in line {number}")
        found = cls(text.splitlines())
        if not found.num_entries:
            raise SettingsError(f"{name} holds no words", hint="one word or phrase a line")
        return found

    def found(self, text: str) -> str | None:
        """Return an entry that stands in a text; None if there is none."""
        plain = folded(text)
        words = words_of(plain)
        # a search in the whole text is quick, and leaves few of them
        others = [entry for entry in self._others if entry.words[0] in plain]
        for at, word in enumerate(words):
            begun = self._by_beginning
            candidates: list[_Entry] = [
                *self._by_first_word.get(word, ()),
                *begun.get(word[:KNOWN_LETTERS], ()),
                *(begun.get(word[:1], ()) if len(word) > 1 else ()),
                *others,
            ]
            for entry in candidates:
                if entry.is_at(words, at):
                    return entry.text
        return None

    def _add(self, entry: _Entry) -> None:
        self.num_entries += 1
        first = entry.words[0]
        if entry.opens:
            self._others.append(entry)
        elif entry.closes and len(entry.words) == 1:
            self._by_beginning.setdefault(first[:KNOWN_LETTERS], []).append(entry)
        else:
            self._by_first_word.setdefault(first, []).append(entry)


def _entry_of(text: str) -> _Entry | None:
    words = tuple(words_of(folded(text)))
    if not words:
        return None
    return _Entry(text, words, text.startswith(WILDCARD), text.endswith(WILDCARD))
