"""Prompt enhancement: a language model writes a short prompt out, as the first stage of a job, in the worker's engine process.

Belongs here: what the model is told, asking it, and judging what it answers.
Never here: torch (a model on this machine is handed in as a `Writer`), and failing a job: whatever goes wrong, the prompt that was
sent is good enough.
"""

from .chat import ChatEndpoint
from .enhancer import Enhancer, Outcome
from .writer import Message, NotWritten, Stop, Writer

__all__ = ["ChatEndpoint", "Enhancer", "Message", "NotWritten", "Outcome", "Stop", "Writer"]
