"""`sam2_rt bench`: how fast an engine tracks on this machine, stage by stage."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sam2_rt import __version__
from sam2_rt.cli import engine
from sam2_rt.cli.files import require_writable, write_bytes
from sam2_rt.cli.progress import Progress, interruptible
from sam2_rt.cli.table import table
from sam2_rt.config import TrackerConfig
from sam2_rt.errors import ConfigError, SourceError
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.cpu import cpu_name, usable_cores
from sam2_rt.sources import Paced, Source, open_source
from sam2_rt.timing import Percentiles, Rolling
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt, Frame

DESCRIPTION = """\
Measures how fast an engine tracks on this machine.

Frames are held in memory, so that no decoding is measured, and repeated as often as needed. Boxes
are tracked from a grid over the first frame: what they hold does not matter to the times. The
first --warm-up frames, with the prompts, are run but not counted.

Without --rate every frame is tracked, back to back: the fps are what the machine can do. With
--rate frames come like a camera's and the newest one wins: drops are counted, and `age` is the
time from a frame's capture to its result."""

EXAMPLES = """\
examples:
  sam2_rt bench
  sam2_rt bench --engine engines/sam2.1_hiera_tiny_512 --objects 3 --json bench.json
  sam2_rt bench --source cups.mp4 --rate 30"""

_HELD_FRAMES = 60


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        'bench',
        help='measure how fast an engine tracks here',
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    engine.add_options(parser)
    group = parser.add_argument_group('measurement')
    group.add_argument(
        '--source', metavar='FILE', help='video or folder of images (default: a made-up 1280x720)'
    )
    group.add_argument('--objects', type=int, default=1, metavar='N', help='default: %(default)s')
    group.add_argument('--frames', type=int, default=100, metavar='N', help='default: %(default)s')
    group.add_argument('--warm-up', type=int, default=20, metavar='N', help='default: %(default)s')
    group.add_argument('--rate', type=float, metavar='HZ', help='let frames come at this rate')
    group.add_argument('--json', type=Path, metavar='FILE', help='write the figures as JSON too')


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    for name, least in (('objects', 1), ('frames', 1), ('warm_up', 1)):
        if getattr(args, name) < least:
            option = name.replace('_', '-')
            raise ConfigError(f'--{option}: expected {least} or more, got {getattr(args, name)}')
    if args.rate is not None and not 0.1 <= args.rate <= 1000:
        raise ConfigError(f'--rate: expected 0.1 to 1000 frames per second, got {args.rate:g}')
    if args.json is not None:
        require_writable(args.json)
    images = _load(args.source) if args.source else _made_up()
    with engine.open_engine(args) as runner:
        tracker = Tracker(runner, TrackerConfig(max_objects=args.objects))
        figures = _measure(tracker, images, args)
        report = {**_machine(runner), **_settings(args, images), **figures}
    print(_as_text(report))
    if args.json is not None:
        write_bytes(args.json, (json.dumps(report, indent=1) + '\n').encode())
    return 0


class _Repeated(Source):
    """Images over and over, at a steady rate."""

    def __init__(self, images: list[Frame], count: int, fps: float) -> None:
        super().__init__('benchmark', fps)
        self.frame_count = count
        self._images = images

    def _frames(self) -> Iterator[Frame]:
        for index, frame in enumerate(islice(cycle(self._images), self.frame_count)):
            yield Frame(frame.image, round(index * 1e9 / self.fps), frame.colour_order)


def _measure(tracker: Tracker, images: list[Frame], args: argparse.Namespace) -> dict[str, Any]:
    total = args.warm_up + args.frames
    # Live, frames are dropped: then there must be more of them than are tracked.
    source: Source = _Repeated(images, total if args.rate is None else 10**9, args.rate or 30.0)
    if args.rate is not None:
        source = Paced(source)
    stages: dict[str, Rolling] = {}
    frame_seconds: list[float] = []
    progress = Progress(total)
    tracker.warm_up()
    counted = 0
    with source, interruptible(source):
        frames = iter(source)
        for done, frame in enumerate(islice(frames, args.warm_up)):
            tracker.step(frame)
            if done == 0:
                for box in _grid(args.objects, frame):
                    tracker.add_prompt(BoxPrompt(box))
            progress.update(done)
        dropped_before, resident_before = source.dropped, _resident_bytes()
        start_s = end_s = time.perf_counter()
        for frame in islice(frames, args.frames):
            began_s = time.perf_counter()
            result = tracker.step(frame)
            end_s = time.perf_counter()
            seconds = {**result.stage_seconds, 'frame': end_s - began_s}
            if source.live:
                seconds['age'] = (time.time_ns() - frame.stamp_ns) / 1e9
            for name, value in seconds.items():
                stages.setdefault(name, Rolling(args.frames)).add(value)
            frame_seconds.append(seconds['frame'])
            counted += 1
            progress.update(args.warm_up + counted)
    progress.close()
    if not counted:
        raise KeyboardInterrupt  # nothing to report
    return {
        'frames': counted,
        'fps': round(counted / (end_s - start_s), 2),
        'dropped': source.dropped - dropped_before,
        'drift': round(_drift(frame_seconds), 3),
        'milliseconds': {name: _milliseconds(each) for name, each in stages.items()},
        'memory_bytes': {
            'resident': _resident_bytes(),
            'growth': _resident_bytes() - resident_before,
            'tracker': tracker.memory_bytes,
        },
    }


def _drift(seconds: list[float]) -> float:
    """Median frame time of the last tenth over that of the first: 1 where nothing builds up."""
    tenth = max(1, len(seconds) // 10)
    return float(np.median(seconds[-tenth:]) / np.median(seconds[:tenth]))


def _made_up(width: int = 1280, height: int = 720) -> list[Frame]:
    """Coloured discs that move over noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    ground = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    frames = []
    for index in range(_HELD_FRAMES):
        image = ground.copy()
        turn = 2 * np.pi * index / _HELD_FRAMES
        for k, colour in enumerate(((220, 60, 40), (40, 160, 220), (240, 200, 40))):
            x = width * (0.5 + 0.3 * np.cos(turn + 2.1 * k))
            y = height * (0.5 + 0.3 * np.sin(turn + 2.1 * k))
            cv2.circle(image, (round(x), round(y)), height // 9, colour, cv2.FILLED)
        frames.append(Frame(np.asarray(image, np.uint8), 0))
    return frames


def _load(source: str) -> list[Frame]:
    with open_source(source) as opened:
        if opened.live:
            raise SourceError(f'--source: expected a video or a folder, got the camera {source}')
        return list(islice(opened, _HELD_FRAMES))


def _grid(count: int, frame: Frame) -> list[tuple[float, float, float, float]]:
    """Boxes side by side, as many as asked for."""
    columns = int(np.ceil(np.sqrt(count)))
    width, height = frame.width / columns, frame.height / columns
    cells = [(k % columns * width, k // columns * height) for k in range(count)]
    return [(x + width / 4, y + height / 4, x + width * 0.75, y + height * 0.75) for x, y in cells]


def _machine(runner: Runner) -> dict[str, Any]:
    info, manifest = runner.info, runner.manifest
    return {
        'engine': manifest.folder.name,
        'variant': manifest.variant,
        'image_size': manifest.image_size,
        'backend': info.backend,
        'precision': info.precision,
        'device': info.device,
        'cpu': cpu_name(),
        'cores': usable_cores(),
        'versions': {
            'sam2_rt': __version__,
            info.backend: info.version,
            'numpy': np.__version__,
            'opencv': cv2.__version__,
            'python': platform.python_version(),
        },
    }


def _settings(args: argparse.Namespace, images: list[Frame]) -> dict[str, Any]:
    return {
        'objects': args.objects,
        'source': args.source or 'made up',
        'frame_size': [images[0].height, images[0].width],
        'rate': args.rate,
        'warm_up': args.warm_up,
    }


def _milliseconds(values: Rolling) -> dict[str, float]:
    summary = values.summary() or Percentiles(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    names = ('mean', 'p50', 'p95', 'p99', 'longest')
    return {name: round(1e3 * getattr(summary, name), 3) for name in names}


def _resident_bytes() -> int:
    """Of this process, now; 0 where the system does not tell."""
    status = Path('/proc/self/status')
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith('VmRSS:')), 0)


def _as_text(report: dict[str, Any]) -> str:
    height, width = report['frame_size']
    memory = {name: f'{value / 1e6:.0f} MB' for name, value in report['memory_bytes'].items()}
    versions = ', '.join(f'{name} {version}' for name, version in report['versions'].items())
    objects = f'{report["objects"]} object' + 's' * (report['objects'] != 1)
    came = 'back to back' if report['rate'] is None else f'at {report["rate"]:g} per second'
    rows = [('milliseconds', 'p50', 'p95', 'p99', 'longest', 'mean')]
    rows += [
        (name, *(f'{ms[key]:.2f}' for key in ('p50', 'p95', 'p99', 'longest', 'mean')))
        for name, ms in report['milliseconds'].items()
    ]
    return '\n'.join(
        [
            f'{report["engine"]} ({report["variant"]}, {report["image_size"]} pixels) on '
            f'{report["backend"]} {report["precision"]}, {report["device"]}',
            f'{report["cpu"]}, {report["cores"]} cores; {versions}',
            f'{report["frames"]} frames of {width}x{height} ({report["source"]}), {objects}, '
            f'{came}, after {report["warm_up"]} of warm-up',
            '',
            table(rows),
            '',
            f'{report["fps"]:.1f} fps, {report["dropped"]} dropped; the last tenth of the frames '
            f'took {report["drift"]:.2f} times as long as the first',
            f'memory: {memory["resident"]} in all, {memory["growth"]} growth while measuring, '
            f'{memory["tracker"]} reserved by the tracker',
        ]
    )
