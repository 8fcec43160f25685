"""A mailbox with one slot: the newest item wins, so a slow consumer never falls behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar('T')


class LatestFrame(Generic[T]):
    """Hands the newest item from producers to one consumer.

    `put` never blocks and never queues: an item that was not taken yet is replaced, and counted
    as dropped. Items may be anything but None; usually they are frames, or what makes one.

    Attributes:
        received: items put in since the start.
        dropped: items replaced or cleared before they were taken.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self.received = 0
        self.dropped = 0

    @property
    def waiting(self) -> bool:
        """Whether an item is there to be taken."""
        return self._item is not None

    def put(self, item: T) -> None:
        """Stores the item in place of any older one."""
        with self._changed:
            self.received += 1
            self.dropped += self._item is not None
            self._item = item
            self._changed.notify()

    def take(
        self, timeout: float | None = None, *, unless: Callable[[], bool] = lambda: False
    ) -> T | None:
        """Waits for an item and removes it.

        Args:
            timeout: seconds to wait at most; None waits for ever, 0 does not wait.
            unless: something that goes first: nothing is taken while it is true. Whoever makes
                it true calls `notify`.

        Returns:
            The newest item; None if the time is over or `unless` became true.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or unless(), timeout)
            if unless():
                return None
            item, self._item = self._item, None
            return item

    def clear(self) -> None:
        """Throws away the stored item, if any; it counts as dropped."""
        with self._changed:
            self.dropped += self._item is not None
            self._item = None

    def notify(self) -> None:
        """Makes a waiting `take` look at its `unless` again."""
        with self._changed:
            self._changed.notify()
