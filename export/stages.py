"""The graphs of an engine: names, inputs, outputs, types and axes. The one place that says it.

S is the side of the network input in pixels, E = S / 16; D, Dm, M and P are MemorySpec's. N
(objects) and Q (points) are the dynamic axes. Resident tensors, which stay where the engine runs,
carry the engine's precision; what the host reads or writes is float32, int32 or uint8.
"""

from __future__ import annotations

from sam2_rt.runtime.manifest import GraphSpec, MemorySpec, TensorSpec

STRIDE = 16
"""Pixels per cell of image_embedding."""

PRECISIONS = {'fp32': 'float32', 'fp16': 'float16'}
"""Precision of an engine -> dtype of its resident tensors."""


def graph_specs(image_size: int, precision: str, memory: MemorySpec) -> dict[str, GraphSpec]:
    """Specifications of the four graphs, by name.

    Args:
        image_size: S.
        precision: one of PRECISIONS.
        memory: sizes of the memory bank.
    """
    e = image_size // STRIDE
    m, p = memory.memory_slots, memory.pointer_slots
    d, dm = memory.hidden_dim, memory.memory_dim

    def resident(name: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name, PRECISIONS[precision], shape, resident=True)

    def host(name: str, dtype: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name, dtype, shape)

    image = host('image', 'uint8', 1, image_size, image_size, 3)
    features = (
        resident('image_embedding', 1, d, e, e),
        resident('high_res_s4', 1, d // 8, 4 * e, 4 * e),
        resident('high_res_s8', 1, d // 4, 2 * e, 2 * e),
    )
    memories = (
        resident('memory_features', 'N', m, dm, e, e),
        host('memory_time', 'int32', 'N', m),
        resident('object_pointers', 'N', p, d),
        host('pointer_time', 'int32', 'N', p),
    )
    points = (
        host('point_coords', 'float32', 'N', 'Q', 2),
        host('point_labels', 'int32', 'N', 'Q'),
        host('previous_logits', 'float32', 'N', 4 * e, 4 * e),
        host('has_previous', 'int32', 'N'),
    )
    mask = host('mask', 'uint8', 'N', image_size, image_size)
    tracked = (
        host('low_res_masks', 'float32', 'N', 4 * e, 4 * e),
        host('iou_scores', 'float32', 'N'),
        host('object_score_logits', 'float32', 'N'),
        resident('object_pointer', 'N', d),
        resident('new_memory_features', 'N', dm, e, e),
        host('memory_norm', 'float32', 'N'),
    )
    candidates = (
        host('candidate_masks', 'float32', 'N', 3, 4 * e, 4 * e),
        host('candidate_iou_scores', 'float32', 'N', 3),
    )
    return {
        'encode': GraphSpec('encode.onnx', (image,), features),
        'track': GraphSpec('track.onnx', features + memories, tracked),
        'prompt': GraphSpec('prompt.onnx', features + memories + points, tracked + candidates),
        'prompt_mask': GraphSpec('prompt_mask.onnx', (*features, mask), tracked),
    }
