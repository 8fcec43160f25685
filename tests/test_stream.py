"""TrackingStream with a fake tracker on a fake clock: exact counts, times and order."""

import threading

import numpy as np
import pytest

from sam2_rt.errors import BackendError, InputError, PromptError, StreamError
from sam2_rt.stream import TrackingStream
from sam2_rt.types import Frame, PointPrompt, TrackResult

MS = 1_000_000
TIMEOUT_S = 20  # for things that happen at once; only a failing test waits so long


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


CLICK = PointPrompt((1, 1))


def test_the_newest_frame_wins_and_drops_are_counted():
    setup = Setup()
    for stamp in (1, 2, 3):
        assert setup.stream.submit(frame(stamp))
    assert setup.stream.spin_once(0)
    assert not setup.stream.spin_once(0)
    assert setup.tracker.calls == [('step', 3 * MS)]
    stats = setup.stream.stats()
    assert (stats.received, stats.processed, stats.dropped) == (3, 1, 2)


def test_the_callback_gets_the_very_frame_that_was_submitted():
    setup = Setup()
    given = frame(7)
    setup.stream.submit(given)
    setup.stream.spin_once(0)
    ((came, result),) = setup.results
    assert came is given
    assert result.stamp_ns == 7 * MS


def test_times_of_every_stage_are_exact():
    setup = Setup(
        work=lambda frame: setup.clock.advance(0.040),
        on_result=lambda frame, result: setup.clock.advance(0.003),
    )

    def decode():
        setup.clock.advance(0.002)
        return frame(30)  # captured at 30 ms, arrives at 50 ms

    setup.stream.submit(decode)
    setup.clock.advance(0.005)
    setup.stream.spin_once(0)
    ((_, result),) = setup.results
    expected = {'transport': 0.020, 'wait': 0.005, 'decode': 0.002, 'track': 0.04}
    assert result.stage_seconds == pytest.approx(expected)

    p50 = {name: times.p50 for name, times in setup.stream.stats().seconds.items()}
    expected |= {'publish': 0.003, 'age': 0.020 + 0.005 + 0.002 + 0.040 + 0.003}
    assert p50 == pytest.approx(expected)

    setup.clock.advance(0.010)
    setup.stream.submit(frame(110))
    setup.stream.spin_once(0)
    assert setup.stream.stats().seconds['interval'].p50 == pytest.approx(0.010 + 0.040 + 0.003)
    assert setup.stream.stats().seconds['track'].count == 2


def test_age_stays_bounded_when_frames_come_faster_than_the_tracker_works():
    # A camera at 60 Hz into a tracker that takes 100 ms.
    period_ms, work_ms = 16, 100
    arrived = [0]

    def work(_):
        setup.clock.advance(work_ms / 1e3)
        submit_due()

    def submit_due():
        while arrived[0] * period_ms <= setup.clock.now_ns / MS:
            setup.stream.submit(frame(arrived[0] * period_ms))
            arrived[0] += 1

    setup = Setup(work, window=10_000)
    for _ in range(500):
        submit_due()
        if not setup.stream.spin_once(0):
            setup.clock.advance(0.001)
    stats = setup.stream.stats()
    assert stats.processed == 500
    # One period old at most when taken, then one frame's work.
    assert stats.seconds['age'].longest <= (period_ms + work_ms) / 1e3 + 1e-9
    assert stats.received == stats.processed + stats.dropped + 1  # one waits
    assert stats.dropped > 2000


def test_a_dropped_frame_is_never_decoded():
    setup = Setup()
    decoded = []

    def load(stamp):
        decoded.append(stamp)
        return frame(stamp)

    for stamp in (1, 2):
        setup.stream.submit(lambda stamp=stamp: load(stamp))
    setup.stream.spin_once(0)
    assert decoded == [2]


def test_commands_run_in_order_before_the_next_frame():
    setup = Setup()
    setup.stream.submit(frame(1))
    setup.stream.spin_once(0)
    setup.stream.submit(frame(2))
    futures = [
        setup.stream.add_prompt(CLICK, 'mug', label='cup', stamp_ns=5),
        setup.stream.remove_object('mug'),
        setup.stream.reset(),
        setup.stream.call(lambda: 42),
    ]
    setup.stream.spin_once(0)
    assert setup.tracker.calls == [
        ('step', 1 * MS),
        ('prompt', 'mug', 'cup', 5),
        ('remove', 'mug'),
        ('reset',),
        ('step', 2 * MS),
    ]
    assert [future.result(0) for future in futures] == ['result of mug', None, None, 42]


def test_a_refused_prompt_fails_its_future_and_nothing_else():
    setup = Setup()
    future = setup.stream.add_prompt(CLICK, 'bad')
    setup.stream.submit(frame())
    assert setup.stream.spin_once(0)
    with pytest.raises(PromptError, match='no such place'):
        future.result(0)
    assert setup.stream.failure is None
    assert setup.errors == []


def test_a_cancelled_command_is_not_executed():
    setup = Setup()
    future = setup.stream.remove_object('mug')
    assert future.cancel()
    setup.stream.spin_once(0)
    assert setup.tracker.calls == []


def test_a_flood_of_commands_is_refused_and_those_that_wait_are_executed():
    setup = Setup(max_commands=3)
    futures = [setup.stream.remove_object(str(k)) for k in range(3)]
    with pytest.raises(StreamError, match='3 commands are waiting already'):
        setup.stream.reset()
    setup.stream.spin_once(0)
    assert all(future.done() for future in futures)
    assert setup.stream.reset().cancel()  # there is room again


def test_commands_that_beget_commands_do_not_starve_the_frames():
    setup = Setup(max_commands=4)

    def again():
        setup.stream.call(again)

    setup.stream.call(again)
    setup.stream.submit(frame())
    assert setup.stream.spin_once(0)


def test_commands_that_beget_commands_need_no_frames_to_go_on():
    setup = Setup(max_commands=2)
    counted = []
    finished = threading.Event()

    def again():
        counted.append(1)
        if len(counted) < 10:
            setup.stream.call(again)
        else:
            finished.set()

    with setup.stream as stream:
        stream.call(again)
        assert finished.wait(TIMEOUT_S)


def test_a_frame_that_cannot_be_used_is_reported_and_the_stream_goes_on():
    def refuse_first(given):
        if given.stamp_ns == 0:
            raise InputError('too dark')

    setup = Setup(refuse_first)

    def broken():
        raise InputError('unknown encoding')

    for item in (frame(0), broken, frame(1)):
        setup.stream.submit(item)
        assert setup.stream.spin_once(0)
    assert [str(error) for error in setup.errors] == ['too dark', 'unknown encoding']
    stats = setup.stream.stats()
    assert (stats.received, stats.processed, stats.refused) == (3, 1, 2)
    assert setup.stream.failure is None


def fail(*_):
    raise BackendError('device lost')


@pytest.mark.parametrize(
    'provoke',
    [
        pytest.param(lambda setup: setup.stream.submit(fail), id='while decoding'),
        pytest.param(lambda setup: setup.stream.call(fail), id='in a command'),
        pytest.param(
            lambda setup: (setattr(setup.tracker, 'work', fail), setup.stream.submit(frame())),
            id='in the tracker',
        ),
    ],
)
def test_a_failure_stops_the_stream_and_is_reported_once(provoke):
    setup = Setup()
    provoke(setup)
    setup.stream.spin_once(0)
    assert [str(error) for error in setup.errors] == ['device lost']
    assert setup.stream.failure is setup.errors[0]
    assert not setup.stream.submit(frame())
    with pytest.raises(StreamError, match='has failed: device lost'):
        setup.stream.reset()


def test_a_failure_fails_the_commands_behind_it_with_its_reason():
    setup = Setup()
    first, second = setup.stream.call(fail), setup.stream.reset()
    setup.stream.spin_once(0)
    assert isinstance(first.exception(0), BackendError)
    assert isinstance(second.exception(0), StreamError)
    assert second.exception(0).__cause__ is first.exception(0)
    assert setup.tracker.calls == []


def test_a_failing_result_callback_is_a_failure_even_if_it_looks_harmless():
    def refuse(*_):
        raise InputError('not the frame, the callback')

    setup = Setup(on_result=refuse)
    setup.stream.submit(frame())
    setup.stream.spin_once(0)
    assert isinstance(setup.stream.failure, InputError)
    assert setup.stream.stats().refused == 0


def test_a_failing_error_callback_is_logged(caplog):
    def cannot_report(error):
        raise RuntimeError('no log today')

    stream = TrackingStream(FakeTracker(), lambda *_: None, cannot_report)
    stream.submit(fail)
    stream.spin_once(0)
    assert 'device lost' in caplog.text
    assert 'no log today' in caplog.text


def test_pause_ignores_frames_and_still_runs_commands():
    setup = Setup()
    setup.stream.submit(frame(1))
    setup.stream.pause()
    assert setup.stream.paused
    assert not setup.stream.submit(frame(2))
    future = setup.stream.remove_object('mug')
    assert not setup.stream.spin_once(0)
    assert future.done()
    setup.stream.pause(False)
    assert setup.stream.submit(frame(3))
    assert setup.stream.spin_once(0)
    stats = setup.stream.stats()
    assert (stats.received, stats.processed, stats.dropped, stats.ignored) == (3, 1, 1, 1)


def test_a_pause_is_no_interval():
    setup = Setup()
    for stamp in (1, 2):
        setup.stream.submit(frame(stamp))
        setup.stream.spin_once(0)
        setup.stream.pause()
        setup.clock.advance(60)
        setup.stream.pause(False)
    assert 'interval' not in setup.stream.stats().seconds


def test_close_fails_waiting_commands_and_drops_the_waiting_frame():
    setup = Setup()
    future = setup.stream.reset()
    setup.stream.submit(frame())
    setup.stream.close()
    with pytest.raises(StreamError, match='closed before the command ran'):
        future.result(0)
    with pytest.raises(StreamError, match='is closed'):
        setup.stream.reset()
    assert not setup.stream.submit(frame())
    assert not setup.stream.spin_once(0)
    assert setup.tracker.calls == []
    assert setup.stream.stats().dropped == 1


# With the real thread -----------------------------------------------------------------------


def test_the_worker_runs_frames_and_commands_in_its_own_thread():
    threads = set()
    processed = threading.Event()
    setup = Setup(on_result=lambda *_: processed.set())
    with setup.stream as stream:
        future = stream.call(lambda: threads.add(threading.current_thread().name))
        future.result(TIMEOUT_S)
        stream.submit(frame(1))
        assert processed.wait(TIMEOUT_S)
    assert threads == {'sam2_rt stream'}
    assert setup.tracker.calls == [('step', 1 * MS)]


def test_submit_does_not_wait_for_a_busy_worker_and_drops_while_it_works():
    started, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work(given):
        started.set()
        assert go_on.wait(TIMEOUT_S)
        if given.stamp_ns == 9 * MS:
            done.set()

    setup = Setup(work)
    with setup.stream as stream:
        stream.submit(frame(0))
        assert started.wait(TIMEOUT_S)
        for stamp in range(1, 10):
            stream.submit(frame(stamp))
        go_on.set()
        assert done.wait(TIMEOUT_S)
    assert setup.tracker.calls == [('step', 0), ('step', 9 * MS)]
    assert stream.stats().dropped == 8


def test_close_is_bounded_and_says_so_when_the_worker_hangs():
    started, go_on = threading.Event(), threading.Event()

    def hang(_):
        started.set()
        go_on.wait(TIMEOUT_S)

    setup = Setup(hang)
    setup.stream.start()
    setup.stream.submit(frame())
    assert started.wait(TIMEOUT_S)
    with pytest.raises(StreamError, match=r'still inside a frame or command after 0.01 s'):
        setup.stream.close(timeout=0.01)
    go_on.set()
    setup.stream.close()
    assert [len(setup.results), setup.stream.failure] == [1, None]


def test_the_stream_can_be_closed_from_its_own_callback():
    closed = threading.Event()

    def close(*_):
        setup.stream.close()
        closed.set()

    setup = Setup(on_result=close)
    setup.stream.start()
    setup.stream.submit(frame())
    assert closed.wait(TIMEOUT_S)
    setup.stream.close()
    assert setup.errors == []


def test_a_stream_is_started_once():
    setup = Setup()
    with setup.stream as stream, pytest.raises(StreamError, match='only once'):
        stream.start()
    with pytest.raises(StreamError, match='only once'):
        stream.start()


def test_statistics_are_read_while_the_worker_writes_them():
    setup = Setup(window=50)
    results = threading.Semaphore(0)
    setup.stream._on_result = lambda *_: results.release()
    with setup.stream as stream:
        for stamp in range(300):
            stream.submit(frame(stamp))
            stream.stats()
            assert results.acquire(timeout=TIMEOUT_S)
    assert stream.stats().processed == 300
