"""The store: every method is one transaction, safe to call from any thread and any process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime

from .cipher import Cipher
from .database import connect
from .for_batches import ForBatches
from .for_buckets import ForBuckets
from .for_characters import ForCharacters
from .for_clients import ForClients
from .for_commands import ForCommands
from .for_credits import ForCredits
from .for_expiry import ForExpiry
from .for_files import ForFiles
from .for_gallery import ForGallery
from .for_keys import ForKeys
from .for_models import ForModels
from .for_operators import ForOperators
from .for_webhooks import ForWebhooks
from .for_workers import ForWorkers
from .upgrade import upgrade


class Store(
    ForClients,
    ForWorkers,
    ForOperators,
    ForKeys,
    ForWebhooks,
    ForCommands,
    ForModels,
    ForExpiry,
    ForFiles,
    ForCharacters,
    ForBatches,
    ForCredits,
    ForGallery,
    ForBuckets,
):
    """Jobs, their events, and the workers that make them; one part for each of those who call.

    All methods raise StoreUnavailable when the database does not answer. They work again as soon as it does.
    """

    @classmethod
    def open(
        cls, url: str, clock: Callable[[], datetime] | None = None, *, cipher: Cipher | None = None
    ) -> Store:
        """Open the database at a SQLAlchemy URL and bring it to the newest schema.

        Args:
            url: `sqlite:///PATH` or `postgresql://…`.
            clock: stands for the clocks of this process and of the database, in tests.
            cipher: for secrets; not used before the first one is.

        Raises:
            SettingsError: the URL, the folder or the file cannot be used, or the database is a newer version's.
            StoreUnavailable: there is no server at the URL, or it lets nobody in.
        """
        database = connect(url)
        try:
            upgrade(database)
            database.start_clock()
        except BaseException:
            database.close()
            raise
        return cls(database, clock, cipher)

    def close(self) -> None:
        self._database.close()

    def together(self) -> AbstractContextManager[None]:
        """Make one transaction of what this thread writes in the block, where that saves waiting for the disk.

        What was written is durable when the block has ended, and not before: tell nobody earlier. A call that raises undoes
        only what it did itself.
        """
        return self._database.together()

    @property
    def has_quick_reads(self) -> bool:
        """Whether an event loop may call what only reads, such as `get` and `page`."""
        return self._database.has_quick_reads
