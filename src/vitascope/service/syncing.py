"""Taking over what was added on a peer server."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from vitascope.domain.access import Caller
from vitascope.domain.added import ModelKind
from vitascope.domain.errors import InvalidParameter, ModelInUse, PeerUnavailable

from .additions import Additions, Wish

logger = logging.getLogger(__name__)

MAX_MODELS = 1000


@dataclass(frozen=True, slots=True)
class Synced:
    """What came of it."""

    #: Ids of the models that are here or are being fetched.
    taken: tuple[str, ...]
    #: Why others are not, by id.
    left: Mapping[str, str]


class Syncing:
    """Asks peers.

    Args:
        additions: what they have is added to.
        peers: URL and key of each.
    """

    def __init__(self, additions: Additions, peers: Sequence[tuple[str, str | None]]) -> None:
        self._additions = additions
        self._peers = peers

    def take_over(self, key: str, caller: Caller) -> Synced:
        """Add what was added on the peer that has this key in the settings. Waits for its answer.

        Models from folders are taken over where the folder is allowed here as well: the disk may be shared.

        Raises:
            InvalidParameter: no peer has this key.
            PeerUnavailable: it does not answer, or the key is no operator's there.
            NoWorker: there is nobody to fetch anything.
        """
        taken, left = [], {}
        for row in self._asked(key)[:MAX_MODELS]:
            try:
                wish = _wish_of(row)
                self._additions.add(wish, caller)
            except (InvalidParameter, ModelInUse) as error:
                left[str(row.get("id"))[:100]] = error.message
            else:
                taken.append(wish.id)
        return Synced(tuple(taken), left)

    def _asked(self, key: str) -> list[dict[str, Any]]:
        from vitascope.outbound.peer import Peer, PeerAway, PeerRefused  # only now: its client takes 0.1 s

        given = key.encode("utf-8", errors="replace")
        found = [peer for peer in self._peers if peer[1] and hmac.compare_digest(peer[1].encode(), given)]
        if not found:
            rule = "it must be the key of a server that the setting `peers` names"
            raise InvalidParameter("sync_key", "another", rule)
        try:
            with closing(Peer(*found[0])) as peer:
                return peer.added_models()
        except (PeerAway, PeerRefused) as error:
            logger.warning("a peer's models are not known: %s", error)
            raise PeerUnavailable from None


def _wish_of(row: Mapping[str, Any]) -> Wish:
    """Read what a peer says of a model; it is checked as what anybody else asks for is.

    Raises:
        InvalidParameter: it is not what a peer says.
    """
    name, source, revision, kind = (row.get(key) for key in ("id", "source", "revision", "kind"))
    is_kind = isinstance(kind, str) and kind in set(ModelKind)
    if not (
        isinstance(name, str) and isinstance(source, str) and isinstance(revision, str | None) and is_kind
    ):
        raise InvalidParameter("model", str(name), "the peer must say what it is and where it is from")
    where, _, rest = source.partition(":")
    text = rest if where in ("folder", "url") else source
    return Wish(name, text, ModelKind(str(kind)), revision)
