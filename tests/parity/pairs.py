"""The official model and ours with the same weights, asked the same questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from export.model import VARIANTS, ModelConfig
from export.model.hiera import HieraConfig
from export.model.variants import build_from_config
from tests.parity import official

STEP = 100  # the index of the frame that is being tracked; memories lie before it

NARROW = ModelConfig(
    HieraConfig(
        embed_dim=16,
        num_heads=1,
        stages=(1, 2, 3, 1),
        global_att_blocks=(4,),
        window_pos_embed_bkg_spatial_size=7,
    ),
    hidden_dim=64,
    mem_dim=16,
    memory_layers=2,
    memory_ffn_dim=128,
    fuser_layers=1,
)
NARROW_20 = replace(NARROW, pointer_time=False, no_object_embedding=False)
MODELS = {
    'narrow 2.1': (NARROW, 256),
    'narrow 2.0': (NARROW_20, 256),
    'sam2.1_hiera_tiny': (VARIANTS['sam2.1_hiera_tiny'], 512),
}


@dataclass(frozen=True)
class Memory:
    """One object's memory, for both models.

    Attributes:
        ours: memory_features, memory_time, object_pointers, pointer_time, each for N = 1. Slots
            are in a random order, and empty ones contain NaN, which must not matter.
        official: The predictor's `output_dict`.
    """

    ours: tuple[Tensor, Tensor, Tensor, Tensor]
    official: dict[str, dict[int, dict[str, Any]]]


class Pair:
    """Two models and one frame, encoded by each."""

    def __init__(self, config: ModelConfig, image_size: int, seed: int = 0) -> None:
        self.official = official.build_predictor(config, image_size, seed)
        self.ours = build_from_config(config, image_size).eval()
        self.ours.load_state_dict(self.official.state_dict(), strict=True)
        self.frame = blocks_image(image_size, seed)
        with torch.inference_mode():
            self.features = self.ours.encode(torch.from_numpy(self.frame)[None])
            image = official.normalise(self.frame, image_size)[None]
            self.pyramid = self.official.forward_image(image)
        _, self.vision, self.places, self.sizes = self.official._prepare_backbone_features(
            self.pyramid
        )

    def memory(self, conditioning: Sequence[int] = (), recent: Sequence[int] = ()) -> Memory:
        """Random memory of frames that lie so many frames back."""
        model = self.ours
        generator = torch.Generator().manual_seed(sum(conditioning) * 31 + sum(recent))
        maps = torch.full((1, model.memory_slots, model.mem_dim, model.grid, model.grid), np.nan)
        pointers = torch.full((1, model.pointer_slots, model.hidden_dim), np.nan)
        map_time = torch.full((1, model.memory_slots), -1, dtype=torch.int32)
        pointer_time = torch.full((1, model.pointer_slots), -1, dtype=torch.int32)
        map_slots = torch.randperm(model.memory_slots, generator=generator).tolist()
        pointer_slots = torch.randperm(model.pointer_slots, generator=generator).tolist()
        outputs: dict[str, dict[int, dict[str, Any]]] = {
            'cond_frame_outputs': {},
            'non_cond_frame_outputs': {},
        }
        for key, ages in (
            ('cond_frame_outputs', conditioning),
            ('non_cond_frame_outputs', recent),
        ):
            for age in ages:
                features = torch.randn(maps[:, 0].shape, generator=generator)
                pointer = torch.randn(pointers[:, 0].shape, generator=generator)
                outputs[key][STEP - age] = {
                    'maskmem_features': features,
                    'maskmem_pos_enc': [self.official.memory_encoder.position_encoding(features)],
                    'obj_ptr': pointer,
                }
                slot = pointer_slots.pop()
                pointers[:, slot], pointer_time[:, slot] = pointer, age
                if key == 'cond_frame_outputs' or age <= 6:
                    slot = map_slots.pop()
                    maps[:, slot] = features
                    map_time[:, slot] = 0 if key == 'cond_frame_outputs' else age
        return Memory((maps, map_time, pointers, pointer_time), outputs)

    def run(self, stage: str, *inputs: Tensor) -> Any:
        """Runs one of our stages on the frame."""
        with torch.inference_mode():
            return getattr(self.ours, stage)(*self.features, *inputs)

    def check(
        self,
        outputs: Any,
        memory: Memory | None = None,
        points: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> None:
        """Asserts that a stage's outputs are what the official predictor makes of the frame.

        Args:
            outputs: Of our stage.
            memory: None makes it the object's first frame.
            points: Coordinates and labels, as `point_coords` and `point_labels`.
            mask: As `prompt_mask`'s.
            previous: As `previous_logits`.
        """
        inputs = None
        if points is not None:
            inputs = {'point_coords': points[0], 'point_labels': points[1]}
        # `add_new_points_or_box` clamps before it calls `track_step`
        clamped = None if previous is None else previous[:, None].clamp(-32, 32)
        with torch.inference_mode():
            _, results, _, _ = self.official._track_step(
                frame_idx=STEP,
                is_init_cond_frame=memory is None,
                current_vision_feats=self.vision,
                current_vision_pos_embeds=self.places,
                feat_sizes=self.sizes,
                point_inputs=inputs,
                mask_inputs=None if mask is None else mask[:, None].float(),
                output_dict=None if memory is None else memory.official,
                num_frames=2 * STEP,
                track_in_reverse=False,
                prev_sam_mask_logits=clamped,
            )
        candidates, _, ious, masks, _, pointer, score = results
        assert_match(outputs.low_res_masks, masks[:, 0])
        assert_match(outputs.iou_scores, ious.amax(dim=1))
        assert_match(outputs.object_score_logits, score[:, 0])
        assert_match(outputs.object_pointer, pointer)
        if points is not None and candidates.shape[1] == 3:
            assert_match(outputs.candidate_masks, candidates)
            assert_match(outputs.candidate_iou_scores, ious)
        self._check_memory(outputs, prompted=points is not None or mask is not None)

    def _check_memory(self, outputs: Any, prompted: bool) -> None:
        """The reference encodes our masks: binarised, a logit at 0 would round to either side.

        Prompted frames as `propagate_in_video_preflight` encodes them, others as `track_step`.
        """
        size = self.official.image_size
        upsampled = F.interpolate(outputs.low_res_masks[:, None], (size, size), mode='bilinear')
        with torch.inference_mode():
            features, _ = self.official._encode_new_memory(
                self.vision,
                self.sizes,
                upsampled,
                outputs.object_score_logits[:, None],
                is_mask_from_pts=prompted,
            )
        assert_match(outputs.new_memory_features, features)


def blocks_image(size: int, seed: int) -> np.ndarray:
    """RGB uint8 (size, size, 3): random colours in blocks, so that encodings vary in space."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.kron(colours, np.ones((size // 8, size // 8, 1), dtype=np.uint8))


def assert_match(value: Tensor, reference: Tensor, tolerance: float = 1e-5) -> None:
    """Asserts equality within a fraction of the reference's largest value."""
    assert value.shape == reference.shape
    error = (value - reference).abs().max() / reference.abs().max()
    assert error <= tolerance, f'relative error {error:.1e}'


@contextmanager
def object_score(pair: Pair, bias: float) -> Iterator[None]:
    """Within it, the object score head's last bias has this value in both models."""
    before = pair.ours.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.item()
    for model in (pair.official, pair.ours):
        official.object_score_bias(model, bias)
    yield
    for model in (pair.official, pair.ours):
        official.object_score_bias(model, before)


@contextmanager
def single_mask_scale(pair: Pair, factor: float) -> Iterator[None]:
    """Within it, the single mask's logits are multiplied by a factor in both models."""
    layers = [
        model.sam_mask_decoder.output_hypernetworks_mlps[0].layers[-1]
        for model in (pair.official, pair.ours)
    ]
    before = [(layer.weight.data, layer.bias.data) for layer in layers]
    for layer, (weight, bias) in zip(layers, before, strict=True):
        layer.weight.data, layer.bias.data = factor * weight, factor * bias
    yield
    for layer, (weight, bias) in zip(layers, before, strict=True):
        layer.weight.data, layer.bias.data = weight, bias
