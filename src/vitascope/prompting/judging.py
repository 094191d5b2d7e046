"""From what a language model says to a prompt: what is around it goes, and what cannot be one is refused."""

from __future__ import annotations

import re

from .writer import NotWritten

LONGEST = 100_000
"""Of an answer without its thoughts: longer ones are not looked at more closely, and no prompt may have so many characters."""

_END_OF_THOUGHTS = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_FENCE = re.compile(r"```[\w-]*\n(.*?)\n?```", re.DOTALL)
_LABEL = re.compile(
    r"(?:here is[^:\n]{0,60}|(?:(?:enhanced|rewritten|new|video)\s+)?prompt)\s*:\s*", re.IGNORECASE
)
_QUOTES = {'"': '"', "\u201c": "\u201d", "'": "'", "\u00ab": "\u00bb", "\u201e": "\u201c", "`": "`"}
_PAGE = re.compile(r"<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"(?:i(?:'m| am) (?:very )?sorry|sorry,|i (?:can(?:not|'t| not)|won't|will not)\b|i(?:'m| am) (?:unable|not able)|as an ai\b"
    r"|i must (?:decline|refuse))",
    re.IGNORECASE,
)
_APOSTROPHE = "\u2019"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def judged(answer: str, max_chars: int) -> str:
    """Return the prompt that an answer holds, in one line.

    Raises:
        NotWritten: it holds none.
    """
    # some servers keep the mark before the thoughts to themselves. Each step here takes time in proportion to the answer's length only:
    # the engine works in the same process, and matching a pattern lets nothing else run
    text = _END_OF_THOUGHTS.split(answer)[-1].strip()
    if text[:6].lower() == "<think":
        raise NotWritten("only thought, and wrote nothing")
    if len(text) > LONGEST:
        raise NotWritten(_too_long(text, max_chars))
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    text = _LABEL.sub("", text, count=1) if _LABEL.match(text) else text
    text = _unquoted(" ".join(text.split()))
    text = "".join(character for character in text if character.isprintable() or character == " ")
    if not text:
        raise NotWritten("wrote nothing")
    if _HALF_CHARACTER.search(answer):
        raise NotWritten("wrote something that is no text")
    if _PAGE.match(text):
        raise NotWritten("answered with a page, not with a prompt")
    if _REFUSAL.match(text.replace(_APOSTROPHE, "'")):
        raise NotWritten("refused to write it")
    if len(text) > max_chars:
        raise NotWritten(_too_long(text, max_chars))
    return text


def _too_long(text: str, max_chars: int) -> str:
    return f"wrote {len(text)} characters, and at most {max_chars} are taken"


def _unquoted(text: str) -> str:
    """Take quotes away that are around all of it, and around nothing less."""
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        return text[1:-1].strip()
    return text
