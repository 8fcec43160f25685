"""Reads checkpoints (Meta's .pt, Hugging Face safetensors) and loads them strictly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from export.errors import CheckpointError
from export.hugging_face import MARK, official_state
from export.model import VARIANTS, build

_SHOWN = 4  # names per kind that a report lists; the rest is counted
_ADVICE = 'download it again (python -m export.fetch) or copy it again'
# torch.load has no error of its own; these are what truncated and foreign files raise.
_UNREADABLE = (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError)

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Mismatch:
    """How a checkpoint's parameters differ from a network's; empty if they do not.

    Attributes:
        missing: names the network has and the checkpoint lacks.
        unexpected: names only the checkpoint has.
        misshapen: 'name: expected (…), got (…)' for parameters of another shape.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    def __str__(self) -> str:
        lines = []
        for kind in ('missing', 'unexpected', 'misshapen'):
            names = getattr(self, kind)
            if names:
                lines.append(f'  {len(names)} {kind}:')
                lines += [f'    {name}' for name in names[:_SHOWN]]
                if len(names) > _SHOWN:
                    lines.append(f'    … and {len(names) - _SHOWN} more')
        return '\n'.join(lines)


def compare(expected: Mapping[str, tuple[int, ...]], came: Mapping[str, Tensor]) -> Mismatch:
    """Compares a network's parameter shapes with a checkpoint's parameters."""
    return Mismatch(
        missing=tuple(name for name in expected if name not in came),
        unexpected=tuple(name for name in came if name not in expected),
        misshapen=tuple(
            f'{name}: expected {shape}, got {tuple(came[name].shape)}'
            for name, shape in expected.items()
            if name in came and tuple(came[name].shape) != shape
        ),
    )


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Reads a checkpoint's parameters under their official names, in float32.

    Args:
        path: Meta's .pt ({'model': parameters}), a Hugging Face .safetensors file, or a folder
            with a model.safetensors in it. Nothing in the file is executed.

    Raises:
        CheckpointError: no such file, truncated, or of neither kind.
    """
    path = Path(path)
    if path.is_dir():
        path = path / 'model.safetensors'
    if not path.is_file():
        raise CheckpointError(
            f'{path}: no such checkpoint; fetch one with python -m export.fetch sam2.1_hiera_tiny'
        )
    state = _read_safetensors(path) if path.suffix == '.safetensors' else _read_torch(path)
    if any(name.startswith(MARK) for name in state):
        state = official_state(state)
    return {name: tensor.float() for name, tensor in state.items()}


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f'{path}: cannot be read as a PyTorch checkpoint ({path.stat().st_size} bytes: '
            f'{reason}); it is truncated or something else; {_ADVICE}'
        ) from error
    state = content.get('model') if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        keys = list(content)[:_SHOWN] if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path}: expected {{'model': parameters}} as in Meta's checkpoints, got {keys}; save "
            "yours with torch.save({'model': network.state_dict()}, path)"
        )
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f'{path}: reading safetensors needs the safetensors package: pip install safetensors'
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f'{path}: cannot be read as safetensors ({path.stat().st_size} bytes: {error}); '
            f'it is truncated or something else; {_ADVICE}'
        ) from error


def guess_variant(state: Mapping[str, Tensor]) -> str | None:
    """The variant whose parameters have exactly these names and shapes, None if there is none."""
    for variant in VARIANTS:
        if compare(_shapes(variant), state).count == 0:
            return variant
    return None


@cache
def _shapes(variant: str) -> Shapes:
    with torch.device('meta'):  # shapes only, no memory
        network = build(variant, 256)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def load(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Loads parameters into a network, all of them or none.

    Args:
        network: any of export.model's networks.
        state: as read_checkpoint returns it.
        source: what to call the checkpoint in an error.

    Raises:
        CheckpointError: a parameter is missing, unexpected or misshapen; the message lists the
            first few of each kind and names the variant the checkpoint seems to be of.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    mismatch = compare(expected, state)
    if mismatch.count:
        raise CheckpointError(f'{source}: does not fit this network\n{mismatch}\n{_advice(state)}')
    network.load_state_dict(dict(state), strict=True)


def _advice(state: Mapping[str, Tensor]) -> str:
    variant = guess_variant(state)
    if variant:
        return f'It is a checkpoint of {variant}: use --variant {variant}.'
    if not any(name.startswith('memory_attention.') for name in state):
        return (
            'It has no memory attention: it is not a video model (Sam2VideoModel, sam2.1_hiera_…).'
        )
    differing, closest = min(
        (compare(_shapes(variant), state).count, variant) for variant in VARIANTS
    )
    return f'It is of no known variant; the closest is {closest} ({differing} parameters differ).'
