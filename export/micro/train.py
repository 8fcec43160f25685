"""Trains `micro` from nothing: generated stills first, then generated clips, in seven cycles.

    python -m export.micro.train --out out/micro

Interrupted, the same command goes on from the last checkpoint. `out/micro/micro.pt` is the result
in Meta's layout, the averaged weights; `progress.jsonl` is the log, `progress.png` its curves.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.micro.curriculum import (
    IMAGE_SIZE,
    Cycle,
    Phase,
    curriculum,
    cycle_at,
    learning_rate,
    phase_at,
    steps_of,
)
from export.micro.curves import draw_curves
from export.micro.initialise import initialise
from export.micro.muon import Muon, hidden_matrices
from export.micro.parallel import average_gradients, launch
from export.micro.samples import Batch, Samples, collate
from export.micro.unroll import Teaching, clip_loss
from export.model import SAM2
from export.model.variants import MICRO

GRADIENT_LIMIT = 2.0
WEIGHT_DECAY = 0.02
LOG_EVERY, SAVE_EVERY = 25, 100


class Average:
    """Exponential moving average of a network's state, quick at first, slow later."""

    def __init__(self, model: SAM2) -> None:
        self.state = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: SAM2, step: int) -> None:
        """Moves towards the model: a window of a tenth of the run so far, at most 1000 steps."""
        keep = min(0.999, 1 - 10 / (step + 20))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - keep)
            else:
                self.state[name].copy_(value)


class Trainer:
    """Network, optimisers, averages and step count: all that a checkpoint holds.

    Args:
        out: Folder of the run.
        peak: Highest learning rate.
        seed: Of the weights and of all that is shown.
        rank: Of this process, see `parallel`; each sees scenes of its own.
    """

    def __init__(self, out: Path, peak: float, seed: int, rank: int = 0) -> None:
        torch.manual_seed(seed)
        self.out, self.peak, self.seed, self.rank, self.step = out, peak, seed, rank, 0
        self.model = SAM2(MICRO, IMAGE_SIZE, conditioning_slots=1)
        initialise(self.model)
        self.average = Average(self.model)
        self.last_cycle: dict[str, Tensor] = {}
        self._assemble(IMAGE_SIZE)

    def _assemble(self, image_size: int) -> None:
        """Network for a size, with the present weights, and fresh optimisers."""
        weights = self.model.state_dict()
        self.model = SAM2(MICRO, image_size, conditioning_slots=1)
        self.model.load_state_dict(weights)
        self.model = self.model.to(memory_format=torch.channels_last).train()
        matrices = hidden_matrices(self.model)
        theirs = set(matrices)
        others = [p for p in self.model.parameters() if p not in theirs]
        groups = [
            {'params': [p for p in others if p.ndim > 1], 'weight_decay': WEIGHT_DECAY},
            {'params': [p for p in others if p.ndim <= 1], 'weight_decay': 0.0},
        ]
        self.optimisers = (
            Muon(matrices, self.peak, WEIGHT_DECAY),
            torch.optim.AdamW(groups, self.peak, betas=(0.9, 0.98), fused=True),
        )

    def resize(self, image_size: int) -> None:
        """Goes on with images of another size; weights do not depend on it."""
        if image_size != self.model.image_size:
            states = [optimiser.state_dict() for optimiser in self.optimisers]
            self._assemble(image_size)
            self._restore(states)

    def _restore(self, states: Sequence[dict[str, Any]]) -> None:
        for optimiser, state in zip(self.optimisers, states, strict=True):
            optimiser.load_state_dict(state)

    @property
    def checkpoint(self) -> Path:
        return self.out / 'checkpoint.pt'

    def save(self) -> None:
        """Writes the checkpoint and the result, whole or not at all."""
        state = {
            'step': self.step,
            'model': self.model.state_dict(),
            'optimisers': [optimiser.state_dict() for optimiser in self.optimisers],
            'average': self.average.state,
            'last_cycle': self.last_cycle,
        }
        _write(self.checkpoint, state)
        _write(self.out / 'micro.pt', {'model': self.average.state})

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint; ValueError for one of another version."""
        state = torch.load(path, map_location='cpu', weights_only=True)
        if not {'optimisers', 'last_cycle'} <= state.keys():
            raise ValueError(
                f'{path} is a checkpoint of another version of this training, with the entries '
                f'{", ".join(state)}: go on from it with that version, or choose another --out'
            )
        self.step = state['step']
        self.model.load_state_dict(state['model'])
        self._restore(state['optimisers'])
        self.average.state = state['average']
        self.last_cycle = state['last_cycle']

    @torch.no_grad()
    def end_cycle(self, merge: float) -> None:
        """Keeps the averaged weights of a cycle's end.

        Args:
            merge: Share that the weights which the cycle before ended with then have in them, for
                what each of the two does better (Wortsman et al., 'Model soups', 2022). The
                network goes on from the mixture.
        """
        state = self.average.state
        if merge:
            for name, value in self.last_cycle.items():
                if value.is_floating_point():
                    state[name].lerp_(value, merge)
            self.model.load_state_dict(state)
        self.last_cycle = {name: value.clone() for name, value in state.items()}

    def learn(self, batch: Batch, teaching: Teaching, rate: float) -> dict[str, float]:
        """One optimiser step."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group['lr'] = rate
        rng = np.random.default_rng((self.seed, self.step, self.rank))
        loss, log = clip_loss(self.model, batch, teaching, rng)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f'the loss is {loss.item()} at step {self.step}: lower --rate and run again, '
                f'which goes on from {self.checkpoint}'
            )
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.model)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_LIMIT)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        self.average.update(self.model, self.step)
        return {'loss': float(loss.detach()), 'gradient': float(norm), **log}


def _write(path: Path, content: dict[str, Any]) -> None:
    torch.save(content, path.with_suffix('.part'))
    os.replace(path.with_suffix('.part'), path)


def stream(phase: Phase, seed: tuple[int, ...]) -> Iterator[Batch]:
    """Endless batches of a phase."""
    samples = iter(Samples(phase.recipe, seed))
    while True:
        yield collate(list(itertools.islice(samples, phase.clips)))


def train(trainer: Trainer, cycles: tuple[Cycle, ...]) -> None:
    """Runs the curriculum from the trainer's step to its end; only rank 0 writes and prints."""
    total = sum(map(steps_of, cycles))
    current, batches = None, None
    log: dict[str, list[float]] = defaultdict(list)
    began = time.monotonic()
    while trainer.step < total:
        cycle, step = cycle_at(cycles, trainer.step)
        phase, done = phase_at(cycle, step)
        if batches is None or phase is not current:
            current = phase
            trainer.resize(phase.recipe.image_size)
            batches = stream(phase, (trainer.seed, trainer.step, trainer.rank))
        # Drawn alike in all processes, which wait for each other.
        lead = int(np.random.default_rng((trainer.seed, trainer.step)).integers(phase.lead + 1))
        batch = next(batches).until(phase.recipe.length - phase.lead + lead)
        teaching = Teaching(
            balance=float(np.interp(done, (0, 1), phase.balance)),
            forcing=float(np.interp(done, (0, 1), phase.forcing)),
            lead=lead,
            remember_above=phase.remember_above,
        )
        rate = learning_rate(trainer.peak * phase.rate, step, steps_of(cycle))
        for name, value in trainer.learn(batch, teaching, rate).items():
            log[name].append(value)
        if step + 1 == steps_of(cycle):
            trainer.end_cycle(phase.merge)
        if trainer.rank > 0:
            log.clear()
            continue
        if trainer.step % LOG_EVERY == 0 or trainer.step == total:
            seconds = (time.monotonic() - began) / len(log['loss'])
            began = time.monotonic()
            entry = {name: round(float(np.mean(values)), 4) for name, values in log.items()}
            log.clear()
            entry = {
                'step': trainer.step,
                'phase': phase.name,
                'seconds': round(seconds, 3),
                **entry,
            }
            with (trainer.out / 'progress.jsonl').open('a') as file:
                file.write(json.dumps(entry) + '\n')
            shown = ('loss', 'box.J', 'click.J_best', 'track.J_best', 'track.score')
            values = ' '.join(f'{name} {entry[name]:.3f}' for name in shown if name in entry)
            print(f'{phase.name} {trainer.step}/{total} {seconds:.2f} s/step {values}', flush=True)
        if trainer.step % SAVE_EVERY == 0 or trainer.step == total:
            trainer.save()
            draw_curves(trainer.out / 'progress.jsonl', trainer.out / 'progress.png')


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('out/micro'), help='folder of the run')
    parser.add_argument(
        '--share', type=float, default=1.0, help='share of the full number of steps'
    )
    parser.add_argument('--rate', type=float, default=1.5e-3, help='peak learning rate')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--processes',
        type=int,
        default=len(os.sched_getaffinity(0)),
        help='each learns from clips of its own, the gradients are averaged; '
        'the result depends on their number',
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        launch(arguments.processes, functools.partial(_work, arguments))
    except KeyboardInterrupt:
        raise SystemExit(
            'interrupted: the same command goes on from the last checkpoint'
        ) from None


def _work(arguments: argparse.Namespace, rank: int) -> None:
    trainer = Trainer(arguments.out, arguments.rate, arguments.seed, rank)
    if trainer.checkpoint.exists():
        trainer.resume(trainer.checkpoint)
        if rank == 0:
            print(f'going on from step {trainer.step}')
    train(trainer, curriculum(arguments.share))


if __name__ == '__main__':
    main()
