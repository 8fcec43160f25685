"""A stream that fails: it says so once, with the reason, and refuses the rest."""

import pytest

from sam2_rt.errors import BackendError, InputError, StreamError
from sam2_rt.stream import TrackingStream
from tests.stream.worker import FakeTracker, Setup, frame


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
