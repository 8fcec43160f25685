"""TrackingStream: a tracker in its own thread, always at the newest frame.

Frames and commands go in from any thread; results come out by callback, in the worker's thread.
A frame that is not taken before the next one arrives is dropped and counted, so latency never
builds up: it is at most one frame's wait plus one frame's work. Nor is a frame prepared while an
older one is tracked, as those of a file are (lookahead.py): it might yet be replaced.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from sam2_rt.errors import InputError, PromptError, StreamError
from sam2_rt.mailbox import LatestFrame
from sam2_rt.timing import Clock, Percentiles, Rolling
from sam2_rt.tracker import Tracker
from sam2_rt.types import Frame, Prompt, PromptResult, TrackResult

T = TypeVar('T')

_LOGGER = logging.getLogger(__name__)

FrameLike = Frame | Callable[[], Frame]
"""A frame, or a function that makes it (decoding a message, say), which the worker calls only if
the frame is not dropped."""

# The tracker is as it was before these; after any other error that cannot be known.
_HARMLESS = (InputError, PromptError)


@dataclass(frozen=True)
class StreamStats:
    """Counts since the start, and recent times.

    received = processed + dropped + refused + ignored + those waiting or in work (at most 2).

    Attributes:
        received: frames submitted.
        processed: frames whose result was handed out.
        dropped: frames replaced by a newer one before they were taken.
        refused: frames that could not be decoded or used; each was reported.
        ignored: frames that came while the stream was paused.
        seconds: per stage, over the last frames: `transport` (stamp to arrival), `wait` (arrival
            to start), `decode`, the tracker's own stages, `publish` (the result callback), `age`
            (stamp to callback done) and `interval` (from one processed frame to the next). Where
            the stamps' clock is not this machine's, transport and age are off by the difference.
    """

    received: int
    processed: int
    dropped: int
    refused: int
    ignored: int
    seconds: Mapping[str, Percentiles]


class _Submission(NamedTuple):
    frame: FrameLike
    arrival_ns: int
    arrival_s: float


class TrackingStream:
    """Runs a tracker in a worker thread, which from then on owns it.

    Commands are executed in the order in which they came, before the next frame is taken; those
    that would keep a waiting frame for longer than a frame's work come after it. Their errors go
    into their futures. A frame that cannot be used (InputError) is reported and skipped;
    any other failure, in the result callback as well, stops the stream and is reported.

    Args:
        tracker: warmed up; not to be used by anyone else before `close` has returned.
        on_result: called with the very frame that was submitted and its result, whose
            stage_seconds then also has transport, wait and decode.
        on_error: called with what went wrong; `failure` tells whether the stream has stopped.
        max_commands: commands that may wait; more are refused.
        window: processed frames over which times are summarised.
        clock: seconds, for durations.
        clock_ns: nanoseconds, on the clock of the frames' stamps.
    """

    def __init__(
        self,
        tracker: Tracker,
        on_result: Callable[[Frame, TrackResult], None],
        on_error: Callable[[Exception], None],
        *,
        max_commands: int = 64,
        window: int = 300,
        clock: Clock = time.perf_counter,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._tracker = tracker
        self._on_result = on_result
        self._on_error = on_error
        self._max_commands = max_commands
        self._window = window
        self._clock = clock
        self._clock_ns = clock_ns

        self._frames: LatestFrame[_Submission] = LatestFrame()
        self._commands: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # guards what follows, and the commands
        self._closed = False
        self._paused = False
        self._failure: Exception | None = None
        self._processed = self._refused = self._ignored = 0
        self._seconds: dict[str, Rolling] = {}
        self._last_done_s: float | None = None
        self._frame_s = float('inf')  # what the last frame took

    def start(self) -> None:
        """Starts the worker; a stream is started once."""
        if self._thread is not None or self._closed:
            raise StreamError('a stream can be started only once; make a new one')
        self._thread = threading.Thread(target=self._work, name='sam2_rt stream', daemon=True)
        self._thread.start()

    def __enter__(self) -> TrackingStream:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, timeout: float = 5.0) -> None:
        """Stops after the frame in hand; a waiting frame is dropped, waiting commands fail.

        Raises:
            StreamError: the worker is still busy after `timeout` seconds; it ends by itself
                after that frame.
        """
        with self._lock:
            self._closed = True
        self._refuse_commands(StreamError('the stream was closed before the command ran'))
        self._frames.notify()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            if thread.is_alive():
                raise StreamError(
                    f'the worker is still inside a frame or command after {timeout:g} s; wait '
                    'for it by calling close again before the tracker is used or released'
                )
        self._frames.clear()

    @property
    def failure(self) -> Exception | None:
        """What stopped the stream; None while it is well."""
        return self._failure

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self, paused: bool = True) -> None:
        """Ignores frames until `pause(False)`; the one in hand is finished, commands still run."""
        self._paused = paused
        if paused:
            self._frames.clear()
            self._last_done_s = None  # the pause is no interval

    def submit(self, frame: FrameLike) -> bool:
        """Offers a frame; returns at once. It replaces an older one that still waits.

        Returns:
            False if it is not wanted: the stream is paused, closed or has failed.
        """
        if self._closed:
            return False
        if self._paused:
            with self._lock:
                self._ignored += 1
            return False
        self._frames.put(_Submission(frame, self._clock_ns(), self._clock()))
        return True

    def add_prompt(
        self,
        prompt: Prompt,
        object_id: str | None = None,
        *,
        label: str = '',
        stamp_ns: int | None = None,
    ) -> Future[PromptResult]:
        """Queues Tracker.add_prompt; see `call`."""
        add = self._tracker.add_prompt
        return self.call(partial(add, prompt, object_id, label=label, stamp_ns=stamp_ns))

    def remove_object(self, object_id: str) -> Future[None]:
        """Queues Tracker.remove_object; see `call`."""
        return self.call(partial(self._tracker.remove_object, object_id))

    def reset(self) -> Future[None]:
        """Queues Tracker.reset; see `call`."""
        return self.call(self._tracker.reset)

    def call(self, command: Callable[[], T]) -> Future[T]:
        """Queues a function that the worker calls between two frames.

        Returns:
            Its result or error to come. A future that is cancelled in time is not executed.

        Raises:
            StreamError: too many commands wait already, or the stream is closed or has failed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise StreamError(
                    f'the stream has failed: {self._failure}'
                    if self._failure
                    else 'the stream is closed'
                )
            if len(self._commands) >= self._max_commands:
                raise StreamError(
                    f'{self._max_commands} commands are waiting already; this one is refused, '
                    'send it again more slowly'
                )
            self._commands.append((future, command))
        self._frames.notify()
        return future

    def stats(self) -> StreamStats:
        """Counts and times so far; may be called from any thread."""
        with self._lock:
            summaries = {name: rolling.summary() for name, rolling in self._seconds.items()}
            return StreamStats(
                received=self._frames.received + self._ignored,
                processed=self._processed,
                dropped=self._frames.dropped,
                refused=self._refused,
                ignored=self._ignored,
                seconds={name: summary for name, summary in summaries.items() if summary},
            )

    def spin_once(self, timeout: float | None = None) -> bool:
        """One turn of the worker: runs the commands that wait, then tracks the next frame.

        For use without `start`, by a caller that wants to run the stream in its own thread.

        Args:
            timeout: seconds to wait for a frame; None waits until one comes or anything else
                is to be done.

        Returns:
            True if a frame was taken.
        """
        flooded = self._run_commands()
        submission = self._frames.take(
            0 if flooded else timeout,
            unless=lambda: self._closed or (bool(self._commands) and not flooded),
        )
        if submission is not None:
            self._process(submission)
        return submission is not None

    def _work(self) -> None:
        while not self._closed:
            self.spin_once()

    def _run_commands(self) -> bool:
        """Executes those that wait; True if the frames come first now though some may be left.

        A flood of commands halves the rate of the frames at worst.
        """
        end_s = self._clock() + self._frame_s
        for _ in range(self._max_commands):
            if not self._run_command():
                return False
            if self._frames.waiting and self._clock() >= end_s:
                break
        return True

    def _run_command(self) -> bool:
        """Executes the command that came first; False if none waits."""
        with self._lock:
            if not self._commands:
                return False
            future, command = self._commands.popleft()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(command())
            except Exception as error:
                future.set_exception(error)
                if not isinstance(error, _HARMLESS):
                    self._fail(error)
        return True

    def _process(self, submission: _Submission) -> None:
        """Tracks one frame, hands out the result, takes the times."""
        start_s = self._clock()
        try:
            frame = submission.frame if isinstance(submission.frame, Frame) else submission.frame()
            decoded_s = self._clock()
            result = self._tracker.step(frame)
        except InputError as error:
            with self._lock:
                self._refused += 1
            self._report(error)
            return
        except Exception as error:
            self._fail(error)
            return
        seconds = {
            'transport': (submission.arrival_ns - frame.stamp_ns) / 1e9,
            'wait': start_s - submission.arrival_s,
            'decode': decoded_s - start_s,
            **result.stage_seconds,
        }
        ready_s = self._clock()
        try:
            self._on_result(frame, replace(result, stage_seconds=dict(seconds)))
        except Exception as error:
            self._fail(error)
            return
        done_s = self._clock()
        self._frame_s = done_s - start_s
        seconds['publish'] = done_s - ready_s
        seconds['age'] = (self._clock_ns() - frame.stamp_ns) / 1e9
        if self._last_done_s is not None:
            seconds['interval'] = done_s - self._last_done_s
        self._last_done_s = done_s
        with self._lock:
            self._processed += 1
            for name, value in seconds.items():
                self._seconds.setdefault(name, Rolling(self._window)).add(value)

    def _fail(self, error: Exception) -> None:
        """Stops the stream for good and says why."""
        with self._lock:
            self._failure = error
            self._closed = True
        refusal = StreamError(f'the stream has failed: {error}')
        refusal.__cause__ = error
        self._refuse_commands(refusal)
        self._report(error)

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception:
            _LOGGER.exception('on_error failed while it was told of: %s', error)

    def _refuse_commands(self, error: StreamError) -> None:
        with self._lock:
            waiting = list(self._commands)
            self._commands.clear()
        for future, _ in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
