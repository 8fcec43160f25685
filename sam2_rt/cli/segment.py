"""`sam2_rt segment`: one object of one image, in all the readings of an ambiguous prompt."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sam2_rt.cli import engine, prompts
from sam2_rt.cli.files import reported, require_writable, write_bytes, write_png
from sam2_rt.cli.progress import say
from sam2_rt.config import TrackerConfig
from sam2_rt.errors import OutputError, PromptError
from sam2_rt.overlay import Overlay
from sam2_rt.postprocess import tight_box
from sam2_rt.sources import read_image
from sam2_rt.tracker import Tracker
from sam2_rt.types import Candidate, Frame, PromptResult, TrackResult

DESCRIPTION = """\
Cuts an object out of an image.

A click can mean a whole, a part of it or a part of that. All three readings are written, named by
their size, each with the score that the network gives it; `chosen` is the one that tracking would
go on with. More clicks, or a box, leave less room for doubt.

  --point 400,300                     a click on the object
  --point 400,300 --background 90,80  a click on it, and one off it
  --box 100,80,300,260                a box around it: left, top, right, bottom"""

EXAMPLES = """\
examples:
  sam2_rt segment photo.jpg --point 400,300
  sam2_rt segment photo.jpg --box 100,80,300,260 --background 120,100 --out cup/

writes to the folder: chosen, whole, part and subpart as NAME.png (255 = object) and
NAME_overlay.png, and segment.json with scores, areas and boxes."""

NAMES = ('whole', 'part', 'subpart')


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        'segment',
        help='cut an object out of an image',
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument('image', type=Path, metavar='IMAGE', help='an image file')
    prompts.add_options(parser, tracking=False)
    results = parser.add_argument_group('results')
    results.add_argument(
        '--out', type=Path, metavar='DIR', help='folder for the results (default: IMAGE_segments)'
    )
    engine.add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    requests = prompts.parse_prompts(args.prompts)
    if not requests:
        raise PromptError('nothing to cut out: give --point or --box (see --help)')
    frame = read_image(args.image)
    folder = args.out or Path(f'{args.image.stem}_segments')
    if folder.exists() and not folder.is_dir():
        raise OutputError(f'{folder} is a file; give --out a folder')
    require_writable(folder)
    with engine.open_engine(args) as runner:
        tracker = Tracker(runner, TrackerConfig(max_objects=1, held_frames=1))
        result = tracker.step(frame)
        answer = tracker.add_prompt(requests[0].prompt)
        variant = runner.manifest.variant
    with reported(folder):
        folder.mkdir(exist_ok=True)
    report = {
        'image': str(args.image),
        'size': list(result.size),
        'variant': variant,
        **_write(folder, frame, result, answer),
    }
    write_bytes(folder / 'segment.json', (json.dumps(report, indent=1) + '\n').encode())
    say(f'wrote {folder}/')
    return 0


def named(candidates: list[Candidate]) -> list[tuple[str, Candidate]]:
    """Candidates as they come, with the names that their sizes give them."""
    by_size = sorted(range(len(candidates)), key=lambda k: -np.count_nonzero(candidates[k].mask))
    names = dict(zip(by_size, NAMES, strict=True))
    return [(names[index], candidate) for index, candidate in enumerate(candidates)]


def _write(
    folder: Path, frame: Frame, result: TrackResult, answer: PromptResult
) -> dict[str, Any]:
    """Writes all readings; returns what segment.json says of them, the best one first."""
    chosen = Candidate(answer.object.mask, answer.object.iou_score)
    described = []
    for name, candidate in [('chosen', chosen), *named(list(answer.candidates))]:
        box = tight_box(candidate.mask)
        drawn = replace(answer.object, object_id=name, mask=candidate.mask, box=box)
        status = f'{name}: score {candidate.iou_score:.3f}'
        overlay = Overlay().draw(frame, replace(result, objects=(drawn,)), status)
        write_png(folder / f'{name}.png', candidate.mask.astype(np.uint8) * 255)
        write_png(folder / f'{name}_overlay.png', overlay)
        area = int(np.count_nonzero(candidate.mask))
        described.append(
            {
                'name': name,
                'iou_score': round(candidate.iou_score, 5),
                'area': area,
                'box': box,
                'mask': f'{name}.png',
                'overlay': f'{name}_overlay.png',
            }
        )
        say(f'{name:8} score {candidate.iou_score:.3f}  {area} pixels  box {box or "none"}')
    presence = answer.object.presence
    return {
        'chosen': described[0],
        'candidates': described[1:],
        'probability': round(presence.probability, 5),
    }
