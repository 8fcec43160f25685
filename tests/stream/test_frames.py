"""Frames of a stream: the newest wins, drops and times are counted, pauses are none."""

import pytest

from tests.stream.worker import MS, Setup, frame


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
