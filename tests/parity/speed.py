"""How fast our engine tracks, beside the official predictor: `python -m tests.parity.speed`.

Every system has the same (random) weights and the same 1280 x 720 frames, one object and a full
memory. They take turns frame by frame, so that whatever else the machine does hits all alike:
trust the ratios. The official predictor gets its frames resized and normalised beforehand;
ours does that within the time it is given.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from export.clips import Clip, synthetic_clip
from export.model import IMAGE_SIZES, VARIANTS
from export.networks import from_checkpoint
from export.to_onnx import export_engine
from sam2_rt.config import TrackerConfig
from sam2_rt.errors import BackendError
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.manifest import load_manifest
from sam2_rt.runtime.openvino import OpenVinoRunner
from sam2_rt.runtime.ort import OrtRunner
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt
from tests.parity import official

FILLING = 17  # frames until all memory and pointer slots are full
CONDITIONING_SLOTS = 1  # one frame is prompted: both sides attend to as much memory

Masks = Iterator[np.ndarray]
"""Yields the mask of frame 0, 1, …, doing that frame's work when asked for it."""


def official_masks(
    predictor: official.SAM2VideoPredictor, clip: Clip, precision: AbstractContextManager
) -> Masks:
    video = official.OfficialVideo(predictor, [frame.image for frame in clip.frames])
    with torch.inference_mode(), precision:
        video.add_points(0, 1, box=clip.boxes[0, 0])
        for _, _, logits in video.propagate(0, len(clip.frames)):
            yield logits[0] > 0


def our_masks(runner: Runner, clip: Clip, stages: list[dict[str, float]]) -> Masks:
    tracker = Tracker(runner, TrackerConfig(max_objects=1, held_frames=1))
    tracker.step(clip.frames[0])
    yield tracker.add_prompt(BoxPrompt(clip.boxes[0, 0])).object.mask
    for frame in clip.frames[1:]:
        result = tracker.step(frame)
        stages.append(dict(result.stage_seconds))
        yield result.objects[0].mask


def our_systems(folder: Path, threads: int) -> dict[str, Runner]:
    manifest = load_manifest(folder)
    runners: dict[str, Runner] = {'onnxruntime fp32': OrtRunner(manifest, threads=threads)}
    for precision in ('fp32', 'bf16'):
        try:
            runners[f'openvino {precision}'] = OpenVinoRunner(manifest, precision, threads)
        except BackendError as error:
            print(f'left out: {error}', file=sys.stderr)
    return runners


def iou(mask: np.ndarray, reference: np.ndarray) -> float:
    union = int((mask | reference).sum())
    return int((mask & reference).sum()) / union if union else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--variant', default='sam2.1_hiera_tiny', choices=VARIANTS)
    parser.add_argument('--image-size', type=int, default=512, choices=IMAGE_SIZES)
    parser.add_argument(
        '--frames', type=int, default=15, help='measured ones, after the memory is full'
    )
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    clip = synthetic_clip(seed=1, count=FILLING + options.frames, size=(720, 1280))
    predictor = official.build_predictor(VARIANTS[options.variant], options.image_size)
    stages: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = official.save_checkpoint(predictor, Path(folder) / 'official.pt')
        network = from_checkpoint(
            checkpoint, options.image_size, CONDITIONING_SLOTS, options.variant
        )
        export_engine(
            network, Path(folder) / 'engine', say=lambda text: print(text, file=sys.stderr)
        )
        runners = our_systems(Path(folder) / 'engine', options.threads)
        systems = {'torch fp32': official_masks(predictor, clip, nullcontext())}
        if 'openvino bf16' in runners:  # else torch would emulate bfloat16, minutes a frame
            bfloat16 = torch.autocast('cpu', torch.bfloat16)
            systems['torch bf16'] = official_masks(predictor, clip, bfloat16)
        for name, runner in runners.items():
            systems[name] = our_masks(runner, clip, stages.setdefault(name, []))
        times, agreement = race(systems, len(clip.frames), time.perf_counter)
    report(options, times, agreement, stages)


def race(
    systems: dict[str, Masks], frames: int, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds per measured frame, and mask IoU with the first system, of every system."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    agreement: dict[str, list[float]] = {name: [] for name in systems}
    for index in range(frames):
        print(f'\rframe {index + 1}/{frames}', end='', file=sys.stderr, flush=True)
        masks = {}
        for name, system in systems.items():
            start = clock()
            masks[name] = next(system)
            if index >= FILLING:
                times[name].append(clock() - start)
        reference = next(iter(masks.values()))
        for name, mask in masks.items():
            agreement[name].append(iou(mask, reference))
    print(file=sys.stderr)
    return times, agreement


def report(
    options: argparse.Namespace,
    times: dict[str, list[float]],
    agreement: dict[str, list[float]],
    stages: dict[str, list[dict[str, float]]],
) -> None:
    print(
        f'{options.variant} at {options.image_size}, one object, full memory, {options.frames} '
        f'frames of 1280 x 720, {options.threads} threads'
    )
    print(
        f'{"":18}{"p50 ms":>9}{"speed-up":>10}{"vs bf16":>9}{"mask IoU":>10}  own overhead p50 ms'
    )
    p50 = {name: float(np.median(seconds)) for name, seconds in times.items()}
    for name, seconds in p50.items():
        own = ''
        if name in stages:
            measured = list(zip(times[name], stages[name][-options.frames :], strict=True))
            outside = [total - parts['encode'] - parts['track'] for total, parts in measured]
            own = f'{1e3 * float(np.median(outside)):.1f}'
        bf16 = f'{p50["torch bf16"] / seconds:8.2f}x' if 'torch bf16' in p50 else f'{"-":>9}'
        print(
            f'{name:18}{1e3 * seconds:9.1f}{p50["torch fp32"] / seconds:9.2f}x'
            f'{bf16}{np.mean(agreement[name]):10.4f}  {own}'
        )


if __name__ == '__main__':
    main()
