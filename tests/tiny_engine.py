"""A hand-made engine that really tracks: it finds the colour it was shown.

It has the tensors of the stage contract and none of the network. Its rules, so that a test can
say what must happen:

* A cell of a mask (4 x 4 network pixels) belongs to an object if its mean colour is nearer than
  TOLERANCE to the object's colour. An object with fewer than two cells is absent: negative score,
  logits of -1024, and a memory that holds no colour.
* A click, or a box's centre, shows a colour; a mask shows the mean colour under it. Background
  clicks remove the cells within 8 network pixels; previous logits are averaged with the new ones.
* Without a colour being shown, the object's colour is the mean over all filled slots of
  memory_features and object_pointers that hold one, recent ones counting more (1 / (1 + time)).
  As in the real network an empty slot has no weight, yet a NaN in it would spoil everything.
* iou_scores fall if the three feature maps are not of the same frame.

`python -m tests.tiny_engine FOLDER` writes one. It needs onnx and OpenCV, but no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from export.stages import graph_specs
from sam2_rt.runtime.manifest import Manifest, MemorySpec, sha256
from tests.onnx_builder import Graph, Value, onnx

MEMORY = MemorySpec(
    conditioning_slots=2, recent_slots=6, recent_pointers=15, memory_dim=8, hidden_dim=32
)
TOLERANCE = 0.25
"""Largest distance of two colours that count as the same: |R| + |G| + |B|, each 0..1."""
CANDIDATES = ((0.1, 0.7), (TOLERANCE, 0.95), (0.5, 0.8))
"""Tolerance and iou_score of a prompt's three candidates; the middle one is chosen."""
SHARPNESS = 20.0
"""Logits per unit of distance."""
NO_OBJECT = -1024.0
COLOUR, GREY = np.uint8([40, 90, 200]), np.uint8([128, 128, 128])
"""Object and background of the check clip."""

Values = dict[str, Value]


def _encode(graph: Graph) -> Values:
    """Mean colour of every 4 x 4, 8 x 8 and 16 x 16 pixels: channels R, G, B, then 1, then 0."""
    image = graph.inputs['image'].float() / 255.0
    image = graph.op('Transpose', image, perm=(0, 3, 1, 2))
    outputs = {}
    for name, stride, channels in (
        ('high_res_s4', 4, MEMORY.hidden_dim // 8),
        ('high_res_s8', 8, MEMORY.hidden_dim // 4),
        ('image_embedding', 16, MEMORY.hidden_dim),
    ):
        kernel = np.zeros((channels, 3, stride, stride), np.float32)
        kernel[range(3), range(3)] = 1 / stride**2
        ones = np.eye(channels, dtype=np.float32)[3]
        outputs[name] = graph.op('Conv', image, kernel, ones, strides=(stride, stride))
    return outputs


def _track(graph: Graph) -> Values:
    return _finish(graph, _logits(graph, _remembered(graph), TOLERANCE))


def _prompt(graph: Graph) -> Values:
    points, labels = graph.inputs['point_coords'], graph.inputs['point_labels']
    corners = labels.equals(2) + labels.equals(3)
    is_box = corners.max(1).expand(1)
    centre = (points * corners.expand(2)).mean(1) / (corners.mean(1) + 1e-9).expand(1)
    shown = _near(graph, points, labels.equals(1), 2.0)
    shown = shown + _near(graph, centre.expand(1), is_box, 2.0)
    colour = shown.max(1, 2).expand(1).choose(_under(graph, shown), _remembered(graph))

    removed = _near(graph, points, labels.equals(0), 8.0)
    previous, has_previous = graph.inputs['previous_logits'], graph.inputs['has_previous']
    readings = []
    for tolerance, _ in CANDIDATES:
        logits = _logits(graph, colour, tolerance)
        logits = has_previous.expand(1, 2).choose((logits + previous) * 0.5, logits)
        readings.append(removed.choose(-10.0, logits))
    outputs = _finish(graph, readings[1])
    scores = np.asarray([[score for _, score in CANDIDATES]], np.float32)
    outputs['candidate_masks'] = graph.op('Concat', *(x.expand(1) for x in readings), axis=1)
    outputs['candidate_iou_scores'] = outputs['iou_scores'].expand(1) * scores
    outputs['iou_scores'] = outputs['iou_scores'] * CANDIDATES[1][1]
    return outputs


def _prompt_mask(graph: Graph) -> Values:
    inside = graph.inputs['mask'].float().expand(1).pool(4).mean(1)
    return _finish(graph, inside * 20.0 - 10.0)


# Below, a "colour" is (N, 4): sums of R, G and B over some cells or slots, then their number.


def _under(graph: Graph, weights: Value) -> Value:
    """The colour under weighted cells (N, 4E, 4E)."""
    return (graph.inputs['high_res_s4'] * weights.expand(1)).sum(2, 3)


def _remembered(graph: Graph) -> Value:
    """Each object's colour according to its memory; 0 cells of it if that is empty."""

    def slots(entries: Value, time: Value) -> Value:
        filled = time.float() > -0.5
        return (entries * (filled / (time.float().abs() + 1.0)).expand(2)).sum(1)

    features = graph.inputs['memory_features'].part(1, 5, axis=2).mean(3, 4)
    pointers = graph.inputs['object_pointers'].part(0, 4, axis=2)
    return slots(features, graph.inputs['memory_time']) + slots(
        pointers, graph.inputs['pointer_time']
    )


def _logits(graph: Graph, colour: Value, tolerance: float) -> Value:
    """(N, 4E, 4E): positive where a cell has the colour; nowhere if there is no colour."""
    count = colour.part(3, 4, axis=1)
    mean = colour.part(0, 3, axis=1) / (count + 1e-9) - (count <= 1e-6) * 9.0
    cells = graph.inputs['high_res_s4'].part(0, 3, axis=1)
    return (tolerance - (cells - mean.expand(2, 3)).abs().sum(1)) * SHARPNESS


def _near(graph: Graph, points: Value, used: Value, pixels: float) -> Value:
    """How many used points (N, Q, 2) are within some pixels of each cell: (N, 4E, 4E)."""
    centres = 4 * np.arange(_side(graph, 'previous_logits'), dtype=np.float32) + 2
    x = (points.part(0, 1, axis=2) - centres).abs() <= pixels
    y = (points.part(1, 2, axis=2) - centres).abs() <= pixels
    return (y.expand(3) * x.expand(2) * used.expand(2, 3)).sum(1)


def _side(graph: Graph, name: str) -> int:
    """Width of an input."""
    return int(next(tensor for tensor in graph.specs if tensor.name == name).shape[-1])


def _finish(graph: Graph, logits: Value) -> Values:
    """The outputs that track, prompt and prompt_mask share."""
    mask = logits > 0.0
    cells = mask.sum(1, 2)
    score = graph.op('Clip', (cells - 1.5) * 4.0, np.float32(-10), np.float32(10))
    present = score > 0.0
    colour = _under(graph, mask) / (cells + 1e-9).expand(1) * present.expand(1)

    # A memory's channels: how much of its cell is inside the mask, the colour, zeros.
    inside = graph.op('Sigmoid', logits).expand(1).pool(4)
    side = _side(graph, 'image_embedding')
    everywhere = colour.expand(2, 3) + np.zeros((1, 1, side, side), np.float32)
    memory = graph.op('Concat', inside, everywhere, axis=1)
    memory = memory.pad_channels(MEMORY.memory_dim - 5, rank=4)
    pointer = colour.pad_channels(MEMORY.hidden_dim - 4, rank=2)

    fine, middle, coarse = (
        graph.inputs[name].part(0, 3, axis=1)
        for name in ('high_res_s4', 'high_res_s8', 'image_embedding')
    )
    strange = (fine.pool(2) - middle).abs().max(1, 2, 3) + (middle.pool(2) - coarse).abs().max(
        1, 2, 3
    )
    return {
        'low_res_masks': present.expand(1, 2).choose(logits, NO_OBJECT),
        'iou_scores': graph.op('Sigmoid', logits.max(1, 2)) / (strange * 20.0 + 1.0),
        'object_score_logits': score,
        'object_pointer': pointer,
        'new_memory_features': memory,
        'memory_norm': memory.abs().mean(1, 2, 3) + pointer.abs().mean(1),
    }


STAGES: dict[str, Callable[[Graph], Values]] = {
    'encode': _encode,
    'track': _track,
    'prompt': _prompt,
    'prompt_mask': _prompt_mask,
}


def build(folder: Path, image_size: int = 64, max_objects: int = 8) -> Manifest:
    """Writes the engine folder, with a check clip whose masks follow from the rules above."""
    folder.mkdir(parents=True, exist_ok=True)
    specs = graph_specs(image_size, 'fp32', MEMORY)
    for name, stage in STAGES.items():
        graph = Graph(specs[name].inputs)
        graph.save(folder / specs[name].file, specs[name].outputs, stage(graph))
    np.savez_compressed(folder / 'check.npz', **check_clip(image_size))
    files = [spec.file for spec in specs.values()] + ['check.npz']
    manifest = Manifest(
        folder=folder,
        variant='tiny',
        image_size=image_size,
        precision='fp32',
        max_objects=max_objects,
        trained=True,
        memory=MEMORY,
        graphs=specs,
        files={name: sha256(folder / name) for name in files},
        versions={'onnx': onnx.__version__},
    )
    manifest.save()
    return manifest


def check_clip(image_size: int = 64) -> dict[str, NDArray[Any]]:
    """A square that moves by one cell a frame, is gone for one, and comes back: check.npz."""
    side = image_size // 4
    masks = np.zeros((8, side, side), bool)
    for index in (0, 1, 2, 3, 4, 6, 7):  # on frame 5 it is gone
        masks[index, 3:7, index + 1 : index + 5] = True
    images = [np.where(mask.repeat(4, 0).repeat(4, 1)[..., None], COLOUR, GREY) for mask in masks]
    encoded = [cv2.imencode('.png', image[..., ::-1])[1].reshape(-1) for image in images]
    return {
        'png': np.concatenate(encoded),
        'offsets': np.cumsum([0] + [len(x) for x in encoded]),
        'prompt_box': np.asarray([4, 12, 20, 28], np.float32),
        'masks': np.packbits(masks.reshape(len(masks), -1), axis=1),
        'mask_shape': np.asarray([side, side]),
        'scores': np.where(masks.any(axis=(1, 2)), 10.0, -6.0).astype(np.float32),
    }


if __name__ == '__main__':
    print(build(Path(sys.argv[1])).folder)
