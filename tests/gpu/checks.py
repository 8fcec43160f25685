"""Checks of the TensorRT backend on a GPU. Each returns a line of what it found, or raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

import numpy as np

from sam2_rt.config import TrackerConfig
from sam2_rt.errors import DeviceMemoryError
from sam2_rt.lookahead import prepared_frames
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.check import REQUIRED_IOU, CheckClip, check_accuracy, load_clip
from sam2_rt.runtime.device_array import DeviceArray
from sam2_rt.runtime.manifest import Manifest
from sam2_rt.runtime.ort import OrtRunner
from sam2_rt.runtime.trt import TrtRunner
from sam2_rt.sources import Source
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt, Frame

LONG_IOU = 0.95
"""Least mean IoU with ONNX Runtime over the long replay: small errors grow through the memory."""
FLAT_BYTES = 8 << 20
"""How much less memory may be free at the end: the GPU has other users."""


class CheckFailed(Exception):
    """A check found something wrong."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise CheckFailed(message)


@dataclass
class Subject:
    """An engine under test.

    Attributes:
        manifest: of the engine folder; its plans are built.
        library: which TensorRT.
        clip: its bundled frames.
        long_frames: of the replay against ONNX Runtime.
        flat_frames: of the replay that watches the memory.
        figures: what the checks measured, for the report.
    """

    manifest: Manifest
    library: str = 'auto'
    long_frames: int = 200
    flat_frames: int = 1000
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def clip(self) -> CheckClip:
        return load_clip(self.manifest.folder)

    def open(self, *, capture: bool = True) -> TrtRunner:
        return TrtRunner(self.manifest, library=self.library, capture=capture)


class Replay(Source):
    """There and back, of which one frame is prepared ahead if that is wanted."""

    def __init__(self, clip: CheckClip, frames: int, *, ahead: bool) -> None:
        super().__init__('replay')
        self.live = not ahead
        self._clip, self._count = clip, frames

    def _frames(self) -> Iterator[Frame]:
        return there_and_back(self._clip, self._count)


def there_and_back(clip: CheckClip, frames: int) -> Iterator[Frame]:
    """The clip forwards and backwards, again and again: motion without a jump."""
    order = chain(range(len(clip.frames)), range(len(clip.frames) - 2, 0, -1))
    indices = list(order)
    for index in range(frames):
        yield Frame(
            clip.frames[indices[index % len(indices)]].image,
            index * 33_333_333,
            clip.frames[0].colour_order,
        )


def replay(
    runner: Runner, clip: CheckClip, frames: int, objects: int = 1, *, ahead: bool = False
) -> list[np.ndarray]:
    """Low-res logits (N, S/4, S/4) of every frame, tracked closed loop."""
    tracker = Tracker(runner, TrackerConfig(max_objects=objects, held_frames=4))
    logits = []
    with prepared_frames(Replay(clip, frames, ahead=ahead), tracker) as stream:
        for index, prepared in stream:
            result = tracker.step(prepared)
            if index == 0:
                for _ in range(objects):
                    tracker.add_prompt(clip.prompt)
            else:
                logits.append(np.stack([tracked.low_res_masks for tracked in result.objects]))
    return logits


def mean_iou(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    ious = []
    for one, other in zip(ours, theirs, strict=True):
        union = np.count_nonzero((one > 0) | (other > 0))
        ious.append(np.count_nonzero((one > 0) & (other > 0)) / union if union else 1.0)
    return float(np.mean(ious))


def bundled_frames(subject: Subject) -> str:
    """Closed-loop mask IoU with the fp32 reference on the engine's own clip."""
    with subject.open() as runner:
        measured = check_accuracy(runner, subject.clip)
    subject.figures['bundled_iou'] = measured.mean_iou
    text = f'mean IoU {measured.mean_iou:.4f}, worst frame {measured.worst_iou:.4f}'
    require(measured.passed or not subject.manifest.trained, f'{text}, {REQUIRED_IOU} is required')
    return text


def long_replay(subject: Subject) -> str:
    """Closed loop beside ONNX Runtime on the CPU, for many frames."""
    frames = subject.long_frames
    with subject.open() as runner:
        ours = replay(runner, subject.clip, frames)
    with OrtRunner(subject.manifest) as runner:
        theirs = replay(runner, subject.clip, frames)
    iou = mean_iou(ours, theirs)
    subject.figures['long_iou'] = iou
    text = f'mean IoU {iou:.4f} over {frames} frames'
    require(iou >= LONG_IOU or not subject.manifest.trained, f'{text}, {LONG_IOU} is required')
    return text


def track_inputs(runner: TrtRunner, subject: Subject, objects: int) -> dict[str, Any]:
    """Inputs of `track` as they are in the middle of a stream: a full memory, all rows alike."""
    rng = np.random.default_rng(0)
    frame = subject.clip.frames[0].image
    size = subject.manifest.image_size
    rows = np.linspace(0, frame.shape[0] - 1, size).astype(int)
    columns = np.linspace(0, frame.shape[1] - 1, size).astype(int)
    image = np.ascontiguousarray(frame[rows][:, columns])[None]
    inputs: dict[str, Any] = runner.run('encode', {'image': image})
    memory = subject.manifest.memory
    for tensor in subject.manifest.graphs['track'].inputs:
        if tensor.name in ('memory_features', 'object_pointers'):
            shape = [1, *(int(axis) for axis in tensor.shape[1:])]
            row = rng.normal(size=shape).astype(tensor.dtype)
            array = runner.allocate((objects, *shape[1:]), tensor.dtype)
            for index in range(objects):
                _upload(runner, array[index : index + 1], row)
            inputs[tensor.name] = array
    times = [0] * memory.conditioning_slots + list(range(1, memory.recent_slots + 1))
    inputs['memory_time'] = np.tile(np.asarray(times, np.int32), (objects, 1))
    times = [5] * memory.conditioning_slots + list(range(1, memory.recent_pointers + 1))
    inputs['pointer_time'] = np.tile(np.asarray(times, np.int32), (objects, 1))
    return inputs


def _upload(runner: TrtRunner, array: DeviceArray, values: np.ndarray) -> None:
    cuda = runner.cuda
    with cuda.current():
        pinned = cuda.allocate_pinned(values.nbytes)
        pinned[:] = values.reshape(-1).view(np.uint8)
        cuda.upload_async(array.address, pinned)
        cuda.synchronise()
        cuda.free_pinned(pinned)


def track_outputs(runner: TrtRunner, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    found = runner.run('track', inputs)
    return {
        name: runner.download(value) if isinstance(value, DeviceArray) else value
        for name, value in found.items()
    }


def graph_replay_equals_plain_enqueue(subject: Subject) -> str:
    """The same inputs give the same bits, enqueued, captured and replayed."""
    results = []
    for capture in (False, True):
        with subject.open(capture=capture) as runner:
            inputs = track_inputs(runner, subject, 1)
            results += [track_outputs(runner, inputs) for _ in range(4)]
            if capture and 'track' not in runner.captured:
                return f'capture is refused, plain enqueue is used: {runner.capture_refused}'
    for other in results[1:]:
        for name, value in results[0].items():
            require(np.array_equal(value, other[name]), f'{name} differs')
    return f'{len(results)} runs, equal bit by bit'


def looking_ahead_changes_nothing(subject: Subject) -> str:
    """Images that were uploaded while another frame was tracked give the same bits."""
    frames = subject.long_frames
    with subject.open() as runner:
        ahead = replay(runner, subject.clip, frames, ahead=True)
        plain = replay(runner, subject.clip, frames)
    for index, (one, other) in enumerate(zip(ahead, plain, strict=True)):
        require(np.array_equal(one, other), f'logits of frame {index + 1} differ')
    return f'{frames} frames, equal bit by bit'


def poisoned_outputs(subject: Subject) -> str:
    """Every output is written in full: NaN put there before does not show."""
    with subject.open() as runner:
        inputs = track_inputs(runner, subject, 1)
        before = track_outputs(runner, inputs)
        names = [tensor.name for tensor in subject.manifest.graphs['track'].outputs]
        for _ in range(3):
            with runner.cuda.current():
                for name in names:
                    slot = runner._slots[name]
                    runner.cuda.fill_async(slot.array.address, 0xFF, slot.array.nbytes)
            after = track_outputs(runner, inputs)
            for name in names:
                require(bool(np.isfinite(after[name]).all()), f'{name} is not finite')
                require(np.array_equal(before[name], after[name]), f'{name} differs')
    return f'{len(names)} outputs, written in full'


def object_counts(subject: Subject) -> str:
    """N equal objects give N times what one gives, for N = 1, 2, 4, 8."""
    told = []
    with subject.open() as runner:
        alone = track_outputs(runner, track_inputs(runner, subject, 1))
        for objects in (2, 4, 8):
            if objects > subject.manifest.max_objects:
                continue
            found = track_outputs(runner, track_inputs(runner, subject, objects))
            masks = found['low_res_masks']
            iou = mean_iou(list(masks), [alone['low_res_masks'][0]] * objects)
            told.append(f'N={objects} IoU {iou:.4f}')
            require(iou >= REQUIRED_IOU, f'N={objects}: IoU {iou:.4f} with one object')
    return ', '.join(told) or 'one object only'


def flat_memory(subject: Subject) -> str:
    """A long stream takes no more device memory than its first frames."""
    objects = min(2, subject.manifest.max_objects)
    frames = subject.flat_frames
    with subject.open() as runner:
        tracker = Tracker(runner, TrackerConfig(max_objects=objects, held_frames=8))
        early = 0
        for index, frame in zip(count(), there_and_back(subject.clip, frames)):
            tracker.step(frame)
            if index == 0:
                for _ in range(objects):
                    tracker.add_prompt(BoxPrompt(subject.clip.prompt.box))
            if index == min(50, frames // 2):
                early = _free(runner)
        lost = early - _free(runner)
    subject.figures['memory_growth_bytes'] = lost
    text = f'{frames} frames, {lost / 1e6:.1f} MB less free than after the first 50'
    require(lost <= FLAT_BYTES, text)
    return text


def out_of_memory(subject: Subject) -> str:
    """A full device is a typed error, and what runs goes on running."""
    with subject.open() as runner:
        inputs = track_inputs(runner, subject, 1)
        before = track_outputs(runner, inputs)
        try:
            runner.allocate((_free(runner) + (64 << 30),), 'uint8')
        except DeviceMemoryError as error:
            after = track_outputs(runner, inputs)
            require(
                np.array_equal(before['low_res_masks'], after['low_res_masks']),
                'the run after it gives other masks',
            )
            return str(error)
    raise CheckFailed('more memory than there is was handed out')


def _free(runner: TrtRunner) -> int:
    with runner.cuda.current():
        runner.cuda.synchronise()
        return runner.cuda.free_bytes()


CHECKS: tuple[Callable[[Subject], str], ...] = (
    bundled_frames,
    graph_replay_equals_plain_enqueue,
    looking_ahead_changes_nothing,
    poisoned_outputs,
    object_counts,
    out_of_memory,
    flat_memory,
    long_replay,
)
