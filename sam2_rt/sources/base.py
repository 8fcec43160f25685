"""What all sources have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType

from sam2_rt.types import Frame

DEFAULT_FPS = 30.0


class Source(ABC):
    """Yields frames, once, from the first to the last.

    Attributes:
        name: what the user asked for; used in messages.
        fps: nominal frames per second.
        frame_count: frames the source says it has; None if it does not know or is live.
        position: index within the source of the frame yielded last, dropped ones counted; -1
            before the first.
        dropped: frames that were captured but replaced by newer ones; always 0 for files.
        live: whether frames come at their own pace, so that the newest one wins.
    """

    live = False

    def __init__(self, name: str, fps: float = DEFAULT_FPS) -> None:
        self.name = name
        self.fps = fps
        self.frame_count: int | None = None
        self.position = -1
        self._stopped = False

    @property
    def dropped(self) -> int:
        return 0

    @abstractmethod
    def _frames(self) -> Iterator[Frame]:
        """Reads the frames in order.

        Raises:
            SourceError: the source broke; says how many frames were good.
        """

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames():
            if self._stopped:
                return
            self.position += 1
            yield frame

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """Ends the iteration after the frame in hand; safe from threads and signal handlers."""
        # A plain flag: a lock could be held by the very code that a signal interrupted.
        self._stopped = True

    def close(self) -> None:
        """Stops and releases what is open."""
        self.stop()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def usable_fps(fps: float) -> float:
    """Drivers report 0, NaN or the time base where they do not know."""
    return fps if math.isfinite(fps) and 1.0 <= fps <= 1000.0 else DEFAULT_FPS
