"""Training samples: generated stills and clips with targets, as an endless stream.

Scene n of a seed is always the same; a resumed run takes a new seed, so it never sees old scenes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from export.micro.scenes import DIFFICULTIES, Clip, generate

ABSENT, PRESENT, UNSURE = 0, 1, 2
_LEAST_PIXELS = 16  # of a target on its first frame
# Below these, of the image and of the first frame's area, whether an object counts as visible is a
# matter of taste.
_SURE_PIXELS, _SURE_SHARE = 16, 0.1


class Batch(NamedTuple):
    """B clips of T frames with N objects in all.

    Attributes:
        frames: uint8 (B, T, S, S, 3).
        clip_index: int64 (N,), the clip an object is in.
        first_masks: bool (N, S, S), the mask on frame 0, at full resolution for prompts.
        targets: Float32 (N, T, S/2, S/2), covered share of each stride-2 cell.
        presence: uint8 (N, T): ABSENT, PRESENT or UNSURE.
    """

    frames: Tensor
    clip_index: Tensor
    first_masks: Tensor
    targets: Tensor
    presence: Tensor

    def until(self, length: int) -> Batch:
        """The first frames of every clip."""
        return Batch(
            self.frames[:, :length], self.clip_index, self.first_masks,
            self.targets[:, :length], self.presence[:, :length],
        )  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What a stream of samples consists of.

    Attributes:
        length: Frames T.
        objects: Objects per clip, at most.
        mix: Shares of the scene difficulties, in the order of DIFFICULTIES.
        photo_share: See `scenes.generate`.
        repeats: Times each generated clip is shown, mirrored and recoloured differently.
        pace: Tempo, or None for a random one.
        image_size: S of the frames, pixels.
        magnify: See `scenes.generate`.
        lasting: See `scenes.generate`.
        decoys: See `scenes.generate`.
        relit: See `scenes.generate`.
    """

    length: int
    objects: int
    mix: tuple[float, ...]
    photo_share: float = 0.4
    repeats: int = 2
    pace: float | None = None
    image_size: int = 256
    magnify: float = 1.0
    lasting: float = 0.0
    decoys: float = 0.0
    relit: float = 0.0


STILLS = Recipe(length=1, objects=3, mix=(0.15, 0.1, 0.0, 0.15, 0.6), repeats=4, pace=3.0)
CLIPS = Recipe(length=8, objects=2, mix=(0.05, 0.45, 0.2, 0.15, 0.15), repeats=3)
HIDING = (0.05, 0.55, 0.25, 0.1, 0.05)  # one in which most objects are hidden for a while
BROAD = (0.15, 0.35, 0.2, 0.15, 0.15)
COVERED = (0.1, 0.4, 0.2, 0.1, 0.2)
LIVELY = (0.05, 0.35, 0.2, 0.2, 0.2)  # a mix in which objects are confused more often
_STILLS_PER_SCENE = 3


class Samples:
    """Endless (frames, first_masks, targets, presence) of one clip each, as NumPy arrays.

    Args:
        recipe: What to generate.
        seed: Of the stream.
    """

    def __init__(self, recipe: Recipe, seed: tuple[int, ...]) -> None:
        self.recipe, self.seed = recipe, seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for number in itertools.count():
            yield from self._scene(number)

    def _scene(self, number: int) -> Iterator[tuple[np.ndarray, ...]]:
        recipe, size = self.recipe, self.recipe.image_size
        rng = np.random.default_rng((*self.seed, number))
        scene = int(rng.integers(2**40))
        difficulty = str(rng.choice(DIFFICULTIES, p=recipe.mix))
        still = recipe.length == 1
        clip = generate(
            scene, difficulty, _STILLS_PER_SCENE if still else recipe.length, size, size,
            recipe.photo_share, recipe.pace, recipe.magnify, recipe.lasting, recipe.decoys,
            recipe.relit,
        )  # fmt: skip
        pieces = [clip]
        if still:
            pieces = [
                Clip(clip.frames[i : i + 1], clip.masks[i : i + 1], clip.presence[i : i + 1])
                for i in range(len(clip.frames))
            ]
        for piece in pieces * recipe.repeats:
            sample = _sample(rng, piece, recipe.objects)
            if sample is not None:
                yield sample


def _sample(rng: np.random.Generator, clip: Clip, objects: int) -> tuple[np.ndarray, ...] | None:
    """Mirrors, turns, recolours and reverses a clip, and picks its targets."""
    frames, masks = clip.frames, clip.masks.transpose(1, 0, 2, 3)
    if rng.random() < 0.5:
        frames, masks = frames[::-1], masks[:, ::-1]
    if rng.random() < 0.5:
        frames, masks = frames[:, :, ::-1], masks[..., ::-1]
    if rng.random() < 0.3:
        frames, masks = frames[:, ::-1], masks[:, :, ::-1]
    if rng.random() < 0.3:
        frames, masks = frames.transpose(0, 2, 1, 3), masks.swapaxes(2, 3)
    if rng.random() < 0.5:
        frames = frames[..., rng.permutation(3)]
    visible = np.flatnonzero(masks[:, 0].sum((1, 2)) >= _LEAST_PIXELS)
    if not len(visible):
        return None
    masks = np.ascontiguousarray(masks[rng.permutation(visible)[:objects]])
    area = masks.sum((2, 3))
    sure = np.maximum(_SURE_PIXELS, _SURE_SHARE * area[:, :1])
    presence = np.where(area >= sure, PRESENT, np.where(area > 0, UNSURE, ABSENT))
    count, length, height, width = masks.shape
    cells = masks.reshape(count, length, height // 2, 2, width // 2, 2)
    targets = cells.mean((3, 5), dtype=np.float32)
    return np.ascontiguousarray(frames), masks[:, 0], targets, presence.astype(np.uint8)


def collate(samples: list[tuple[np.ndarray, ...]]) -> Batch:
    """Stacks the clips and concatenates their objects."""
    frames, first_masks, targets, presence = zip(*samples, strict=True)
    counts = [len(masks) for masks in first_masks]
    return Batch(
        torch.from_numpy(np.stack(frames)),
        torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
        torch.from_numpy(np.concatenate(first_masks)),
        torch.from_numpy(np.concatenate(targets)),
        torch.from_numpy(np.concatenate(presence)),
    )
