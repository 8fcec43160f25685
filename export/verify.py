"""Engine folder vs torch, closed loop: `python -m export.verify engines/…`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.clips import Clip, synthetic_clip
from export.closed_loop import FIRST, Report, Scenario, compare, play, scripted
from export.errors import ExportError
from export.networks import RANDOM_WEIGHTS, from_checkpoint, with_random_weights
from export.torch_runner import TorchRunner
from sam2_rt.errors import Sam2RtError
from sam2_rt.runtime import host
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.manifest import Manifest, load_manifest, sha256
from sam2_rt.runtime.select import AUTO, BACKENDS, PRECISIONS, open_runner
from sam2_rt.sources import open_source
from sam2_rt.types import Frame, PointPrompt

Say = Callable[[str], None]


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Makes every output start as NaN, so that what a graph does not write cannot pass."""
    allocate = host.allocate_outputs

    def poisoned(*arguments: Any) -> dict[str, NDArray[Any]]:
        outputs = allocate(*arguments)
        for output in outputs.values():
            output.fill(np.nan)
        return outputs

    host.allocate_outputs = poisoned
    try:
        yield
    finally:
        host.allocate_outputs = allocate


def ignores_input(runner: Runner, seed: int) -> bool:
    """Whether two clips and one click give the very same mask: then no comparison means much."""
    outcomes = []
    for clip in (synthetic_clip(seed, 2), synthetic_clip(seed + 1, 2)):
        middle = clip.frames[0].width / 2, clip.frames[0].height / 2
        outcomes.append(play(runner, Scenario(clip.frames, {0: [(FIRST, PointPrompt(middle))]})))
    first, second = outcomes
    return any(np.array_equal(first[k].low_res_masks, second[k].low_res_masks) for k in first)


def clip_boxes(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """Stand-ins for known shapes in a real clip: its middle, and the right half of its middle."""
    height, width = frames[0].height, frames[0].width
    x, y = np.float32(width / 6), np.float32(height / 6)
    boxes = np.array([[2 * x, 2 * y, 4 * x, 4 * y], [3 * x, 2 * y, 5 * x, 4 * y]], np.float32)
    return np.broadcast_to(boxes, (len(frames), 2, 4))


def reference_runner(manifest: Manifest, checkpoint: Path | None) -> TorchRunner:
    """The torch network an engine was exported from.

    Args:
        manifest: the engine's.
        checkpoint: its checkpoint; None: the one of that name in checkpoints/.

    Raises:
        ExportError: the checkpoint is not there or not the one the engine was made from.
    """
    size, slots = manifest.image_size, manifest.memory.conditioning_slots
    seed = manifest.source.get(RANDOM_WEIGHTS)
    if seed is not None:
        network = with_random_weights(manifest.variant, size, slots, int(seed))
        return TorchRunner(manifest, network.model)
    path = checkpoint or Path('checkpoints') / manifest.source.get('checkpoint', '')
    if not path.is_file():
        raise ExportError(
            f'{manifest.folder} was exported from {manifest.source.get("checkpoint")}, which is '
            f'not at {path}; give --checkpoint'
        )
    came, expected = sha256(path), manifest.source.get('sha256')
    if came != expected:
        raise ExportError(
            f'{manifest.folder} was exported from a checkpoint with SHA-256 {expected}, but '
            f'{path} has {came}; give that one, or export the engine again from this one'
        )
    return TorchRunner(manifest, from_checkpoint(path, size, slots, manifest.variant).model)


def verify(
    reference: Runner, engine: Runner, scenario: Scenario, seed: int, say: Say = print
) -> Report:
    """Plays a scenario on both and tells about every frame.

    Raises:
        ExportError: the engine ignores its input, or the reference sees nothing to compare.
    """
    with poisoned_outputs():
        if ignores_input(engine, seed):
            raise ExportError('two different clips gave the same masks: the engine is broken')
        outcome = play(engine, scenario)
    report = compare(play(reference, scenario), outcome)
    if report.empty_share == 1.0:
        raise ExportError(
            'the reference saw no object on any frame, so there is nothing to compare; '
            'give another --clip, or --point on an object'
        )
    say(f'{"frame":>5}  {"object":8}{"mask IoU":>9}  {"logits":>9}  {"area":>6}  object score')
    for each in report.differences:
        note = '' if each.presence_agrees else '  presence differs'
        say(
            f'{each.frame_index:5}  {each.object_id:8}{each.iou:9.5f}  {each.logits:9.2e}  '
            f'{each.area:6.1%}  {each.scores[0]:.3f} / {each.scores[1]:.3f}{note}'
        )
    say(
        f'mask IoU worst {report.worst_iou:.5f}, mean {report.mean_iou:.5f}; worst relative '
        f'logit difference {report.worst_logits:.2e}; presence agrees on '
        f'{report.presence_agreement:.1%}; {report.empty_share:.0%} of the masks are empty'
    )
    return report


def record(manifest: Manifest, name: str, report: Report, about: Mapping[str, Any]) -> None:
    """Keeps a result in the engine's manifest, as `accuracy[name]`."""
    entry = {
        **about,
        'worst_iou': round(report.worst_iou, 6),
        'mean_iou': round(report.mean_iou, 6),
        'worst_relative_logit_difference': float(f'{report.worst_logits:.3g}'),
        'presence_agreement': round(report.presence_agreement, 6),
    }
    replace(manifest, accuracy={**manifest.accuracy, name: entry}).save()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(
        prog='python -m export.verify',
        description='Compare an engine with the torch network it was exported from: same frames, '
        'same prompts (a click; a second object boxed mid-stream; corrections by click and mask), '
        'each on its own outputs. Exits with 1 if the worst mask IoU is below the threshold.',
    )
    parser.add_argument('engine', type=Path, help='engine folder')
    parser.add_argument('--backend', choices=(AUTO, *BACKENDS), default='onnxruntime')
    parser.add_argument('--precision', choices=(AUTO, *PRECISIONS), default=AUTO)
    parser.add_argument('--clip', help='video or folder; default: a made-up clip')
    parser.add_argument('--point', help='x,y of an object on the first frame of --clip')
    parser.add_argument('--frames', type=int, default=12, help='%(default)s')
    parser.add_argument('--threshold', type=float, default=0.99, help='%(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of the made-up clip: %(default)s')
    parser.add_argument('--checkpoint', type=Path, help='default: the one in checkpoints/')
    parser.add_argument('--reference', type=Path, help='another engine folder instead of torch')
    options = parser.parse_args(arguments)
    if options.frames < 3:
        parser.error('--frames: a scenario takes at least 3')
    try:
        return _run(options)
    except Sam2RtError as error:
        print(f'export.verify: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nexport.verify: stopped', file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    manifest = load_manifest(options.engine)
    scenario = _scenario(options, manifest.max_objects)
    with open_runner(options.engine, options.backend, precision=options.precision) as engine:
        if options.reference:
            reference = open_runner(options.reference, 'onnxruntime')
        else:
            reference = reference_runner(manifest, options.checkpoint)
        with reference:
            names = [f'{r.info.backend} {r.info.precision}' for r in (reference, engine)]
            print(f'{options.engine}: {names[1]} against {names[0]}')
            report = verify(reference, engine, scenario, options.seed)
    about = {
        'reference': str(options.reference or names[0]),
        'clip': Path(options.clip).name if options.clip else f'made up, seed {options.seed}',
        'frames': len(scenario.frames),
    }
    record(manifest, names[1], report, about)
    if report.worst_iou >= options.threshold and report.presence_agreement == 1.0:
        print(f'passed: every mask IoU is at least {options.threshold}')
        return 0
    print(f'failed: mask IoU {options.threshold} and full agreement on presence are required')
    return 1


def _scenario(options: argparse.Namespace, objects: int) -> Scenario:
    if not options.clip:
        return scripted(synthetic_clip(options.seed, options.frames), objects)
    with open_source(options.clip) as source:
        frames = list(islice(source, options.frames))
    scenario = scripted(Clip(frames, clip_boxes(frames)), objects)
    if not options.point:
        return scenario
    try:
        point = [float(number) for number in options.point.split(',')]
    except ValueError as error:
        raise ExportError(f'--point: expected x,y, got {options.point!r}') from error
    return replace(scenario, prompts={**scenario.prompts, 0: [(FIRST, PointPrompt(point))]})


if __name__ == '__main__':
    sys.exit(main())
