"""Measures `micro`, closed loop through the robot's own Tracker, on scenes it was not trained on.

    python -m export.micro.evaluate out/micro/micro.pt      the torch network
    python -m export.micro.evaluate engines/micro            an exported engine

Held-out scenes use seeds that training never draws, and procedural surfaces only, so the numbers
are the same wherever it runs. The real clips are measured where they are found. Writes a picture
of overlays (truth outlined green, the answer filled red) and the numbers as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from export.micro.curriculum import IMAGE_SIZE
from export.micro.prompts import box_prompt, click_prompt
from export.micro.real_clips import RealClip, find_clips, hidden_report
from export.micro.scenes import DIFFICULTIES, generate
from export.micro.scores import Score, score
from export.networks import from_checkpoint
from export.stages import graph_specs
from export.torch_runner import TorchRunner
from sam2_rt.config import TrackerConfig
from sam2_rt.errors import Sam2RtError
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.manifest import Manifest, load_manifest
from sam2_rt.runtime.ort import OrtRunner
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt, Frame, PointPrompt, Prompt

HELD_OUT = 2**41  # training draws seeds below 2**40
HEIGHT, WIDTH = 360, 640
_FRAME_NS = 33_333_333
_SHOWN_FRAMES = 8


@dataclass(frozen=True)
class Track:
    """What the tracker answered for N objects over T frames.

    Attributes:
        masks: bool (T, N, H, W).
        visible: bool (T, N).
    """

    masks: np.ndarray
    visible: np.ndarray


def open_runner(path: Path) -> Runner:
    """Runs an engine folder in ONNX Runtime, or a checkpoint of `micro` in torch."""
    if path.is_dir():
        return OrtRunner(load_manifest(path))
    network = from_checkpoint(path, IMAGE_SIZE, conditioning_slots=2, variant='micro')
    manifest = Manifest(
        folder=path.parent,
        variant=network.variant,
        image_size=IMAGE_SIZE,
        precision='fp32',
        max_objects=8,
        trained=True,
        memory=network.memory,
        graphs=graph_specs(IMAGE_SIZE, 'fp32', network.memory),
        files={},
        source=network.source,
        versions={},
    )
    return TorchRunner(manifest, network.model)


def follow(runner: Runner, frames: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> Track:
    """Prompts the first frame and tracks through the rest; frames are RGB (H, W, 3)."""
    tracker = Tracker(runner, TrackerConfig(held_frames=1))
    masks, visible = [], []
    for number, image in enumerate(frames):
        result = tracker.step(Frame(image, number * _FRAME_NS))
        objects = result.objects
        if number == 0:
            objects = tuple(tracker.add_prompt(prompt).object for prompt in prompts)
        masks.append(np.stack([tracked.mask for tracked in objects]))
        visible.append([tracked.presence.visible for tracked in objects])
    return Track(np.stack(masks), np.array(visible))


def prompt_from(mask: np.ndarray, kind: str) -> Prompt:
    """A tight box, or a click in the middle, of a bool mask (H, W)."""
    if kind == 'box':
        return BoxPrompt(box_prompt(mask)[0].reshape(-1))
    return PointPrompt(click_prompt(mask)[0][:1])


def measure_scenes(
    runner: Runner, difficulty: str, numbers: range, length: int, kind: str
) -> tuple[list[Score], np.ndarray | None]:
    """Scores of all objects of some held-out clips, and a strip of the first one's overlays."""
    scores: list[Score] = []
    strip = None
    for number in numbers:
        clip = generate(HELD_OUT + number, difficulty, length, HEIGHT, WIDTH)
        targets = np.flatnonzero(clip.masks[0].sum((1, 2)) >= 64)
        if not len(targets):
            continue
        truth = clip.masks[:, targets]
        track = follow(runner, clip.frames, [prompt_from(mask, kind) for mask in truth[0]])
        for i in range(len(targets)):
            scores.append(score(track.masks[:, i], track.visible[:, i], truth[:, i]))
        if strip is None:
            strip = overlay_strip(clip.frames, track.masks.any(1), truth.any(1))
    return scores, strip


def measure_real(
    runner: Runner, clip: RealClip, prompt: Prompt
) -> tuple[Score, Track, np.ndarray]:
    """Score of a real clip at its truth's resolution, the track, and a strip of overlays."""
    height, width = clip.truth.shape[1:]
    track = follow(runner, clip.frames, [prompt])
    masks = np.stack(
        [
            cv2.resize(mask[0].astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA)
            for mask in track.masks
        ]
    ).astype(bool)
    small = [cv2.resize(frame, (width, height)) for frame in clip.frames]
    strip = overlay_strip(small, masks, clip.truth)
    return (
        score(masks, track.visible[:, 0], clip.truth),
        Track(masks[:, None], track.visible),
        strip,
    )


def overlay_strip(
    frames: Sequence[np.ndarray], masks: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """Evenly spaced frames side by side, 240 px wide each, masks red, truth outlined green."""
    pictures = []
    for index in np.linspace(0, len(frames) - 1, _SHOWN_FRAMES).round().astype(int):
        picture = frames[index].copy()
        red = picture[masks[index]] * 0.45 + np.array([255, 40, 40]) * 0.55
        picture[masks[index]] = red.astype(np.uint8)
        outlines, _ = cv2.findContours(
            truth[index].astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(picture, outlines, -1, (0, 255, 0), 2)
        pictures.append(cv2.resize(picture, (240, 135), interpolation=cv2.INTER_AREA))
    return np.hstack(pictures)


def summary(scores: Sequence[Score]) -> dict[str, float | int]:
    """Means over objects; delays pooled, an object never found again counts as not found."""
    delays = [delay for one in scores for delay in one.delays]
    found = [delay for delay in delays if delay is not None]
    result: dict[str, float | int] = {
        'objects': len(scores),
        'J': round(float(np.mean([one.region for one in scores])), 3),
        'F': round(float(np.mean([one.boundary for one in scores])), 3),
        'presence': round(float(np.mean([one.presence for one in scores])), 3),
    }
    if delays:
        result |= {'returns': len(delays), 'found': len(found)}
        if found:
            result |= {'delay_mean': round(float(np.mean(found)), 1), 'delay_max': max(found)}
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(
        prog='python -m export.micro.evaluate', description=__doc__.splitlines()[0]
    )
    parser.add_argument('what', type=Path, help='a checkpoint (.pt) or an engine folder')
    parser.add_argument('--scenes', type=int, default=12, help='clips per difficulty')
    parser.add_argument(
        '--first', type=int, default=0, metavar='NUMBER', help='of the first clip: %(default)s'
    )
    parser.add_argument('--frames', type=int, default=48, help='frames per clip')
    parser.add_argument('--clips', type=Path, help='folder of the real clips')
    parser.add_argument('--out', type=Path, default=Path('out/micro/evaluation'))
    options = parser.parse_args(arguments)
    if options.scenes < 1 or options.frames < 2 or options.first < 0:
        parser.error('expected --scenes 1 or more, --frames 2 or more, --first 0 or more')
    if options.clips and not any(find_clips(options.clips)):
        parser.error(f'--clips {options.clips}: no clip with its .truth.npz is there')
    try:
        with open_runner(options.what) as runner:
            _run(runner, options)
    except (Sam2RtError, OSError) as error:
        print(f'export.micro.evaluate: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nexport.micro.evaluate: stopped', file=sys.stderr)
        return 130
    return 0


def _run(runner: Runner, options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    strips = []
    scenes = range(options.first, options.first + options.scenes)

    def note(name: str, numbers: dict, strip: np.ndarray) -> None:
        results[name] = numbers
        print(
            f'{name:24}', ' '.join(f'{key} {value}' for key, value in numbers.items()), flush=True
        )
        cv2.putText(strip, name, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 0), 1)
        strips.append(strip)

    for difficulty in DIFFICULTIES:
        kinds = ('box', 'click') if difficulty == 'plain' else ('box',)
        for kind in kinds:
            scores, strip = measure_scenes(runner, difficulty, scenes, options.frames, kind)
            if strip is None:
                print(f'{difficulty}: nothing large enough to prompt; ask for more --scenes')
                continue
            note(f'{difficulty}, {kind}', summary(scores), strip)
    for clip in find_clips(options.clips):
        for kind, prompt in clip.prompts.items():
            one, track, strip = measure_real(runner, clip, prompt)
            numbers = summary([one])
            if not clip.truth.any((1, 2)).all():
                numbers |= hidden_report(track.masks[:, 0], track.visible[:, 0], clip.truth)
            note(f'{clip.name}, {kind}', numbers, strip)
    if strips:
        _, packed = cv2.imencode('.png', np.vstack(strips)[..., ::-1])
        (options.out / 'overlays.png').write_bytes(packed.tobytes())
    (options.out / 'scores.json').write_text(json.dumps(results, indent=1) + '\n')
    print(f'scores and overlays in {options.out}')


if __name__ == '__main__':
    sys.exit(main())
