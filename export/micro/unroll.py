"""One training step's forward pass: prompt the first frame, track the rest, add up the losses.

As inference does it, through the same pieces of the network, except that early in training the
memory may be written from the true mask ('teacher forcing'), so that reading the memory can be
learned before the masks are any good.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from export.micro.losses import frame_loss
from export.micro.prompts import PADDING, box_prompt, click_prompt, corrective_click
from export.micro.samples import PRESENT, UNSURE, Batch
from export.model.mask_decoder import Candidates, best_multimask, pick
from export.model.sam2 import (
    NO_OBJECT_LOGIT,
    PREVIOUS_LOGITS_LIMIT,
    RECENT_POINTERS,
    RECENT_SLOTS,
    SAM2,
)

_SURE_LOGIT = 10.0  # of a true mask, where it stands in for a predicted one
_LONGEST_GAP = 400  # frames that may lie between the prompt and the frames that are trained on


# Frame number, features (N, Dm, E, E), pointers (N, D), and for which of the N it counts (N,).
_Entry = tuple[int, Tensor, Tensor, Tensor]


def _ages(entries: list[_Entry], now: int) -> list[Tensor]:
    """int32 (N,) for each entry: its age, -1 for the objects that it does not count for."""
    return [
        torch.where(counts, now - frame, -1).to(torch.int32) for frame, _, _, counts in entries
    ]


@dataclass
class _Memory:
    """What N objects remember, of prompted and of tracked frames."""

    gap: int
    conditioning: list[_Entry] = field(default_factory=list)
    recent: list[_Entry] = field(default_factory=list)

    def inputs(self, now: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Memory arguments of `SAM2.condition_on_memory` for frame `now`, filled slots only."""
        recent = [entry for entry in self.recent if now - entry[0] <= RECENT_SLOTS]
        pointing = [entry for entry in self.recent if now - entry[0] <= RECENT_POINTERS]
        maps = [features for _, features, _, _ in self.conditioning + recent]
        pointers = [pointer for _, _, pointer, _ in self.conditioning + pointing]
        ages = _ages(self.conditioning, now)
        map_times = torch.stack([torch.zeros_like(age) for age in ages] + _ages(recent, now), 1)
        pointer_times = torch.stack([age + self.gap for age in ages] + _ages(pointing, now), 1)
        return torch.stack(maps, 1), map_times, torch.stack(pointers, 1), pointer_times


@dataclass(frozen=True)
class Teaching:
    """How a step is taught.

    Attributes:
        balance: See `losses.mask_loss`.
        forcing: Chance that a frame's memory is written from the true mask.
        box_share: Chance that the first frame is prompted with boxes.
        mask_share: Chance that it is prompted with masks; clicks take the rest.
        correct_share: Chance of a corrective click on one frame of the clip.
        again_share: Chance that a tracked frame is also prompted afresh, as if it were the first:
            its features are there already, and prompts are what a short training lacks most.
        lead: Frames after the first that are tracked without being taught. They bring the network
            into states that only a long clip has, its own mistakes among them, at a third of the
            cost.
        remember_above: Object score above which a tracked frame is remembered, see `MemorySpec`.
    """

    balance: float
    forcing: float
    box_share: float = 0.45
    mask_share: float = 0.2
    correct_share: float = 0.3
    again_share: float = 0.5
    lead: int = 0
    remember_above: float = -math.inf


def clip_loss(
    model: SAM2, batch: Batch, teaching: Teaching, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss over a batch's frames, and its parts by name, averaged, for the log."""
    length = batch.frames.shape[1]
    led = list(range(1, 1 + teaching.lead))
    taught = [0, *range(1 + teaching.lead, length)]
    levels = dict(zip(taught, _embed(model, batch.frames[:, taught]), strict=True))
    if led:
        with torch.no_grad():
            levels |= dict(zip(led, _embed(model, batch.frames[:, led]), strict=True))
    gap = int(np.exp(rng.uniform(0, np.log(_LONGEST_GAP)))) if rng.random() < 0.5 else 0
    memory = _Memory(gap)
    corrected = taught[rng.integers(len(taught))] if rng.random() < teaching.correct_share else -1

    losses: list[Tensor] = []
    log = defaultdict(list)
    for frame in range(length):
        features = [level[batch.clip_index] for level in levels[frame]]
        target, presence = batch.targets[:, frame], batch.presence[:, frame]
        if frame in led:
            with torch.no_grad():
                conditioned = model.condition_on_memory(features[0], *memory.inputs(frame))
                answer = _decode(model, conditioned, features, None)
                *entry, score = _remember(model, features[0], *answer, None, presence, False)
            memory.recent.append((frame, *entry, score > teaching.remember_above))
            continue

        def judge(candidates: Candidates, name: str, presence: Tensor = presence) -> None:
            loss, parts = frame_loss(candidates, target, presence, teaching.balance)  # noqa: B023
            losses.append(loss)
            for part, value in parts.items():
                log[f'{name}.{part}'].append(float(value))

        if frame == 0:
            kind = rng.random()
            if kind < teaching.mask_share and length > 1:
                given = model.prompt_mask(*features, batch.first_masks.byte())
                known = torch.ones(len(target), dtype=torch.bool)
                memory.conditioning.append(
                    (0, given.new_memory_features, given.object_pointer, known)
                )
                continue
            boxed = kind < teaching.mask_share + teaching.box_share
            points = _prompts(batch.first_masks.numpy(), boxed, rng)
            conditioned = model.without_memory(features[0])
            name = 'box' if boxed else 'click'
        else:
            points = None
            conditioned = model.condition_on_memory(features[0], *memory.inputs(frame))
            name = 'track'
            if rng.random() < teaching.again_share:
                boxed = rng.random() < 0.6
                fresh = _prompts((target > 0.5).numpy(), boxed, rng, model.image_size)
                known = torch.where(fresh[1][:, 0] >= 0, presence, UNSURE)
                answer, _, _ = _decode(model, model.without_memory(features[0]), features, fresh)
                judge(answer, 'box' if boxed else 'click', known)
        candidates, mask_index, token_index = _decode(model, conditioned, features, points)
        judge(candidates, name)

        if frame == corrected:
            previous = pick(candidates.masks, mask_index).detach()
            points = _corrections(previous, target, model.image_size)
            candidates, mask_index, token_index = _decode(
                model, conditioned, features, points, previous
            )
            judge(candidates, 'fixed')
        if length > 1:
            forced = rng.random() < teaching.forcing
            *entry, score = _remember(
                model, features[0], candidates, mask_index, token_index,
                F.avg_pool2d(target, 2) if forced else None, presence, points is not None,
            )  # fmt: skip
            prompted = frame == 0 or points is not None
            if prompted:
                memory.conditioning.append(
                    (frame, *entry, torch.ones_like(score, dtype=torch.bool))
                )
            else:
                memory.recent.append((frame, *entry, score > teaching.remember_above))
    return torch.stack(losses).mean(), {name: float(np.mean(v)) for name, v in log.items()}


def _embed(model: SAM2, frames: Tensor) -> list[list[Tensor]]:
    """uint8 frames (B, T, S, S, 3) -> for each of the T, three levels (B, C, H, W)."""
    clips, length = frames.shape[:2]
    images = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    images = ((images - model.image_mean) / model.image_std).contiguous(
        memory_format=torch.channels_last
    )
    levels = [x.unflatten(0, (clips, length)) for x in model.embed_image(images)]
    return [[level[:, frame] for level in levels] for frame in range(length)]


def _decode(
    model: SAM2,
    conditioned: Tensor,
    features: list[Tensor],
    points: tuple[Tensor, Tensor] | None,
    previous: Tensor | None = None,
) -> tuple[Candidates, Tensor, Tensor]:
    """Candidates, and which of them is the mask and which the pointer, as the stages choose."""
    prompts = model.sam_prompt_encoder
    sparse = prompts.no_points() if points is None else prompts.points(*points)
    dense = (
        prompts.no_mask()
        if previous is None
        else prompts.mask(previous.clamp(-PREVIOUS_LOGITS_LIMIT, PREVIOUS_LOGITS_LIMIT)[:, None])
    )
    candidates = model.decode_masks(conditioned, features[1], features[2], sparse, dense)
    if points is None:
        best = best_multimask(candidates)
        return candidates, best, best
    return candidates, *model.choose(candidates, (points[1] >= 0).sum(dim=1))


def _remember(
    model: SAM2,
    image_embedding: Tensor,
    candidates: Candidates,
    mask_index: Tensor,
    token_index: Tensor,
    true_mask: Tensor | None,
    presence: Tensor,
    prompted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Memory features, pointer, object score of a frame: of the answer or, if given, the truth."""
    if true_mask is None:
        score = candidates.object_score_logits
        masks = pick(candidates.masks, mask_index)
    else:
        score = torch.where(presence == PRESENT, _SURE_LOGIT, -_SURE_LOGIT)
        masks = (2 * true_mask - 1) * _SURE_LOGIT
    present = score > 0
    masks = torch.where(present[:, None, None], masks, NO_OBJECT_LOGIT)
    pointer = model.object_pointer(pick(candidates.tokens, token_index), present)
    return model.encode_memory(image_embedding, masks, score, prompted), pointer, score


def _prompts(
    masks: np.ndarray, boxed: bool, rng: np.random.Generator, image_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Boxes or clicks for masks (N, h, w) of an image of that size; padding for an empty mask."""
    scale = image_size / masks.shape[-1] if image_size else 1
    nothing = np.zeros((2, 2), np.float32), np.full(2, PADDING, np.int32)
    draw = box_prompt if boxed else click_prompt
    coords, labels = _stack([draw(mask, rng) if mask.any() else nothing for mask in masks])
    return coords * scale, labels


def _corrections(previous: Tensor, target: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
    size = target.shape[-2:]
    previous = F.interpolate(previous[:, None], size=size, mode='bilinear', align_corners=False)
    predicted, truth = (previous[:, 0] > 0).numpy(), (target > 0.5).numpy()
    scale = image_size / predicted.shape[-1]
    return _stack([corrective_click(p, t, scale) for p, t in zip(predicted, truth, strict=True)])


def _stack(given: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    coords, labels = zip(*given, strict=True)
    return torch.from_numpy(np.stack(coords)), torch.from_numpy(np.stack(labels))
