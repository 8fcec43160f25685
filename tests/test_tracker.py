"""The tracker's rules, on a network that can be calculated by hand (tests/fakes.py)."""

import numpy as np
import pytest

from sam2_rt.config import PresenceConfig, TrackerConfig
from sam2_rt.errors import BackendError, ConfigError, PromptError
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt, MaskPrompt, PointPrompt, PresenceState
from tests.fakes import BLUE, RED, FakeRunner, by_id, overlap, scene


@pytest.fixture
def runner():
    return FakeRunner()


@pytest.fixture
def tracker(runner):
    return Tracker(runner, TrackerConfig(max_objects=4))


def test_a_click_is_followed_through_a_moving_scene(tracker):
    tracker.step(scene((20, 20, RED)))
    prompted = tracker.add_prompt(PointPrompt([32, 32]), label='ball')
    assert (prompted.object.object_id, prompted.frame_index, prompted.caught_up) == ('1', 0, True)
    assert overlap(prompted.object.mask, 20, 20) > 0.6
    for index in range(1, 8):
        result = tracker.step(scene((20 + 4 * index, 20, RED), index=index))
        (ball,) = result.objects
        assert (result.frame_index, result.stamp_ns) == (index, (index + 1) * 100_000_000)
        assert (ball.object_id, ball.label) == ('1', 'ball')
        assert overlap(ball.mask, 20 + 4 * index, 20) > 0.6
        x0, y0, x1, y1 = ball.box
        assert ball.mask[y0:y1, x0:x1].sum() == ball.mask.sum() > 0


def test_box_and_mask_prompts(tracker):
    frame = scene((20, 20, RED), (80, 50, BLUE))
    tracker.step(frame)
    tracker.add_prompt(BoxPrompt((18, 18, 46, 46)), 'box')
    tracker.add_prompt(MaskPrompt(frame.image[..., 0] == BLUE), 'mask')
    result = by_id(tracker.step(scene((30, 20, RED), (60, 50, BLUE), index=1)))
    assert overlap(result['box'].mask, 30, 20) > 0.6
    assert overlap(result['mask'].mask, 60, 50) > 0.6


def test_candidates_come_best_first_for_clicks_and_not_for_masks(tracker):
    frame = scene((20, 20, RED))
    tracker.step(frame)
    candidates = tracker.add_prompt(PointPrompt([30, 30])).candidates
    assert [round(c.iou_score, 1) for c in candidates] == [0.9, 0.7, 0.5]
    assert candidates[1].mask.sum() >= candidates[0].mask.sum() >= candidates[2].mask.sum()
    assert tracker.add_prompt(MaskPrompt(frame.image[..., 0] > 0)).candidates == ()


def test_a_new_object_is_decoded_without_memory_and_a_known_one_with_it(runner, tracker):
    tracker.step(scene((20, 20, RED)))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')
    for index in (1, 2, 3):
        tracker.step(scene((20, 20, RED), index=index))
    tracker.add_prompt(PointPrompt([30, 30]), 'b')
    tracker.add_prompt(PointPrompt([34, 34]), 'a')
    first, new, correction = (inputs for name, inputs in runner.calls if name == 'prompt')
    for fresh in (first, new):
        assert (fresh['memory_time'] == -1).all()
        assert (fresh['pointer_time'] == -1).all()
        assert fresh['has_previous'].tolist() == [0]
        assert (fresh['previous_logits'] == 0).all()
    # Frame 3 itself is not in the memory it is corrected with.
    assert sorted(correction['memory_time'][0][correction['memory_time'][0] >= 0]) == [0, 1, 2]
    assert sorted(correction['pointer_time'][0][correction['pointer_time'][0] >= 0]) == [1, 2, 3]
    assert correction['has_previous'].tolist() == [1]
    assert correction['previous_logits'].max() > 0


def test_clicks_on_one_frame_add_up_and_a_box_starts_over(runner, tracker):
    tracker.step(scene((20, 20, RED)))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')
    tracker.add_prompt(PointPrompt([80, 80], 0), 'a')
    tracker.add_prompt(BoxPrompt((18, 18, 46, 46)), 'a')
    tracker.step(scene((20, 20, RED), index=1))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')
    labels = [i['point_labels'][0].tolist() for name, i in runner.calls if name == 'prompt']
    assert labels == [[1], [1, 0], [2, 3], [1]]


def test_a_correction_is_remembered_as_a_conditioning_frame(runner, tracker):
    tracker.step(scene((20, 20, RED)))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')
    for index in (1, 2):
        tracker.step(scene((20, 20, RED), index=index))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')
    tracker.step(scene((20, 20, RED), index=3))
    inputs = runner.calls[-1][1]
    times = inputs['memory_time'][0]
    frames = inputs['memory_features'][0, :, 0, 0, 0]
    assert {(int(f), int(t)) for f, t in zip(frames, times, strict=True) if t >= 0} == {
        (0, 0),
        (2, 0),
        (1, 2),
    }


def test_other_objects_change_nothing(runner):
    def run(disturb):
        tracker = Tracker(FakeRunner(), TrackerConfig(max_objects=4))
        masks = []
        for index in range(20):
            frame = scene((10 + index, 20, RED), (90 - index, 60, BLUE), index=index)
            result = by_id(tracker.step(frame))
            if index == 0:
                tracker.add_prompt(PointPrompt([20, 30]), 'a')
            if disturb and index == 4:
                tracker.add_prompt(PointPrompt([95, 70]), 'b')
                tracker.add_prompt(PointPrompt([95, 70]), 'c')
            if disturb and index == 9:
                tracker.remove_object('b')
            if disturb and index == 12:
                tracker.add_prompt(PointPrompt([85, 70]), 'c')
            if 'a' in result:
                masks.append(result['a'].low_res_masks)
        return np.stack(masks)

    assert (run(False) == run(True)).all()


def test_removing_the_first_object_leaves_the_others_in_their_order(tracker):
    tracker.step(scene((10, 20, RED), (40, 20, BLUE), (80, 20, 60)))
    for name, x in (('a', 20), ('b', 50), ('c', 90)):
        tracker.add_prompt(PointPrompt([x, 30]), name)
    tracker.step(scene((10, 20, RED), (40, 20, BLUE), (80, 20, 60), index=1))
    tracker.remove_object('a')
    assert tracker.objects == ('b', 'c')
    result = tracker.step(scene((10, 60, RED), (40, 60, BLUE), (80, 60, 60), index=2))
    assert [tracked.object_id for tracked in result.objects] == ['b', 'c']
    assert overlap(result.objects[0].mask, 40, 60) > 0.6
    assert overlap(result.objects[1].mask, 80, 60) > 0.6
    assert tracker.add_prompt(PointPrompt([20, 70]), 'd').object.object_id == 'd'
    assert tracker.objects == ('b', 'c', 'd')


def test_a_hidden_object_has_an_empty_mask_and_comes_back():
    config = TrackerConfig(presence=PresenceConfig(lost_after_s=0.25), max_objects=2)
    tracker = Tracker(FakeRunner(), config)
    tracker.step(scene((20, 20, RED)))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')
    states = []
    for index in range(1, 8):
        blobs = [(20, 20, RED)] if index in (1, 7) else []
        (seen,) = tracker.step(scene(*blobs, index=index)).objects
        states.append(seen.presence.state)
        assert seen.mask.any() == (seen.box is not None) == seen.presence.visible
    occluded, lost = PresenceState.OCCLUDED, PresenceState.LOST
    visible = PresenceState.VISIBLE
    assert states == [visible, occluded, occluded, occluded, lost, lost, visible]


def test_reset_forgets_everything(tracker):
    tracker.step(scene((20, 20, RED)))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')
    tracker.reset()
    assert tracker.objects == ()
    with pytest.raises(PromptError, match='no frame has been processed yet'):
        tracker.add_prompt(PointPrompt([30, 30]), 'a')
    assert tracker.step(scene((20, 20, RED))).frame_index == 0


def test_an_idle_tracker_encodes_nothing_until_a_prompt_needs_it(runner, tracker):
    for index in range(5):
        tracker.step(scene((20, 20, RED), index=index))
    assert runner.calls == []
    tracker.add_prompt(PointPrompt([30, 30]))
    assert (runner.counted('encode'), runner.counted('prompt')) == (1, 1)


def test_many_objects_share_one_encoding_and_one_call(runner, tracker):
    tracker.step(scene((10, 20, RED), (60, 20, BLUE)))
    for x in (20, 70, 20):
        tracker.add_prompt(PointPrompt([x, 30]))
    runner.calls.clear()
    tracker.step(scene((10, 20, RED), (60, 20, BLUE), index=1))
    assert [name for name, _ in runner.calls] == ['encode', 'track']
    assert runner.calls[1][1]['memory_time'].shape[0] == 3


def test_stage_times_are_the_clocks(runner):
    ticks = iter(range(1000))
    tracker = Tracker(runner, TrackerConfig(max_objects=1), clock=lambda: float(next(ticks)))
    tracker.step(scene((20, 20, RED)))
    tracker.add_prompt(PointPrompt([30, 30]))
    first = tracker.step(scene((20, 20, RED), index=1)).stage_seconds
    assert first == {'preprocess': 1, 'encode': 2, 'prompt': 1, 'track': 1, 'postprocess': 1}
    second = tracker.step(scene((20, 20, RED), index=2)).stage_seconds
    assert second == {'preprocess': 1, 'encode': 1, 'track': 1, 'postprocess': 1}


def test_preparing_counts_for_the_frame_that_was_prepared(runner):
    ticks = iter([0.0, 5.0, 10.0, 13.0, *range(20, 40)])
    tracker = Tracker(runner, TrackerConfig(max_objects=1), clock=lambda: float(next(ticks)))
    first = tracker.prepare(scene((20, 20, RED)))
    second = tracker.prepare(scene((20, 20, RED), index=1))  # before the first is tracked
    assert tracker.frame_index == -1
    assert tracker.step(first).stage_seconds == {'preprocess': 5, 'postprocess': 1}
    result = tracker.step(second)
    assert result.stage_seconds == {'preprocess': 3, 'postprocess': 1}
    assert result.stamp_ns == second.frame.stamp_ns
    plain = tracker.step(scene((20, 20, RED), index=2))
    assert plain.stage_seconds == {'preprocess': 1, 'postprocess': 1}


def test_warm_up_runs_every_graph_and_leaves_no_trace(runner, tracker):
    tracker.warm_up()
    assert {name for name, _ in runner.calls} == {'encode', 'track', 'prompt', 'prompt_mask'}
    assert (tracker.objects, tracker.frame_index) == ((), -1)


# -- what goes wrong ------------------------------------------------------------------------------


def test_errors_name_the_object_and_the_remedy(tracker):
    with pytest.raises(PromptError, match='no frame has been processed yet; give a frame first'):
        tracker.add_prompt(PointPrompt([30, 30]))
    tracker.step(scene((20, 20, RED)))
    with pytest.raises(PromptError, match="'ghost' is not tracked; tracked objects: none"):
        tracker.remove_object('ghost')
    for _ in range(4):
        tracker.add_prompt(PointPrompt([30, 30]))
    with pytest.raises(PromptError, match='4 objects are tracked and max_objects is 4; remove'):
        tracker.add_prompt(PointPrompt([30, 30]))
    tracker.add_prompt(PointPrompt([31, 31]), '2')  # a correction needs no room
    assert tracker.objects == ('1', '2', '3', '4')


def test_a_limit_above_the_engines_is_refused_at_start(runner):
    with pytest.raises(ConfigError, match='5 asked for, but engine fake was exported .* most 4'):
        Tracker(runner, TrackerConfig(max_objects=5))


@pytest.mark.parametrize('prompt', [PointPrompt([500, 5]), MaskPrompt(np.ones((5, 5), bool))])
def test_a_refused_prompt_changes_nothing(runner, tracker, prompt):
    tracker.step(scene((20, 20, RED)))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')
    runner.calls.clear()
    for name in ('a', 'b'):
        with pytest.raises(PromptError):
            tracker.add_prompt(prompt, name)
    assert (tracker.objects, runner.calls) == (('a',), [])


def test_values_that_are_not_finite_are_refused_counted_and_forgotten(runner, tracker):
    tracker.step(scene((20, 20, RED)))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')

    def poison(graph, outputs):
        for name in ('object_pointer', 'new_memory_features', 'memory_norm', 'iou_scores'):
            if name in outputs:
                outputs[name][...] = np.nan
        if 'object_score_logits' in outputs:
            outputs['object_score_logits'][...] = np.nan

    runner.tamper = poison
    (hidden,) = tracker.step(scene((20, 20, RED), index=1)).objects
    assert (hidden.presence.state, hidden.iou_score) == (PresenceState.OCCLUDED, 0.0)
    assert not hidden.mask.any()
    for name in ('a', 'b'):
        with pytest.raises(PromptError, match='values that are not finite'):
            tracker.add_prompt(PointPrompt([30, 30]), name)
    assert tracker.objects == ('a',)
    assert tracker.non_finite_entries == 3

    runner.tamper = lambda graph, outputs: None
    (found,) = tracker.step(scene((30, 20, RED), index=2)).objects
    assert overlap(found.mask, 30, 20) > 0.6
    assert np.isfinite(runner.calls[-1][1]['memory_features']).all()


def test_a_failing_engine_leaves_the_memory_as_it_was(runner, tracker):
    tracker.step(scene((20, 20, RED)))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')

    def fail(graph, outputs):
        raise BackendError('the device is gone')

    runner.tamper = fail
    with pytest.raises(BackendError):
        tracker.step(scene((20, 20, RED), index=1))
    runner.tamper = lambda graph, outputs: None
    (found,) = tracker.step(scene((30, 20, RED), index=2)).objects
    assert overlap(found.mask, 30, 20) > 0.6


def test_frames_of_another_size_go_on(tracker):
    tracker.step(scene((20, 20, RED)))
    tracker.add_prompt(PointPrompt([30, 30]), 'a')
    (found,) = tracker.step(scene((20, 20, RED), index=1, size=(120, 100))).objects
    assert found.mask.shape == (120, 100)
    assert overlap(found.mask, 20, 20) > 0.6


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'max_objects': 0}, 'max_objects: expected a whole number >= 1, got 0'),
        ({'held_frames': 0}, 'held_frames: expected a whole number >= 1'),
        ({'catch_up_frames': 1}, 'catch_up_frames: expected a whole number >= 2, got 1'),
        ({'held_megabytes': 0}, 'held_megabytes: expected megabytes > 0, got 0'),
    ],
)
def test_settings_are_checked_when_constructed(change, message):
    with pytest.raises(ConfigError, match=message):
        TrackerConfig(**change)
