"""Content checks, off until the operator sets them up: of what is asked for, before it is queued, and of frames, before they are stored.

Belongs here: an operator's list of words, a moderation endpoint, a detector of unsafe pictures, and the decision that follows.
Never here: HTTP, jobs, where frames come from. Importing this package does not import the detector; the first picture does.
"""

from .endpoint import ModerationEndpoint
from .frames import EXTRA, FrameCheck, check_installed, is_installed, nsfw_scores
from .prompts import PromptCheck
from .words import WordList

__all__ = [
    "EXTRA",
    "FrameCheck",
    "ModerationEndpoint",
    "PromptCheck",
    "WordList",
    "check_installed",
    "is_installed",
    "nsfw_scores",
]
