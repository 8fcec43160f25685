"""`make demo`: the bundled engine follows an object that leaves the image and comes back.

The clip is one of the scene generator's, with a seed that nothing was trained on. Where a ROS 2 is
sourced or can be downloaded the demo runs as a graph of processes (demo_graph.py), else with the
command line in one process; it says which. Writes an overlay video, one JSON line per frame and a
latency report.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from export.micro.scenes import generate  # noqa: E402
from tests.ros import environment  # noqa: E402

ENGINE = REPOSITORY / 'engines' / 'micro'
SEED = 2**41  # training seeds lie far below
SIZE = (640, 360)
FRAMES = 90
CLICK = (90, 220)


def write_clip(path: Path) -> None:
    """An object that moves among others, leaves the image and comes back."""
    width, height = SIZE
    clip = generate(SEED, 'exit_return', FRAMES, height, width)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 30, SIZE)
    for frame in clip.frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


def sam2_rt(*words: str | Path) -> int:
    """Runs the command line and shows what it runs."""
    command = ['sam2_rt', *map(str, words)]
    print('$', ' '.join(command), flush=True)
    return subprocess.run([sys.executable, '-m', *command], check=False).returncode


def main() -> int:
    """Makes the clip, and tracks in it: as a ROS 2 graph if possible, else in one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('out/demo'))
    parser.add_argument('--no-ros', action='store_true', help='in one process in any case')
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    clip, point = out / 'clip.mp4', '{},{}'.format(*CLICK)
    write_clip(clip)
    reason = 'as asked' if args.no_ros else environment.prepare()
    if reason:
        print(f'In one process, without ROS 2: {reason}.')
        results = ('--save', out / 'overlay.mp4', '--json', out / 'objects.jsonl')
        status = sam2_rt('track', clip, '--engine', ENGINE, '--point', point, *results)
        latency = out / 'latency.json'
        return status or sam2_rt('bench', '--engine', ENGINE, '--source', clip, '--json', latency)
    distro = environment.sourced()
    print(
        f'As a ROS 2 graph ({distro or "downloaded Jazzy"}): camera, tracker, recorder.',
        flush=True,
    )
    variables = None if distro else environment.variables('jazzy', environment.CYCLONE)
    graph = [sys.executable, str(REPOSITORY / '.ci' / 'demo_graph.py'), str(clip)]
    graph += ['--engine', str(ENGINE), '--point', point, '--out', str(out)]
    return subprocess.run(graph, env=variables, check=False).returncode


if __name__ == '__main__':
    sys.exit(main())
