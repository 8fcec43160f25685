"""Commands of a stream: in order, bounded, and none is lost without a word."""

import threading
from functools import partial

import pytest

from sam2_rt.errors import PromptError, StreamError
from tests.stream.worker import CLICK, MS, TIMEOUT_S, Setup, frame


def test_commands_run_in_order_before_the_next_frame():
    setup = Setup(work=lambda _: setup.clock.advance(0.05))
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


def test_commands_keep_a_waiting_frame_no_longer_than_a_frame_takes():
    setup = Setup(work=lambda _: setup.clock.advance(0.05), max_commands=64)
    slow = partial(setup.clock.advance, 0.02)
    setup.stream.submit(frame(0))
    setup.stream.spin_once(0)
    setup.stream.submit(frame(1))
    futures = [setup.stream.call(slow) for _ in range(10)]
    turns = []
    while not futures[-1].done():
        setup.stream.submit(frame())
        before = sum(future.done() for future in futures)
        assert setup.stream.spin_once(0)
        turns.append(sum(future.done() for future in futures) - before)
    assert turns == [3, 3, 3, 1]


def test_commands_are_not_held_back_while_no_frame_waits():
    setup = Setup(work=lambda _: setup.clock.advance(0.05), max_commands=64)
    setup.stream.submit(frame())
    setup.stream.spin_once(0)
    futures = [setup.stream.call(partial(setup.clock.advance, 0.02)) for _ in range(10)]
    setup.stream.spin_once(0)
    assert all(future.done() for future in futures)


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
