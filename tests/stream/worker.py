"""A stream whose worker is the test itself, a turn at a time, by a clock of its own."""

import numpy as np

from sam2_rt.errors import PromptError
from sam2_rt.stream import TrackingStream
from sam2_rt.types import Frame, PointPrompt, TrackResult

MS = 1_000_000
TIMEOUT_S = 20  # for things that happen at once; only a failing test waits so long
CLICK = PointPrompt((1, 1))


class FakeClock:
    """Seconds and nanoseconds that move only when told to."""

    def __init__(self):
        self.now_ns = 50 * MS

    def advance(self, seconds):
        self.now_ns += round(seconds * 1e9)

    def seconds(self):
        return self.now_ns / 1e9

    def ns(self):
        return self.now_ns


class FakeTracker:
    """Notes what is asked of it; `work` runs inside every step."""

    def __init__(self, work=lambda frame: None):
        self.calls = []
        self.work = work

    def step(self, frame):
        self.work(frame)
        self.calls.append(('step', frame.stamp_ns))
        return TrackResult(len(self.calls), frame.stamp_ns, (2, 2), (), {'track': 0.04})

    def add_prompt(self, prompt, object_id=None, *, label='', stamp_ns=None):
        if object_id == 'bad':
            raise PromptError('no such place')
        self.calls.append(('prompt', object_id, label, stamp_ns))
        return f'result of {object_id}'

    def remove_object(self, object_id):
        self.calls.append(('remove', object_id))

    def reset(self):
        self.calls.append(('reset',))


class Setup:
    """A stream whose results and errors are kept in lists."""

    def __init__(self, work=lambda frame: None, on_result=None, **options):
        self.clock = FakeClock()
        self.tracker = FakeTracker(work)
        self.results = []
        self.errors = []

        def keep(frame, result):
            self.results.append((frame, result))
            if on_result:
                on_result(frame, result)

        self.stream = TrackingStream(
            self.tracker,
            keep,
            self.errors.append,
            clock=self.clock.seconds,
            clock_ns=self.clock.ns,
            **options,
        )


def frame(stamp_ms=0):
    return Frame(np.zeros((2, 2, 3), np.uint8), stamp_ms * MS)
