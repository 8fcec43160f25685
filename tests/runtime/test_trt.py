"""The TensorRT runner on a fake GPU (fake_driver.py, fake_tensorrt.py), with the real tracker."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sam2_rt.config import TrackerConfig
from sam2_rt.errors import (
    BackendError,
    DeviceLostError,
    DeviceMemoryError,
    EngineError,
    PromptError,
)
from sam2_rt.runtime.manifest import Manifest
from sam2_rt.runtime.ort import OrtRunner
from sam2_rt.runtime.plans import read_record
from sam2_rt.runtime.trt import TrtRunner
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt, PointPrompt
from tests.runtime.fake_driver import ILLEGAL_ADDRESS, OUT_OF_MEMORY
from tests.runtime.sessions import assert_same, frames, play

# -- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize('capture', [True, False])
def test_whole_session_equals_onnx_runtime(manifest: Manifest, capture: bool) -> None:
    with TrtRunner(manifest, 'fp32', capture=capture) as runner:
        ours = play(runner)
        assert bool(runner.captured) is capture
    with OrtRunner(manifest, 'fp32', 1) as runner:
        assert_same(ours, play(runner))
    assert any(tracked.mask.any() for result in ours for tracked in result.objects)


def test_two_runners_in_turn_do_not_touch_each_other(manifest: Manifest) -> None:
    with TrtRunner(manifest, 'fp32') as one, TrtRunner(manifest, 'fp32') as two:
        first = play(one)
        assert_same(play(two), first)
        assert_same(play(one), first)


# -- one frame ------------------------------------------------------------------------------------


def test_frame_is_two_launches_and_one_wait(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    tracker = Tracker(runner, TrackerConfig(max_objects=3, held_frames=4))
    stream = frames(20)
    tracker.step(next(stream))
    tracker.add_prompt(BoxPrompt((0, 12, 16, 28)))
    for _ in range(6):
        tracker.step(next(stream))
    gpu.driver.log.clear()
    gpu.trt.enqueues = 0
    allocated = gpu.driver.calls['cuMemAlloc_v2']
    for _ in range(8):
        tracker.step(next(stream))
    log = gpu.driver.log
    assert log.count('launch') == 2 * 8
    assert log.count('synchronise') == 8
    assert 'execute' not in log
    assert gpu.trt.enqueues == 0
    assert gpu.driver.calls['cuMemAlloc_v2'] == allocated
    # The image goes in on the second stream, two index vectors on the first; masks, two scores
    # and the norm come out.
    assert log.count('upload on 2') == 8
    assert log.count('upload') == 2 * 8
    assert log.count('download') == 4 * 8
    # What else there is are copies on the device, to the caller and into the bank's slots, and
    # streams that wait for each other.
    rest = {'launch', 'synchronise', 'download', 'upload', 'upload on 2'}
    assert set(log) - rest == {'copy', 'wait', 'wait on 2'}


def test_memory_stays_flat(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    tracker = Tracker(runner, TrackerConfig(max_objects=2, held_frames=5))
    used = []
    for index, frame in enumerate(frames(60)):
        tracker.step(frame)
        if index == 0:
            tracker.add_prompt(BoxPrompt((0, 12, 16, 28)))
        used.append(gpu.driver.used)
    assert used[-1] == used[10]
    assert len(gpu.driver.graphs) == 2


def test_one_capture_per_object_count(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    tracker = Tracker(runner, TrackerConfig(max_objects=3, held_frames=4))
    for index, frame in enumerate(frames(12)):
        tracker.step(frame)
        if index in (0, 4, 8):
            tracker.add_prompt(PointPrompt((16, 52)), str(index))
    assert sorted(runner.captured) == ['encode', 'track', 'track', 'track']


def test_idle_encodes_without_waiting_keep_their_images(runner: TrtRunner) -> None:
    """Two encodes in a row share a staging buffer; the first must have been read before."""
    images = [np.full((1, 64, 64, 3), value, np.uint8) for value in (10, 200)]
    outputs = [runner.run('encode', {'image': image})['high_res_s4'] for image in images]
    means = [runner.download(output)[0, 0].mean() * 255 for output in outputs]
    np.testing.assert_allclose(means, [10, 200], rtol=1e-4)


def test_outputs_stay_the_callers_until_dropped(runner: TrtRunner) -> None:
    kept = runner.run('encode', {'image': np.full((1, 64, 64, 3), 50, np.uint8)})
    before = runner.download(kept['image_embedding'])
    for value in range(3):
        runner.run('encode', {'image': np.full((1, 64, 64, 3), value, np.uint8)})
    np.testing.assert_array_equal(runner.download(kept['image_embedding']), before)


def test_writing_into_an_output_is_seen_by_the_next_run(runner: TrtRunner) -> None:
    """The slot that encode wrote is taken for its output as long as that is not written to."""
    old, new = (
        runner.run('encode', {'image': np.full((1, 64, 64, 3), value, np.uint8)})
        for value in (10, 250)
    )
    for name, array in old.items():
        runner.copy(new[name], array)
    mask = np.ones((1, 64, 64), np.uint8)
    written, expected = (
        runner.download(runner.run('prompt_mask', {**features, 'mask': mask})['object_pointer'])
        for features in (new, old)
    )
    np.testing.assert_array_equal(written, expected)


def test_unaligned_rows_are_copied_first(manifest: Manifest, runner: TrtRunner) -> None:
    features = runner.run('encode', {'image': np.full((1, 64, 64, 3), 90, np.uint8)})
    track = manifest.graphs['track']
    specs = {tensor.name: tensor for tensor in track.inputs}
    inputs: dict[str, Any] = dict(features)
    for name in ('memory_features', 'object_pointers'):
        tensor = specs[name]
        shape = tuple(int(axis) for axis in tensor.shape[1:])
        # 4 bytes off the grid: TensorRT (and the fake) refuse such an address.
        flat = runner.allocate((1 + int(np.prod(shape)),), tensor.dtype)
        view = flat[1:]
        view.shape = (1, *shape)
        inputs[name] = view
    for name in ('memory_time', 'pointer_time'):
        inputs[name] = np.full((1, int(specs[name].shape[1])), -1, np.int32)
    assert runner.run('track', inputs)['object_score_logits'][0] < 0


def test_warm_up_makes_live_runs_captures(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    runner.warm_up()
    contexts = gpu.trt.enqueues
    assert contexts == 4
    play(runner, 6)
    assert set(runner.captured) == {'encode', 'track'}


def blank(manifest: Manifest, runner: TrtRunner, fill: float) -> dict[str, Any]:
    """Inputs of track with a bank of its own, whose one pointer remembers a grey."""
    features = runner.run('encode', {'image': np.full((1, 64, 64, 3), 128, np.uint8)})
    inputs: dict[str, Any] = dict(features)
    for tensor in manifest.graphs['track'].inputs:
        shape = tuple(1 if axis == 'N' else int(axis) for axis in tensor.shape)
        if tensor.name in ('memory_features', 'object_pointers'):
            inputs[tensor.name] = runner.allocate(shape, tensor.dtype)
        elif tensor.dtype == 'int32':
            inputs[tensor.name] = np.full(shape, -1, np.int32)
    # The engine of tests/tiny_engine.py: sums of R, G and B over some cells, then their number.
    pointer = np.zeros(inputs['object_pointers'].shape, np.float32)
    pointer[:, 0, :4] = (fill, fill, fill, 1.0)
    with runner.cuda.current():
        pinned = runner.cuda.allocate_pinned(pointer.nbytes)
        pinned[:] = pointer.reshape(-1).view(np.uint8)
        runner.cuda.upload_async(inputs['object_pointers'].address, pinned)
        runner.cuda.synchronise()
        runner.cuda.free_pinned(pinned)
    inputs['pointer_time'][:, 0] = 0
    return inputs


def test_banks_in_turn_are_each_read_where_they_are(
    gpu: SimpleNamespace, manifest: Manifest, runner: TrtRunner
) -> None:
    """A capture keeps its addresses; more banks than captures are kept only give way."""
    fills = [128 / 255, 0.9] * 3
    banks = [blank(manifest, runner, fill) for fill in fills]
    for _ in range(4):
        for fill, inputs in zip(fills, banks, strict=True):
            score = runner.run('track', inputs)['object_score_logits'][0]
            assert (score > 0) == (fill < 0.6)
    for _ in range(4):
        for fill, inputs in zip(fills[:2], banks[:2], strict=True):
            score = runner.run('track', inputs)['object_score_logits'][0]
            assert (score > 0) == (fill < 0.6)
    assert 'track' in runner.captured
    for inputs in banks:
        for _ in range(3):
            runner.run('track', inputs)
    assert len(gpu.driver.graphs) == 1 + 4  # encode, and the latest four of track


# -- failures -------------------------------------------------------------------------------------


def test_refused_capture_falls_back_to_plain_enqueue(
    gpu: SimpleNamespace, manifest: Manifest, runner: TrtRunner
) -> None:
    gpu.trt.no_capture = True
    ours = play(runner)
    assert runner.captured == ()
    assert 'enqueue refused' in runner.capture_refused
    with OrtRunner(manifest, 'fp32', 1) as other:
        assert_same(ours, play(other))


def test_lost_device_is_a_typed_error(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    gpu.driver.fail['cuStreamSynchronize'] = ILLEGAL_ADDRESS
    with pytest.raises(DeviceLostError, match=r'ILLEGAL_ADDRESS.*restart'):
        play(runner, 2)
    runner.close()  # and closing it afterwards raises nothing


def test_full_device_is_a_typed_error(gpu: SimpleNamespace, manifest: Manifest) -> None:
    gpu.driver.capacity = 40_000
    with pytest.raises(DeviceMemoryError, match=r'allocate .* MB.*max_objects'):
        TrtRunner(manifest, 'fp32')
    assert gpu.driver.used == 0
    assert not gpu.driver.pinned


def test_full_device_frees_idle_memory_first(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    big = runner.allocate((1_000_000,), 'uint8')
    del big
    gpu.driver.capacity = gpu.driver.used + 1000
    other = runner.allocate((1_000_100,), 'uint8')
    assert other.shape == (1_000_100,)


def test_failed_enqueue_says_what_tensorrt_said(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    gpu.trt.enqueues_fail = True
    with pytest.raises(BackendError, match=r'graph encode.*enqueue refused.*sam2_rt build'):
        runner.run('encode', {'image': np.zeros((1, 64, 64, 3), np.uint8)})


def test_no_context_says_so(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    gpu.trt.contexts_fail = True
    with pytest.raises(BackendError, match='create a context'):
        runner.run('encode', {'image': np.zeros((1, 64, 64, 3), np.uint8)})


def test_too_many_points(manifest: Manifest, runner: TrtRunner) -> None:
    tracker = Tracker(runner, TrackerConfig(max_objects=1))
    tracker.step(next(frames(1)))
    with pytest.raises(PromptError, match='33 points on one frame.*tensorrt takes at most 32'):
        tracker.add_prompt(PointPrompt(np.full((33, 2), 20), 1))
    assert tracker.objects == ()
    tracker.add_prompt(BoxPrompt((8, 44, 24, 60), np.full((30, 2), 50), np.ones(30)), 'box')
    with pytest.raises(PromptError, match="object 'box': 33 points.*earlier clicks"):
        tracker.add_prompt(PointPrompt((16, 52)), 'box')
    tracker.add_prompt(BoxPrompt((8, 44, 24, 60)), 'box')  # starts over
    inputs = {**blank(manifest, runner, 0.0), 'previous_logits': np.zeros((1, 16, 16), 'f4')}
    inputs |= {
        'point_coords': np.zeros((1, 33, 2), np.float32),
        'point_labels': np.ones((1, 33), np.int32),
        'has_previous': np.zeros(1, np.int32),
    }
    with pytest.raises(BackendError, match='fewer points'):
        runner.run('prompt', inputs)


def test_host_array_for_a_resident_input(runner: TrtRunner) -> None:
    features = runner.run('encode', {'image': np.zeros((1, 64, 64, 3), np.uint8)})
    features['high_res_s4'] = runner.download(features['high_res_s4'])
    with pytest.raises(BackendError, match='high_res_s4: expected a device array'):
        runner.run('prompt_mask', {**features, 'mask': np.ones((1, 64, 64), np.uint8)})


def test_copy_wants_equal_shapes(runner: TrtRunner) -> None:
    with pytest.raises(BackendError, match='copy: expected'):
        runner.copy(runner.allocate((2, 3), 'float32'), runner.allocate((3,), 'float32'))


def test_closed_runner_and_freed_memory(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    play(runner, 6)
    array = runner.allocate((3,), 'float32')
    runner.close()
    assert gpu.driver.used == 0
    assert not gpu.driver.pinned
    assert not gpu.driver.graphs
    with pytest.raises(BackendError, match='closed'):
        runner.copy(array, array)
    del array  # its memory is gone already, and must not be handed out again
    assert not runner._pool._free


def test_other_precision_than_the_plans(manifest: Manifest) -> None:
    with pytest.raises(BackendError, match='fp16 asked for.*tf32'):
        TrtRunner(manifest, 'fp16')


def test_damaged_plan_is_refused_by_hash(manifest: Manifest) -> None:
    plan = next((manifest.folder / 'plans').glob('track.*.plan'))
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r'truncated or altered.*sam2_rt build'):
        TrtRunner(manifest, 'fp32')


def test_plan_of_another_graph_is_refused(manifest: Manifest) -> None:
    """Even if its hash is right: what TensorRT loads is compared with the manifest."""
    found = next(iter(read_record(manifest).values()))
    plans = {**found.plans, 'track': found.plans['encode']}
    with pytest.raises(BackendError, match='plan of graph track: expected inputs'):
        TrtRunner(manifest, 'fp32', plans=replace(found, plans=plans))


def test_allocation_failure_code_is_not_mistaken(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    gpu.driver.fail['cuMemAlloc_v2'] = OUT_OF_MEMORY
    with pytest.raises(DeviceMemoryError, match='OUT_OF_MEMORY'):
        runner.allocate((123,), 'float32')
