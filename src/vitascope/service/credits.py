"""What videos cost, and what keys have: see `domain.money`. Keys are not counted unless the operator says so."""

from __future__ import annotations

from collections.abc import Mapping

from vitascope.domain.access import Caller
from vitascope.domain.added import WITH_VAE
from vitascope.domain.errors import InvalidParameter
from vitascope.domain.model_spec import ModelSpec
from vitascope.domain.money import MAX_CREDITS, Balance, EntryPage, Quote, quote
from vitascope.domain.plan import Plan
from vitascope.domain.price import Price
from vitascope.store import Charge, Store

MAX_NOTE_CHARS = 255
MAX_ENTRIES = 1000
"""On a page."""


class Credits:
    """The credits of a deployment.

    Args:
        store: where they are kept.
        prices: the operator's own, in credits for a megapixel-second, by a model's id or its card's price class; they win over the card's.
    """

    def __init__(self, store: Store, prices: Mapping[str, float]) -> None:
        self._store = store
        self._prices = prices

    def price_of(self, spec: ModelSpec) -> Price:
        """Return what a model's videos cost here; with an autoencoder that was added for it, the same."""
        for name in (spec.id.partition(WITH_VAE)[0], spec.price_class):
            if name in self._prices:
                return Price(self._prices[name], spec.price.step_classes)
        return spec.price

    def quote(self, plan: Plan, spec: ModelSpec) -> Quote:
        """Tell what a plan costs."""
        return quote(plan, self.price_of(spec))

    def charge(self, plan: Plan, spec: ModelSpec, caller: Caller) -> Charge | None:
        """Tell what is set aside if the caller is counted; None if nobody could be."""
        if not caller.key_id:
            return None
        found = self.quote(plan, spec)
        return Charge(found.credits_per_video, found.num_videos)

    def balance(self, key_id: str) -> Balance | None:
        """Return where a key stands; None if it is not counted."""
        found = self._store.balance(key_id)
        return found if found is not None and found.is_on else None

    def any_balance(self, key_id: str) -> Balance | None:
        """Return where a key stands that is or was counted; None if it never was."""
        return self._store.balance(key_id)

    def all_balances(self) -> list[Balance]:
        """Return where all keys stand that were ever counted."""
        return self._store.all_balances()

    def entries(self, key_id: str | None = None, *, before: int | None = None, limit: int = 100) -> EntryPage:
        """List what has moved, the newest first.

        Args:
            key_id: of one key; None of all.
            before: only what has a lower number.
            limit: how many.

        Raises:
            InvalidParameter: the limit is not legal.
        """
        if not 1 <= limit <= MAX_ENTRIES:
            nearest = 1 if limit < 1 else MAX_ENTRIES
            raise InvalidParameter("limit", limit, f"it must be from 1 to {MAX_ENTRIES}", nearest=nearest)
        return self._store.entries(key_id, before=before, limit=limit)

    def grant(self, key_id: str, amount: int, *, note: str = "", reference: str | None = None) -> Balance:
        """Give a key credits, or take some back; from then on its jobs are counted.

        Args:
            key_id: whose.
            amount: how many; below zero takes back.
            note: the operator's own word for it.
            reference: a grant of the same reference is made once, however often it is asked for.

        Raises:
            KeyNotFound: there is no such key, or it was revoked.
            InvalidParameter: something is not legal, or the key has fewer than are to be taken back.
        """
        if abs(amount) > MAX_CREDITS:
            nearest = MAX_CREDITS if amount > 0 else -MAX_CREDITS
            raise InvalidParameter("amount", amount, f"it may be {MAX_CREDITS} at most", nearest=nearest)
        for name, text in (("note", note), ("reference", reference)):
            if text is not None and len(text) > MAX_NOTE_CHARS:
                rule = f"it must have at most {MAX_NOTE_CHARS} characters"
                raise InvalidParameter(name, f"{len(text)} characters long", rule)
        return self._store.grant(key_id, amount, note=note, reference=reference or None)

    def count(self, key_id: str, *, is_on: bool) -> Balance:
        """Count a key's new jobs from now on, or let it make what it likes.

        Raises:
            KeyNotFound: there is no such key, or it was revoked.
        """
        return self._store.count_credits(key_id, is_on=is_on)
