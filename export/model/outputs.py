"""What the stages return."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TrackOutput(NamedTuple):
    """What `track` and `prompt_mask` return, for N objects.

    Attributes:
        low_res_masks: Float32 logits (N, 4E, 4E), -1024 everywhere for an absent object.
        iou_scores: Float32 (N,), the predicted quality of the mask, 0..1.
        object_score_logits: Float32 (N,), positive where the object is in the image.
        object_pointer: (N, D).
        new_memory_features: (N, Dm, E, E).
        memory_norm: Float32 (N,), mean absolute value of the memory features plus that of the
            pointer: not finite when any of them is not, so that the host need not read them.
    """

    low_res_masks: Tensor
    iou_scores: Tensor
    object_score_logits: Tensor
    object_pointer: Tensor
    new_memory_features: Tensor
    memory_norm: Tensor


class PromptOutput(NamedTuple):
    """What `prompt` returns: a `TrackOutput`, and the three multimask candidates.

    Attributes:
        candidate_masks: Float32 logits (N, 3, 4E, 4E): whole, part, subpart; never -1024.
        candidate_iou_scores: Float32 (N, 3).
    """

    low_res_masks: Tensor
    iou_scores: Tensor
    object_score_logits: Tensor
    object_pointer: Tensor
    new_memory_features: Tensor
    memory_norm: Tensor
    candidate_masks: Tensor
    candidate_iou_scores: Tensor


def memory_norm(memory: Tensor, pointer: Tensor) -> Tensor:
    """Mean absolute memory (N, Dm, E, E) plus that of the pointers (N, D) -> float32 (N,)."""
    return memory.float().abs().mean(dim=(1, 2, 3)) + pointer.float().abs().mean(dim=1)
