"""A network small enough to calculate by hand, behind the real Runner interface.

It follows objects by grey value: a prompt remembers the grey under it in the object pointer, and
an object is wherever the image shows the grey that its valid pointer slots remember on average.
Where nothing shows it, the object is absent. Each memory entry also carries the index of its frame
(the encode graph counts), so that tests can see which frames a slot holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from export.stages import graph_specs
from sam2_rt.runtime.base import Runner, RunnerInfo
from sam2_rt.runtime.manifest import Manifest, MemorySpec
from sam2_rt.types import Array, Frame

SIZE = 64  # S; logits are 16 x 16
SIDE = SIZE // 4
TOLERANCE = 12.0
RED, BLUE = 200, 120  # the grey values of two objects


def fake_manifest(conditioning_slots: int = 2, max_objects: int = 4) -> Manifest:
    memory = MemorySpec(
        conditioning_slots=conditioning_slots,
        recent_slots=6,
        recent_pointers=15,
        memory_dim=4,
        hidden_dim=8,
    )
    graphs = graph_specs(SIZE, 'fp32', memory)
    return Manifest(
        folder=Path('fake'),
        variant='fake',
        image_size=SIZE,
        precision='fp32',
        max_objects=max_objects,
        trained=False,
        memory=memory,
        graphs=graphs,
        files={},
    )


class FakeRunner(Runner):
    """See the module. `calls` records every graph call; `tamper` may alter outputs."""

    def __init__(self, conditioning_slots: int = 2, max_objects: int = 4) -> None:
        super().__init__(fake_manifest(conditioning_slots, max_objects))
        self.calls: list[tuple[str, dict[str, Array]]] = []
        self.tamper: Callable[[str, dict[str, Array]], None] = lambda graph, outputs: None
        self._frames = 0

    @property
    def info(self) -> RunnerInfo:
        return RunnerInfo('fake', 'cpu', 'fp32', '1')

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Array:
        return np.zeros(shape, dtype)

    def copy(self, destination: Array, source: Array) -> None:
        np.copyto(destination, source)

    def counted(self, graph: str) -> int:
        return sum(name == graph for name, _ in self.calls)

    def _run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.calls.append((graph, {name: np.array(value) for name, value in inputs.items()}))
        outputs: dict[str, Array] = getattr(self, f'_{graph}')(inputs)
        self.tamper(graph, outputs)
        return outputs

    def _encode(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        grey = inputs['image'][0, 2::4, 2::4, 0].astype(np.float32)
        outputs = {
            tensor.name: np.zeros(tensor.shape, np.float32)
            for tensor in self.manifest.graphs['encode'].outputs
        }
        outputs['high_res_s4'][0, 0] = grey
        outputs['image_embedding'][...] = self._frames
        self._frames += 1
        return outputs

    def _decode(self, inputs: Mapping[str, Array], greys: np.ndarray) -> dict[str, Array]:
        spec, n = self.manifest.memory, len(greys)
        image = inputs['high_res_s4'][0, 0]
        # As far below zero outside as above it inside, so that edges stay where they are.
        logits = np.maximum(TOLERANCE - np.abs(image[None] - greys[:, None, None]), -TOLERANCE)
        present = (logits > 0).any(axis=(1, 2))
        pointer = np.zeros((n, spec.hidden_dim), np.float32)
        pointer[:, 0] = greys
        side = SIZE // 16
        memory = np.full((n, spec.memory_dim, side, side), inputs['image_embedding'][0, 0, 0, 0])
        return {
            'low_res_masks': np.where(present[:, None, None], logits, -1024).astype(np.float32),
            'iou_scores': np.where(present, 0.9, 0.1).astype(np.float32),
            'object_score_logits': np.where(present, 6.0, -6.0).astype(np.float32),
            'object_pointer': pointer,
            'new_memory_features': memory.astype(np.float32),
            'memory_norm': np.abs(pointer).mean(axis=1) + 1,
        }

    def _track(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._decode(inputs, _remembered(inputs))

    def _prompt(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        image = inputs['high_res_s4'][0, 0]
        greys = []
        for points, labels in zip(inputs['point_coords'], inputs['point_labels'], strict=True):
            if (labels >= 2).any():
                chosen = points[labels >= 2].mean(axis=0, keepdims=True)
            else:
                chosen = points[labels == 1]
            cells = np.clip((chosen / 4).astype(int), 0, SIDE - 1)
            greys.append(image[cells[:, 1], cells[:, 0]].mean() if len(cells) else 0.0)
        outputs = self._decode(inputs, np.asarray(greys, np.float32))
        masks = outputs['low_res_masks']
        outputs['candidate_masks'] = np.stack([masks - 4, masks, masks + 4], axis=1)
        scores = np.asarray([[0.5, 0.9, 0.7]], np.float32)
        outputs['candidate_iou_scores'] = np.repeat(scores, len(masks), axis=0)
        return outputs

    def _prompt_mask(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        image = inputs['high_res_s4'][0, 0]
        inside = [image[mask[2::4, 2::4] > 0] for mask in inputs['mask']]
        greys = [values.mean() if values.size else 0.0 for values in inside]
        return self._decode(inputs, np.asarray(greys, np.float32))


def _remembered(inputs: Mapping[str, Array]) -> np.ndarray:
    """Mean grey of the valid pointer slots, -1000 (found nowhere) without any."""
    valid = inputs['pointer_time'] >= 0
    total = (inputs['object_pointers'][..., 0] * valid).sum(axis=1)
    mean = total / np.maximum(valid.sum(axis=1), 1)
    return np.where(valid.any(axis=1), mean, -1000.0).astype(np.float32)


def scene(
    *blobs: tuple[int, int, int], index: int = 0, size: tuple[int, int] = (96, 128)
) -> Frame:
    """A black frame with 24-pixel squares, each (x, y, grey) with x, y its top-left corner."""
    image = np.zeros((*size, 3), np.uint8)
    for x, y, grey in blobs:
        image[max(y, 0) : max(y + 24, 0), max(x, 0) : max(x + 24, 0)] = grey
    return Frame(image, stamp_ns=(index + 1) * 100_000_000)


def by_id(result):
    return {tracked.object_id: tracked for tracked in result.objects}


def overlap(mask, x, y):
    """IoU of a mask with the 24-pixel square at (x, y)."""
    truth = np.zeros_like(mask)
    truth[y : y + 24, x : x + 24] = True
    return (mask & truth).sum() / (mask | truth).sum()
