"""The hand-made engine keeps the rules it states, on every backend, for every number of objects.

Other tests trust it, so it is tested itself; and what OpenVINO and ONNX Runtime are given here is
what they are given in earnest: four graphs, dynamic objects and points, empty slots.
"""

import numpy as np
import pytest

from sam2_rt.runtime.manifest import load_manifest
from sam2_rt.runtime.openvino import OpenVinoRunner
from sam2_rt.runtime.ort import OrtRunner
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt, Frame, MaskPrompt, PointPrompt

RUNNERS = {'onnxruntime': OrtRunner, 'openvino': OpenVinoRunner}
RED, BLUE, GREY = (200, 40, 40), (40, 40, 200), (128, 128, 128)


@pytest.fixture(scope='module', params=RUNNERS)
def runner(request, tiny_engine):
    pytest.importorskip(request.param, reason=f'pip install {request.param}')
    with RUNNERS[request.param](load_manifest(tiny_engine)) as runner:
        runner.warm_up()
        yield runner


def frame(*blobs, index=0):
    """64 x 64 grey with 16 x 16 squares (x, y, colour): 4 x 4 cells of a mask each."""
    image = np.full((64, 64, 3), GREY, np.uint8)
    for x, y, colour in blobs:
        image[y : y + 16, x : x + 16] = colour
    return Frame(image, index)


def square(x, y):
    mask = np.zeros((64, 64), bool)
    mask[y : y + 16, x : x + 16] = True
    return mask


def cells(tracked):
    return (tracked.low_res_masks > 0).sum()


@pytest.mark.parametrize(
    'prompt',
    [PointPrompt((20, 20)), BoxPrompt((16, 16, 32, 32)), MaskPrompt(square(16, 16))],
    ids=['click', 'box', 'mask'],
)
def test_a_prompt_of_each_kind_finds_the_square_and_it_is_followed(runner, prompt):
    tracker = Tracker(runner)
    tracker.step(frame((16, 16, RED), (40, 40, BLUE)))
    found = tracker.add_prompt(prompt).object
    np.testing.assert_array_equal(found.low_res_masks > 0, square(16, 16)[::4, ::4])
    assert found.object_score == 10
    for index in range(1, 30):
        (tracked,) = tracker.step(frame((index, 24, RED), (40, 40, BLUE), index=index)).objects
        assert tracked.presence.visible
        assert tracked.box == pytest.approx((index, 24, index + 16, 40), abs=2)
        assert tracked.iou_score > 0.9


def test_what_is_hidden_is_absent_and_is_found_again(runner):
    tracker = Tracker(runner)
    tracker.step(frame((16, 16, RED)))
    tracker.add_prompt(PointPrompt((20, 20)))
    for index in range(1, 25):  # longer than any memory but the first lasts
        (hidden,) = tracker.step(frame((30, 30, BLUE), index=index)).objects
        assert not hidden.presence.visible
        assert hidden.object_score == -6
        assert (hidden.low_res_masks == -1024).all()
    (back,) = tracker.step(frame((44, 40, RED), index=25)).objects
    np.testing.assert_array_equal(back.low_res_masks > 0, square(44, 40)[::4, ::4])


def test_background_clicks_remove_what_is_around_them(runner):
    tracker = Tracker(runner)
    tracker.step(frame((0, 0, RED), (40, 40, RED)))
    both = tracker.add_prompt(PointPrompt((8, 8)))
    assert cells(both.object) == 32
    one = tracker.add_prompt(PointPrompt((48, 48), 0), both.object.object_id)
    np.testing.assert_array_equal(one.object.low_res_masks > 0, square(0, 0)[::4, ::4])


def test_candidates_are_nested_and_the_middle_one_is_the_best(runner):
    image = frame((0, 0, RED), (16, 0, (190, 60, 60)), (0, 16, (180, 70, 70)))
    tracker = Tracker(runner)
    tracker.step(image)
    result = tracker.add_prompt(PointPrompt((4, 4)))
    areas = [round(candidate.mask.sum() / 256) for candidate in result.candidates]
    assert areas == [2, 3, 1]  # squares; best first: middle, widest, narrowest
    assert cells(result.object) == 32


# -- the graphs alone ----------------------------------------------------------------------------


def features(runner, image):
    return runner.run('encode', {'image': image.image[None]})


def memory(runner, colours, times=(0, 1)):
    """Memory inputs that hold one colour per object, at the given times."""
    inputs = {}
    for tensor in runner.manifest.graphs['track'].inputs:
        if tensor.shape[0] == 'N':
            fill = -1 if tensor.name.endswith('time') else 0
            inputs[tensor.name] = np.full((len(colours), *tensor.shape[1:]), fill, tensor.dtype)
    known = np.float32([(*colour, 255) for colour in colours]) / 255
    for slot, time in enumerate(times):
        inputs['memory_time'][:, slot] = inputs['pointer_time'][:, slot] = time
        inputs['object_pointers'][:, slot, :4] = known
        inputs['memory_features'][:, slot, 1:5] = known[..., None, None]
    return inputs


def track(runner, image, inputs):
    return runner.run('track', {**features(runner, image), **inputs})


SCENE = frame((16, 16, RED), (40, 40, BLUE))


def test_objects_of_one_call_do_not_touch_each_other(runner):
    colours = (RED, BLUE, (0, 255, 0))
    together = track(runner, SCENE, memory(runner, colours))
    for row, colour in enumerate(colours):
        alone = track(runner, SCENE, memory(runner, [colour]))
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][row], value[0], rtol=1e-6, err_msg=name)
    assert (together['object_score_logits'] == [10, 10, -6]).all()


def test_the_content_of_an_empty_slot_does_not_count(runner):
    inputs = memory(runner, [RED])
    clean = track(runner, SCENE, inputs)
    inputs['memory_features'][:, 2:] = 3
    inputs['object_pointers'][:, 2:] = 3
    dirty = track(runner, SCENE, inputs)
    np.testing.assert_array_equal(clean['low_res_masks'], dirty['low_res_masks'])


def test_nan_in_any_slot_shows_in_memory_norm(runner):
    inputs = memory(runner, [RED, BLUE])
    inputs['memory_features'][0, 5] = np.nan
    norm = track(runner, SCENE, inputs)['memory_norm']
    assert not np.isfinite(norm[0])
    assert np.isfinite(norm[1])


def test_slots_may_come_in_any_order(runner):
    inputs = memory(runner, [RED], times=(0, 3, 1))
    inputs['memory_features'][:, 1, 1] += 0.1
    swapped = {
        name: np.roll(value, 1, axis=1) if value.ndim > 1 else value
        for name, value in inputs.items()
    }
    a, b = (track(runner, SCENE, x)['low_res_masks'] for x in (inputs, swapped))
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(('times', 'weights'), [((1, 3), (2, 1)), ((3, 1), (1, 2))])
def test_recent_memories_count_more(runner, times, weights):
    inputs = memory(runner, [RED], times)
    blue = memory(runner, [BLUE], times)
    for name in ('memory_features', 'object_pointers'):
        inputs[name][:, 1] = blue[name][:, 1]
    mixed = np.average([RED, BLUE], axis=0, weights=weights)
    other = np.average([BLUE, RED], axis=0, weights=weights)
    outputs = track(runner, frame((0, 0, mixed), (40, 40, other)), inputs)
    np.testing.assert_array_equal(outputs['low_res_masks'][0] > 0, square(0, 0)[::4, ::4])


def test_feature_maps_of_two_frames_are_noticed(runner):
    here, there = features(runner, SCENE), features(runner, frame((0, 40, RED)))
    for name in here:
        mixed = {**here, name: there[name]}
        scores = runner.run('track', {**mixed, **memory(runner, [RED])})['iou_scores']
        assert scores[0] < 0.5, name
    assert track(runner, SCENE, memory(runner, [RED]))['iou_scores'][0] > 0.9
