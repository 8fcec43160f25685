"""The accuracy check, on an engine whose masks are known and on spoilt ones."""

import numpy as np
import pytest

from sam2_rt.errors import EngineError
from sam2_rt.preprocess import network_image
from sam2_rt.runtime.check import check_accuracy, load_clip
from sam2_rt.runtime.manifest import load_manifest
from sam2_rt.runtime.ort import OrtRunner
from tests.tiny_engine import COLOUR, GREY

pytest.importorskip('onnxruntime', reason='pip install onnxruntime')


class SpoiltRunner(OrtRunner):
    """Changes what `track` gives, through `spoil(outputs)`."""

    def spoil(self, outputs):
        pass

    def _run(self, graph, inputs):
        outputs = super()._run(graph, inputs)
        if graph == 'track':
            self.spoil(outputs)
        return outputs


@pytest.fixture
def runner(tiny_engine):
    with SpoiltRunner(load_manifest(tiny_engine)) as runner:
        yield runner


def ticking(*durations):
    """A clock that is read twice for each duration."""
    ends = np.cumsum([x for duration in durations for x in (0.0, duration)])
    return iter(ends).__next__


def test_frames_are_read_in_their_colours(tiny_engine):
    clip = load_clip(tiny_engine)
    assert [frame.image.shape for frame in clip.frames] == [(64, 64, 3)] * 8
    image = network_image(clip.frames[0], 64)[0]
    np.testing.assert_array_equal(image[20, 12], COLOUR)
    np.testing.assert_array_equal(image[0, 0], GREY)
    stamps = [frame.stamp_ns for frame in clip.frames]
    assert stamps == sorted(set(stamps))


def test_an_exact_engine_agrees_everywhere(runner):
    clock = ticking(9.0, 0.2, 0.1, 0.3, 0.2, 0.2, 0.1)  # the first one loads the graph
    accuracy = check_accuracy(runner, clock=clock)
    assert accuracy.mask_iou == (1.0,) * 8  # frame 5, where both are empty, counts as right
    assert (accuracy.mean_iou, accuracy.worst_iou) == (1.0, 1.0)
    assert accuracy.presence_agreement == 1.0
    assert accuracy.seconds_per_frame == pytest.approx(0.2)
    assert accuracy.passed


def test_iou_is_intersection_over_union_frame_by_frame(runner):
    def halve(outputs):
        masks = outputs['low_res_masks']
        rows = np.flatnonzero((masks[0] > 0).any(axis=1))
        masks[0, rows[:2]] = -5

    runner.spoil = halve
    accuracy = check_accuracy(runner)
    assert accuracy.mask_iou == (1.0, 0.5, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5)
    assert accuracy.mean_iou == 0.625
    assert accuracy.worst_iou == 0.5
    assert not accuracy.passed


def test_presence_that_differs_is_counted(runner):
    def invert(outputs):
        outputs['object_score_logits'] *= -1

    runner.spoil = invert
    accuracy = check_accuracy(runner)
    assert accuracy.presence_agreement == 1 / 8  # the prompted frame alone


def test_the_replay_is_closed_loop(runner):
    """An engine that is right on each frame but forgets must fail."""

    def forget(outputs):
        outputs['object_pointer'][:, :3] += 1  # another colour, for the frames to come
        outputs['new_memory_features'][:, 1:4] += 1

    runner.spoil = forget
    accuracy = check_accuracy(runner)
    assert accuracy.mask_iou[1] == 1.0
    assert accuracy.mean_iou < 0.9


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda clip: clip.pop('scores'), 'KeyError: .*scores'),
        (lambda clip: clip.update(scores=np.zeros(3)), 'ValueError'),
        (lambda clip: clip.update(masks=clip['masks'][:2]), 'ValueError'),
        (lambda clip: clip['png'].fill(0), 'ValueError: a frame is not a PNG image'),
        (lambda clip: clip.update(prompt_box=np.zeros(4)), 'PromptError: .*empty or inverted'),
    ],
)
def test_a_malformed_clip_is_an_engine_error(engine_copy, change, message):
    with np.load(engine_copy / 'check.npz') as file:
        clip = dict(file)
    change(clip)
    np.savez(engine_copy / 'check.npz', **clip)
    with pytest.raises(EngineError, match=rf'check\.npz cannot be read \({message}'):
        load_clip(engine_copy)


@pytest.mark.parametrize('keep', [0, 30, 900])
def test_a_truncated_clip_is_an_engine_error(engine_copy, keep):
    path = engine_copy / 'check.npz'
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EngineError, match=r'check\.npz cannot be read'):
        load_clip(engine_copy)


def test_a_missing_clip_says_what_to_do(engine_copy):
    (engine_copy / 'check.npz').unlink()
    with pytest.raises(EngineError, match=r'check\.npz is missing, .* name a backend'):
        load_clip(engine_copy)
