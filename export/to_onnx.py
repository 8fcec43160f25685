"""Checkpoint -> engine folder: `python -m export.to_onnx --checkpoint … --out engines/…`."""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxslim
import torch

import sam2_rt
from export.clips import synthetic_clip
from export.closed_loop import compare, play, scripted
from export.errors import ExportError
from export.model import IMAGE_SIZES, VARIANTS
from export.networks import Network, from_checkpoint, with_random_weights
from export.onnx_graph import (
    WEIGHTS_FILE,
    WeightFile,
    export_stage,
    halve_weights,
    operator_counts,
)
from export.stages import PRECISIONS, graph_specs
from export.torch_runner import TorchRunner
from sam2_rt.config import TrackerConfig
from sam2_rt.errors import BackendError, Sam2RtError
from sam2_rt.runtime import check
from sam2_rt.runtime.manifest import FILE_NAME, Manifest, sha256
from sam2_rt.runtime.openvino import OpenVinoRunner
from sam2_rt.runtime.ort import OrtRunner
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt

CHECK_FRAMES = 8

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How an engine is made.

    Attributes:
        precision: arithmetic written in the graphs, one of PRECISIONS.
        half_weights: store float32 weights as float16: half the size, the same arithmetic.
        max_objects: most objects per graph call.
    """

    precision: str = 'fp32'
    half_weights: bool = False
    max_objects: int = 8


def export_engine(
    network: Network, out: Path, options: Options | None = None, say: Say = lambda text: None
) -> Manifest:
    """Writes an engine folder, whole or not at all; an engine that is already there is replaced.

    The last step tracks with it in ONNX Runtime and, where that is installed, OpenVINO: graphs
    that do not give the masks of the torch network are not kept.

    Args:
        network: what to export.
        out: the folder.
        options: see Options.
        say: called with a line per step.

    Raises:
        ExportError: a graph cannot run everywhere or gives other masks, or `out` is in the way.
    """
    options = options or Options()
    if (
        out.exists()
        and not (out / FILE_NAME).is_file()
        and (not out.is_dir() or any(out.iterdir()))
    ):
        raise ExportError(f'{out} exists and is not an engine folder; choose another --out')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', suffix='.part', dir=out.parent))
        try:
            manifest = _write(network, part, options, say)
            _verify(network, manifest, say)
            hashes = {path.name: sha256(path) for path in sorted(part.iterdir())}
            manifest = replace(manifest, files=hashes)
            manifest.save()
            part.chmod(0o755)
            _put_in_place(part, out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise ExportError(f'{out} cannot be written: {error}; choose another --out') from error
    return replace(manifest, folder=out)


def _write(network: Network, folder: Path, options: Options, say: Say) -> Manifest:
    """Writes graphs, weights and check clip into an empty folder; returns what they are."""
    model, memory = network.model, network.memory
    specs = graph_specs(model.image_size, options.precision, memory)
    prepared = model.prepare_for_export(half=options.precision == 'fp16')
    weights = WeightFile(folder / WEIGHTS_FILE)
    for name, spec in specs.items():
        start = time.perf_counter()
        graph = export_stage(prepared, name, spec)
        if options.half_weights:
            halve_weights(graph)
        weights.take(graph)
        onnx.save(graph, folder / spec.file)
        counts = operator_counts(graph)
        common = ', '.join(f'{count} {op}' for op, count in counts.most_common(4))
        say(
            f'{spec.file}: {counts.total()} operators ({common}, …), '
            f'{time.perf_counter() - start:.1f} s'
        )
    weights.close()
    say(f'{WEIGHTS_FILE}: {weights.path.stat().st_size / 1e6:.1f} MB, shared by all graphs')

    manifest = Manifest(
        folder=folder,
        variant=network.variant,
        image_size=model.image_size,
        precision=options.precision,
        max_objects=options.max_objects,
        trained=network.trained,
        memory=memory,
        graphs=specs,
        files={},
        source={**network.source, 'weights': 'fp16' if options.half_weights else 'as computed'},
        versions={
            'sam2_rt': sam2_rt.__version__,
            'python': platform.python_version(),
            'torch': torch.__version__,
            'onnx': onnx.__version__,
            'onnxslim': onnxslim.__version__,
        },
    )
    _write_check_clip(TorchRunner(manifest, network.model), folder / check.FILE_NAME)
    say(f'{check.FILE_NAME}: {CHECK_FRAMES} frames and their masks from the torch network')
    return manifest


def _write_check_clip(runner: TorchRunner, path: Path) -> None:
    """Writes the clip that sam2_rt.runtime.check replays; the format is described there."""
    clip = synthetic_clip(seed=0, count=CHECK_FRAMES)
    box = clip.boxes[0, 0]
    tracker = Tracker(runner, TrackerConfig(max_objects=1, held_frames=1))
    tracker.step(clip.frames[0])
    objects = [tracker.add_prompt(BoxPrompt(box)).object]
    for frame in clip.frames[1:]:
        objects.extend(tracker.step(frame).objects)
    masks = np.stack([tracked.low_res_masks > 0 for tracked in objects])
    pngs = [
        cv2.imencode('.png', cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))[1].reshape(-1)
        for frame in clip.frames
    ]
    np.savez_compressed(
        path,
        png=np.concatenate(pngs),
        offsets=np.cumsum([0, *map(len, pngs)]),
        prompt_box=box,
        masks=np.packbits(masks.reshape(len(masks), -1), axis=1),
        mask_shape=np.asarray(masks.shape[1:]),
        scores=np.asarray([tracked.object_score for tracked in objects], np.float32),
    )


def _verify(network: Network, manifest: Manifest, say: Say) -> None:
    """Plays the check clip, and a scenario of all graphs, on every CPU backend there is."""
    scenario = scripted(synthetic_clip(seed=1, count=6), manifest.max_objects)
    reference = play(TorchRunner(manifest, network.model), scenario)
    for backend in (OrtRunner, OpenVinoRunner):
        try:
            backend.precisions(manifest)
        except BackendError as error:
            say(f'not tried: {error}')
            continue
        with backend(manifest) as runner:
            clip = check.check_accuracy(runner).mean_iou
            prompted = compare(reference, play(runner, scenario)).mean_iou
        worst = min(clip, prompted)
        say(f'{backend.backend} against torch: mask IoU {clip:.4f}, all prompts {prompted:.4f}')
        if worst < check.REQUIRED_IOU:
            raise ExportError(
                f'the exported graphs do not give the masks of the torch network in '
                f'{backend.backend}: mask IoU {worst:.4f}, {check.REQUIRED_IOU} is '
                'required; nothing was written. Try --precision fp32 or leave out --weights'
            )


def _put_in_place(part: Path, out: Path) -> None:
    """Renames the finished folder; an engine in its place is moved aside first."""
    if not out.exists():
        part.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', suffix='.part', dir=out.parent))
    out.rename(old / out.name)
    part.rename(out)
    shutil.rmtree(old)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(
        prog='python -m export.to_onnx',
        description='Export a SAM 2 / SAM 2.1 checkpoint as an engine folder: four ONNX graphs, '
        'their weights, a check clip and a manifest.',
        epilog='example: python -m export.to_onnx --checkpoint checkpoints/sam2.1_hiera_tiny.pt '
        '--image-size 512 --out engines/sam2.1_hiera_tiny_512',
    )
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument('--checkpoint', type=Path, help="Meta's .pt or Hugging Face safetensors")
    weights.add_argument(
        '--random-weights', type=int, metavar='SEED', help='no checkpoint: for tests and timing'
    )
    parser.add_argument(
        '--variant', choices=VARIANTS, help='default: the one that fits the checkpoint'
    )
    parser.add_argument(
        '--image-size', type=int, choices=IMAGE_SIZES, default=512, help='%(default)s'
    )
    parser.add_argument('--precision', choices=PRECISIONS, default='fp32', help='%(default)s')
    parser.add_argument(
        '--weights', choices=('fp16',), help='store the weights of an fp32 engine in half the size'
    )
    parser.add_argument(
        '--conditioning-slots', type=int, default=2, help='prompted frames remembered: %(default)s'
    )
    parser.add_argument('--max-objects', type=int, default=8, help='per engine call: %(default)s')
    parser.add_argument('--out', type=Path, required=True, help='the engine folder')
    options = parser.parse_args(arguments)
    if options.checkpoint is None and options.variant is None:
        parser.error('--random-weights needs --variant')
    if options.conditioning_slots < 1 or options.max_objects < 1:
        parser.error('--conditioning-slots and --max-objects are at least 1')
    size, slots = options.image_size, options.conditioning_slots
    try:
        if options.checkpoint is None:
            network = with_random_weights(options.variant, size, slots, options.random_weights)
        else:
            network = from_checkpoint(options.checkpoint, size, slots, options.variant)
        print(f'{network.variant} at {size} x {size}, {options.precision}', file=sys.stderr)
        export_engine(
            network,
            options.out,
            Options(options.precision, options.weights == 'fp16', options.max_objects),
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
    except Sam2RtError as error:
        print(f'export.to_onnx: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nexport.to_onnx: stopped, nothing was written', file=sys.stderr)
        return 130
    print(options.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
