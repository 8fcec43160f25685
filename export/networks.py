"""Networks with weights: from a checkpoint, or random from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from export.checkpoint import guess_variant, load, read_checkpoint
from export.errors import ExportError
from export.model import SAM2, VARIANTS, build
from export.model.memory_tokens import RECENT_POINTERS, RECENT_SLOTS
from sam2_rt.runtime.manifest import MemorySpec, sha256

RANDOM_WEIGHTS = 'random_weights'
"""Key of a manifest's `source` that holds the seed of random weights."""


@dataclass(frozen=True)
class Network:
    """A network and where its weights came from.

    Attributes:
        variant: its name.
        model: the network, in evaluation mode.
        source: for a manifest: checkpoint file name and SHA-256, or the seed of random weights.
    """

    variant: str
    model: SAM2
    source: Mapping[str, str]

    @property
    def trained(self) -> bool:
        return RANDOM_WEIGHTS not in self.source

    @property
    def memory(self) -> MemorySpec:
        """The memory bank that the network is to be run with."""
        config = self.model.config
        return MemorySpec(
            conditioning_slots=self.model.memory_slots - RECENT_SLOTS,
            recent_slots=RECENT_SLOTS,
            recent_pointers=RECENT_POINTERS,
            memory_dim=config.mem_dim,
            hidden_dim=config.hidden_dim,
            remember_above=config.remember_above,
        )


def from_checkpoint(
    path: Path, image_size: int, conditioning_slots: int, variant: str | None = None
) -> Network:
    """Builds the network of a checkpoint.

    Args:
        path: see read_checkpoint.
        image_size: S.
        conditioning_slots: C.
        variant: a known one; None: the one whose parameters fit.

    Raises:
        CheckpointError: the file cannot be read or does not fit the variant.
        ExportError: no such variant or image size, or no variant fits.
    """
    state = read_checkpoint(path)
    variant = variant or guess_variant(state)
    if variant is None:
        raise ExportError(
            f'{path}: its parameters fit no known variant; give --variant to see how they differ '
            f'from one of: {", ".join(VARIANTS)}'
        )
    model = _build(variant, image_size, conditioning_slots)
    load(model, state, source=str(path))
    file = path / 'model.safetensors' if path.is_dir() else path
    return Network(variant, model.eval(), {'checkpoint': file.name, 'sha256': sha256(file)})


def with_random_weights(
    variant: str, image_size: int, conditioning_slots: int, seed: int
) -> Network:
    """Builds a network whose masks mean nothing, for tests and timing.

    Its objects always count as present, because an absent one has no mask to compare.

    Raises:
        ExportError: no such variant or image size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(variant, image_size, conditioning_slots)
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += 5.0
    return Network(variant, model.eval(), {RANDOM_WEIGHTS: str(seed)})


def _build(variant: str, image_size: int, conditioning_slots: int) -> SAM2:
    try:
        return build(variant, image_size, conditioning_slots)
    except ValueError as error:
        raise ExportError(str(error)) from error
