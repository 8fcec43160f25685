"""What a running command says on standard error, and how it is interrupted."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

from sam2_rt.sources import Source
from sam2_rt.timing import Clock

_PERIOD_S = 0.1
_BAR_WIDTH = 20
_CLEAR = '\r\x1b[K'  # to the line's begin, and wipe it


def say(text: str) -> None:
    """Prints a line for the user; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """One line that is rewritten in place; nothing where the output is not a terminal.

    Args:
        total: frames to come; None if unknown.
        stream: where to write.
        clock: seconds.
    """

    def __init__(
        self, total: int | None, *, stream: TextIO | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._clock = clock
        self._start_s = clock()
        self._shown_s = -_PERIOD_S
        self._visible = self._stream.isatty()

    def update(self, done: int, text: str = '', *, position: int | None = None) -> None:
        """Shows how far the work is; at most ten times a second.

        Args:
            done: frames processed.
            text: what else is to be told.
            position: frames of the total that are behind, where some of them were dropped.
        """
        now = self._clock()
        if not self._visible or now - self._shown_s < _PERIOD_S:
            return
        self._shown_s = now
        elapsed = max(now - self._start_s, 1e-9)
        parts = [f'{done} frames', f'{done / elapsed:.1f} fps', text]
        if self._total:
            behind = done if position is None else position
            share = min(1.0, behind / self._total)
            bar = ('#' * round(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, '-')
            left_s = elapsed * (1 - share) / max(share, 1e-9)
            parts[:1] = [f'[{bar}] {behind}/{self._total}']
            parts[2:2] = [f'{left_s:.0f} s left']
        columns = shutil.get_terminal_size().columns
        self._stream.write(_CLEAR + '  '.join(part for part in parts if part)[: columns - 1])
        self._stream.flush()

    def close(self) -> None:
        """Clears the line."""
        if self._visible:
            self._stream.write(_CLEAR)
            self._stream.flush()


class _LogLine(logging.Handler):
    """Warnings as lines; what is merely being done as one line in place, on a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        stream, text = sys.stderr, record.getMessage()
        if stream.isatty():
            stream.write(_CLEAR)
        if record.levelno >= logging.WARNING:
            stream.write(text + '\n')
        elif stream.isatty():
            stream.write(text[: shutil.get_terminal_size().columns - 1])
        stream.flush()


@contextmanager
def telling() -> Iterator[None]:
    """Shows what the package logs while something takes its time."""
    logger, handler = logging.getLogger('sam2_rt'), _LogLine()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        if sys.stderr.isatty():
            sys.stderr.write(_CLEAR)


class Interruption:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def interruptible(source: Source) -> Iterator[Interruption]:
    """Lets Ctrl-C (or SIGTERM) end a source after the frame in hand; a second one ends at once."""
    interruption = Interruption()
    previous: dict[signal.Signals, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        interruption.requested = True
        source.stop()
        for each in previous:
            signal.signal(each, signal.default_int_handler)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, stop)
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
