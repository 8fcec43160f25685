"""The curriculum of `micro`: which scenes a step shows, how it is judged, at which rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from export.micro.samples import BROAD, CLIPS, COVERED, HIDING, LIVELY, STILLS, Recipe

IMAGE_SIZE = 256
WARM_UP = 100


@dataclass(frozen=True)
class Phase:
    """A stretch of the curriculum.

    Attributes:
        name: For the log.
        steps: Optimiser steps.
        recipe: What is shown.
        clips: Clips per step and process.
        balance: `losses.mask_loss` balance at its start and end.
        forcing: `Teaching.forcing` at its start and end.
        rate: Factor of the learning rate.
        lead: Largest `Teaching.lead`, drawn anew for every step; where it is less, the clips are
            cut, so that as many frames are taught.
        remember_above: See `Teaching`.
        merge: See `train.Trainer.end_cycle`; counts where the phase is its cycle's last.
    """

    name: str
    steps: int
    recipe: Recipe
    clips: int
    balance: tuple[float, float]
    forcing: tuple[float, float] = (0.0, 0.0)
    rate: float = 1.0
    lead: int = 0
    remember_above: float = -math.inf
    merge: float = 0.0


Cycle = tuple[Phase, ...]


def curriculum(share: float = 1.0) -> tuple[Cycle, ...]:
    """Cycles of phases; with every cycle the learning rate starts again from its peak.

    The first learns to segment, from single images, then what a memory is for, from clips of 4
    frames and of 8. The second is about telling objects apart over time. The third is about those
    that are away for long, among others that look like them: most frames of its clips are only
    there to get the network into that situation. The fourth goes over all of it at a lower rate,
    remembering what the engine will, with targets that change their colours. The fifth goes back
    to single images: what limits tracking by then is the mask of the prompt itself, and a second
    of single images shows about nine times as many prompted images as one of clips. The sixth
    does so again, with a little more occlusion in its clips. The last starts from the mean of what
    the fifth and the sixth ended with and settles at a lower rate. All but that one begin with
    crops of a quarter of the area, in which objects are as large in pixels as in full views: a
    step costs a quarter, and what is learned carries over once full views follow.

    Args:
        share: Of the full number of steps, for a quick look.
    """
    crops = replace(STILLS, image_size=IMAGE_SIZE // 2, magnify=1.6)
    near = replace(CLIPS, length=4, magnify=1.3)
    pursuit = replace(CLIPS, length=6, image_size=IMAGE_SIZE // 2, magnify=1.6, mix=LIVELY)
    again = replace(CLIPS, mix=LIVELY)
    absent = replace(CLIPS, mix=HIDING, length=22, lasting=0.4, decoys=0.3)
    away = replace(absent, image_size=IMAGE_SIZE // 2, magnify=1.6)
    whole = replace(CLIPS, mix=BROAD, length=16, lasting=0.3, decoys=0.15, relit=0.4)
    covered = replace(whole, mix=COVERED)
    closer = replace(whole, length=22, image_size=IMAGE_SIZE // 2, magnify=1.6)
    united = Phase('united', 2050, whole, 2, (0.0, 0.0), lead=10, remember_above=2.0)
    cycles = (
        (
            Phase('stills', 3000, crops, 12, (1.0, 0.2)),
            Phase('short', 1600, near, 3, (0.3, 0.0), (0.6, 0.0)),
            Phase('long', 1500, CLIPS, 2, (0.0, 0.0)),
        ),
        (
            Phase('pursuit', 2600, pursuit, 6, (0.0, 0.0)),
            Phase('again', 1900, again, 2, (0.0, 0.0)),
        ),
        (
            Phase('away', 1600, away, 6, (0.0, 0.0), lead=16, remember_above=0.0),
            Phase('absent', 1100, absent, 2, (0.0, 0.0), lead=14, remember_above=0.0),
        ),
        (
            Phase('closer', 1100, closer, 6, (0.0, 0.0), rate=0.7, lead=16, remember_above=2.0),
            Phase('whole', 2200, whole, 2, (0.0, 0.0), rate=0.7, lead=10, remember_above=2.0),
        ),
        (
            Phase('prompts', 3000, crops, 12, (0.0, 0.0)),
            united,
        ),
        (
            Phase('prompts', 2500, crops, 12, (0.0, 0.0)),
            replace(united, name='covered', steps=2600, recipe=covered, merge=0.5),
        ),
        (replace(united, name='settled', steps=780, rate=0.4, merge=0.1),),
    )
    return tuple(
        tuple(replace(phase, steps=max(1, round(share * phase.steps))) for phase in cycle)
        for cycle in cycles
    )


def steps_of(cycle: Cycle) -> int:
    """Optimiser steps of all phases together."""
    return sum(phase.steps for phase in cycle)


def cycle_at(cycles: tuple[Cycle, ...], step: int) -> tuple[Cycle, int]:
    """The cycle that a step of the run is in, and the step's number within it."""
    for cycle in cycles[:-1]:
        if step < steps_of(cycle):
            return cycle, step
        step -= steps_of(cycle)
    return cycles[-1], step


def phase_at(cycle: Cycle, step: int) -> tuple[Phase, float]:
    """The phase that a cycle's step is in, and how far into it, 0..1."""
    for phase in cycle:
        if step < phase.steps:
            return phase, step / phase.steps
        step -= phase.steps
    return cycle[-1], 1.0


def learning_rate(peak: float, step: int, total: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth, over a cycle of `total` steps."""
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(total - WARM_UP, 1)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))
