"""`make demo`: track one object through a generated clip, and report the latency.

Where a ROS 2 is sourced or can be downloaded it runs as a graph of processes (demo_graph.py),
else with the command line in one process; it says which. Writes overlay.mp4 and one JSON line per
frame.
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

from tests.ros import environment  # noqa: E402

MICRO = REPOSITORY / 'engines' / 'micro'
SIZE = (640, 360)
FRAMES = 90
START = (160, 180)


def write_clip(path: Path) -> None:
    """A textured disc that drifts over a still, noisy background; width and height are SIZE."""
    random = np.random.default_rng(7)
    ground = cv2.GaussianBlur(random.integers(40, 200, (*SIZE[::-1], 3), np.uint8), (0, 0), 3)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 30, SIZE)
    for index in range(FRAMES):
        image = ground.copy()
        centre = (START[0] + 3 * index, START[1] + round(60 * np.sin(index / 12)))
        cv2.circle(image, centre, 44, (30, 60, 220), -1, cv2.LINE_AA)
        cv2.circle(image, (centre[0] - 14, centre[1] - 14), 12, (200, 220, 250), -1, cv2.LINE_AA)
        writer.write(image)
    writer.release()


def engine(out: Path) -> Path:
    """The bundled engine; where there is none, the tests' own, which shows only the plumbing."""
    if (MICRO / 'manifest.json').is_file():
        return MICRO
    print("engines/micro is not there yet: this demo uses the tests' hand-made engine, which")
    print('follows a colour. The data flow is real; masks and times say nothing about SAM 2.')
    from tests.tiny_engine import build

    return build(out / 'tiny_engine').folder


def main() -> int:
    """Makes the clip, and tracks in it: as a ROS 2 graph if possible, else in one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('out/demo'))
    parser.add_argument('--no-ros', action='store_true', help='in one process in any case')
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    clip, point = out / 'clip.mp4', '{},{}'.format(*START)
    write_clip(clip)
    prompt = [str(clip), '--engine', str(engine(out)), '--point', point]
    reason = 'as asked' if args.no_ros else environment.prepare()
    if reason:
        print(f'In one process, without ROS 2: {reason}.')
        command = [sys.executable, '-m', 'sam2_rt', 'track', *prompt]
        command += ['--save', str(out / 'overlay.mp4'), '--json', str(out / 'track.jsonl')]
        print('$ sam2_rt', ' '.join(command[3:]), flush=True)
        return subprocess.run(command, check=False).returncode
    distro = environment.sourced()
    print(
        f'As a ROS 2 graph ({distro or "downloaded Jazzy"}): camera, tracker, recorder.',
        flush=True,
    )
    variables = None if distro else environment.variables('jazzy', environment.CYCLONE)
    graph = [sys.executable, str(REPOSITORY / '.ci' / 'demo_graph.py'), *prompt, '--out', str(out)]
    return subprocess.run(graph, env=variables, check=False).returncode


if __name__ == '__main__':
    sys.exit(main())
