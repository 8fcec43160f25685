"""Prompts for older frames land there and are carried forward to now."""

import pytest

from sam2_rt.config import TrackerConfig
from sam2_rt.errors import PromptError
from sam2_rt.tracker import Tracker
from sam2_rt.types import PointPrompt
from tests.fakes import BLUE, RED, FakeRunner, by_id, overlap, scene


@pytest.fixture
def runner():
    return FakeRunner()


@pytest.fixture
def tracker(runner):
    return Tracker(runner, TrackerConfig(max_objects=4))


def run_moving(tracker, start, stop):
    """Steps a red square that moves 3 pixels a frame; returns results by frame index."""
    return {
        index: tracker.step(scene((5 + 3 * index, 20, RED), index=index))
        for index in range(start, stop)
    }


def stamp(index):
    return scene(index=index).stamp_ns


def test_a_late_prompt_lands_on_its_frame_and_catches_up(runner, tracker):
    run_moving(tracker, 0, 10)
    # Where the square was on frame 4; by frame 9 it has moved on.
    prompted = tracker.add_prompt(PointPrompt([29, 32]), 'a', stamp_ns=stamp(4))
    assert (prompted.frame_index, prompted.stamp_ns) == (4, stamp(4))
    assert not prompted.caught_up
    assert overlap(prompted.object.mask, 17, 20) > 0.6
    results = run_moving(tracker, 10, 22)
    arrived = [index for index, result in results.items() if result.objects]
    # Frames 5 to now, two for each new one: it arrives at frame 14 and stays.
    assert arrived == list(range(14, 22))
    assert overlap(results[14].objects[0].mask, 47, 20) > 0.6
    # Arrived, it remembers what an object prompted in time would: frame 4, and the last six.
    inputs = runner.calls[-1][1]
    times, frames = inputs['memory_time'][0], inputs['memory_features'][0, :, 0, 0, 0]
    assert sorted(times[times >= 0]) == [0, 1, 2, 3, 4, 5, 6]
    assert len(set(frames[times >= 0])) == 7


def test_catching_up_costs_the_others_a_bounded_number_of_calls(runner, tracker):
    tracker.step(scene((5, 20, RED)))
    tracker.add_prompt(PointPrompt([10, 30]), 'now')
    run_moving(tracker, 1, 12)
    for name in ('b', 'c'):  # a detector's two boxes for one frame travel together
        tracker.add_prompt(PointPrompt([20, 30]), name, stamp_ns=stamp(2))
    most = 0
    for index in range(12, 30):
        runner.calls.clear()
        tracker.step(scene((5 + 3 * index, 20, RED), index=index))
        most = max(most, runner.counted('track'))
        assert runner.counted('encode') == 1  # held features are used again
    assert most == 3  # one for the live object, two that carry the late ones
    assert set(by_id(tracker.step(scene((5, 20, RED), index=30)))) == {'now', 'b', 'c'}


def test_a_late_correction_replaces_what_came_after_it(runner, tracker):
    tracker.step(scene((5, 20, RED), (80, 60, BLUE)))
    tracker.add_prompt(PointPrompt([90, 70]), 'a')  # the wrong one
    for index in range(1, 8):
        tracker.step(scene((5 + 3 * index, 20, RED), (80, 60, BLUE), index=index))
    corrected = tracker.add_prompt(PointPrompt([25, 30]), 'a', stamp_ns=stamp(5))
    assert not corrected.caught_up
    assert tracker.objects == ('a',)
    calls = [inputs for name, inputs in runner.calls if name == 'prompt']
    assert calls[-1]['has_previous'].tolist() == [1]
    states = []
    for index in range(8, 14):
        result = tracker.step(scene((5 + 3 * index, 20, RED), (80, 60, BLUE), index=index))
        (tracked,) = result.objects  # goes on being reported while the correction is on its way
        states.append(tracked.box)
    times = runner.calls[-1][1]['memory_time'][0]
    assert (times[:2] == 0).all()  # the first prompt and the correction


def test_a_prompt_on_the_newest_frame_ends_the_catching_up(tracker):
    run_moving(tracker, 0, 10)
    tracker.add_prompt(PointPrompt([29, 32]), 'a', stamp_ns=stamp(4))
    now = tracker.add_prompt(PointPrompt([36, 32]), 'a')
    assert now.caught_up
    assert len(tracker.step(scene((35, 20, RED), index=10)).objects) == 1


def test_a_late_object_can_be_removed_on_its_way(tracker):
    run_moving(tracker, 0, 10)
    tracker.add_prompt(PointPrompt([29, 32]), 'a', stamp_ns=stamp(4))
    tracker.remove_object('a')
    assert all(not result.objects for result in run_moving(tracker, 10, 20).values())


def test_prompts_older_than_every_held_frame(runner):
    for allowed in (False, True):
        config = TrackerConfig(max_objects=2, held_frames=5, late_prompts_use_newest=allowed)
        tracker = Tracker(runner, config)
        run_moving(tracker, 0, 10)
        if allowed:
            prompt = tracker.add_prompt(PointPrompt([40, 32]), stamp_ns=stamp(2))
            assert (prompt.frame_index, prompt.caught_up) == (9, True)
        else:
            with pytest.raises(PromptError, match=r'0\.70 s older .* \(5 frames are\)'):
                tracker.add_prompt(PointPrompt([40, 32]), stamp_ns=stamp(2))


def test_objects_whose_frames_are_let_go_jump_to_the_oldest_held_one(runner):
    tracker = Tracker(runner, TrackerConfig(max_objects=2, held_frames=4))
    run_moving(tracker, 0, 10)
    for name, index in (('a', 6), ('b', 7)):
        tracker.add_prompt(PointPrompt([5 + 3 * index + 12, 32]), name, stamp_ns=stamp(index))
    results = run_moving(tracker, 10, 24)
    assert set(by_id(results[23])) == {'a', 'b'}


def test_held_frames_are_bounded_in_bytes(runner):
    roomy = Tracker(runner, TrackerConfig(max_objects=2, held_frames=30))
    tight = Tracker(runner, TrackerConfig(max_objects=2, held_frames=30, held_megabytes=0.1))
    for index in range(40):
        for tracker in (roomy, tight):
            tracker.step(scene((20, 20, RED), index=index))
    with pytest.raises(PromptError, match=r'\(30 frames are\)'):
        roomy.add_prompt(PointPrompt([30, 30]), stamp_ns=1)
    with pytest.raises(PromptError, match=r'\([1-9] frames are\)'):
        tight.add_prompt(PointPrompt([30, 30]), stamp_ns=1)
    assert tight.memory_bytes < roomy.memory_bytes
