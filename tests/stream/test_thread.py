"""A stream's real worker thread."""

import threading

import pytest

from sam2_rt.errors import StreamError
from tests.stream.worker import MS, TIMEOUT_S, Setup, frame


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
