"""Sets where the object score is zero: the last step after training.

    python -m export.micro.calibrate out/micro/micro.pt --out out/micro/calibrated.pt

A short training ranks hidden below visible before it knows where to draw the line. This tracks
through scenes kept for the purpose (neither trained on nor used by `evaluate`), finds the
threshold that says visible and hidden rightly most often, both kinds weighing the same, and moves
it into the bias of the score head. Twice, because what counts as visible changes what is
remembered.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from export.micro.evaluate import open_runner, prompt_from
from export.micro.scenes import generate
from sam2_rt.config import TrackerConfig
from sam2_rt.runtime.base import Runner
from sam2_rt.tracker import Tracker
from sam2_rt.types import Frame

KEPT_SEEDS = 2**40  # training draws smaller ones, evaluation larger ones
BIAS = 'sam_mask_decoder.pred_obj_score_head.layers.2.bias'
_DIFFICULTIES = ('occlusion', 'exit_return')
_LENGTH, _SIZE, _CLEAR_SHARE = 24, 256, 0.25


def object_scores(runner: Runner, scenes: int) -> tuple[np.ndarray, np.ndarray]:
    """Object scores on frames where the object is clearly visible, and where it is hidden."""
    visible, hidden = [], []
    for number in range(scenes):
        for difficulty in _DIFFICULTIES:
            clip = generate(KEPT_SEEDS + number, difficulty, _LENGTH, _SIZE, _SIZE)
            truth = clip.masks[:, 0]
            first = np.count_nonzero(truth[0])
            if not first:
                continue
            tracker = Tracker(runner, TrackerConfig(held_frames=1))
            tracker.step(Frame(clip.frames[0], 0))
            tracker.add_prompt(prompt_from(truth[0], 'box'))
            for index in range(1, _LENGTH):
                result = tracker.step(Frame(clip.frames[index], index * 33_333_333))
                area = np.count_nonzero(truth[index])
                if not area:
                    hidden.append(result.objects[0].object_score)
                elif area >= _CLEAR_SHARE * first:
                    visible.append(result.objects[0].object_score)
    return np.array(visible), np.array(hidden)


def best_threshold(visible: np.ndarray, hidden: np.ndarray) -> tuple[float, float]:
    """The threshold with the best mean of the two rates, and that mean."""
    candidates = np.quantile(np.concatenate([visible, hidden]), np.linspace(0, 1, 201))
    right = [((visible > c).mean() + (hidden <= c).mean()) / 2 for c in candidates]
    best = int(np.argmax(right))
    return float(candidates[best]), float(right[best])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--scenes', type=int, default=12, help='per difficulty')
    arguments = parser.parse_args()

    content = torch.load(arguments.checkpoint, map_location='cpu', weights_only=True)
    torch.save(content, arguments.out)
    for _ in range(2):
        with open_runner(arguments.out) as runner:
            visible, hidden = object_scores(runner, arguments.scenes)
        threshold, right = best_threshold(visible, hidden)
        print(f'threshold {threshold:+.2f}: right on {right:.1%} (visible and hidden alike)')
        content['model'][BIAS] = content['model'][BIAS] - threshold
        torch.save(content, arguments.out)


if __name__ == '__main__':
    main()
