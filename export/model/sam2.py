"""SAM 2, assembled: one method per stage, thin compositions of the pieces below them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.image_encoder import ImageEncoder
from export.model.mask_decoder import (
    Candidates,
    MaskDecoder,
    best_multimask,
    pick,
    single_mask_is_stable,
)
from export.model.memory_attention import MemoryAttention
from export.model.memory_encoder import MemoryEncoder
from export.model.memory_tokens import RECENT_POINTERS, RECENT_SLOTS, MemoryPositions, lay_out
from export.model.ops import MLP, merge_1x1, to_half
from export.model.outputs import PromptOutput, TrackOutput, memory_norm
from export.model.position_encoding import sine_grid
from export.model.prompt_encoder import PromptEncoder

if TYPE_CHECKING:
    from export.model.variants import ModelConfig

STRIDE = 16
NO_OBJECT_LOGIT = -1024.0  # official NO_OBJ_SCORE, the mask logit of an absent object
MASK_SCALE, MASK_BIAS = 20.0, -10.0  # of a mask in 0..1, as the memory encoder sees it
PREVIOUS_LOGITS_LIMIT = 32.0
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class SAM2(nn.Module):
    """The network. S is the image side in pixels, E = S / 16, D and Dm the configured channels.

    Image features have batch 1, shared by N objects, or batch N (training on N clips).

    Args:
        config: Sizes and options.
        image_size: S.
        conditioning_slots: C, memory slots for prompted frames. The memory has M = C + 6 slots for
            maps and P = C + 15 for pointers.
    """

    image_mean: Tensor
    image_std: Tensor
    memory_position: Tensor
    downsample_matrix: Tensor

    def __init__(self, config: ModelConfig, image_size: int, conditioning_slots: int) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.grid = grid = image_size // STRIDE
        self.hidden_dim = dim = config.hidden_dim
        self.mem_dim = config.mem_dim
        self.memory_slots = conditioning_slots + RECENT_SLOTS
        self.pointer_slots = conditioning_slots + RECENT_POINTERS

        self.image_encoder = ImageEncoder(config.trunk.build(image_size), dim)
        self.memory_attention = MemoryAttention(
            dim,
            config.mem_dim,
            config.memory_ffn_dim,
            config.memory_layers,
            grid,
            config.memory_dropout,
        )
        self.memory_encoder = MemoryEncoder(
            dim, config.mem_dim, config.memory_mask_channels, config.fuser_layers
        )
        self.sam_prompt_encoder = PromptEncoder(dim, image_size, grid, config.prompt_mask_channels)
        self.sam_mask_decoder = MaskDecoder(
            dim,
            grid,
            config.decoder_depth,
            config.decoder_heads,
            config.decoder_mlp_dim,
            config.iou_hidden_dim,
        )
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.obj_ptr_proj = MLP(dim, dim, dim, num_layers=3)
        if config.pointer_time:
            self.obj_ptr_tpos_proj = nn.Linear(dim, config.mem_dim)
        if config.no_object_embedding:
            self.no_obj_embed_spatial = embedding(1, config.mem_dim)
        # Row k - 1 is for k frames ago, the last row for conditioning frames.
        self.maskmem_tpos_enc = embedding(RECENT_SLOTS + 1, 1, 1, config.mem_dim)
        self.no_mem_embed = embedding(1, 1, dim)
        self.no_mem_pos_enc = embedding(1, 1, dim)  # unused, in every official checkpoint
        self.no_obj_ptr = embedding(1, dim)

        position = sine_grid(config.mem_dim, grid).flatten(1).T  # (E * E, Dm)
        pixels = torch.eye(image_size)[None, None]
        matrix = F.interpolate(
            pixels, size=(image_size // 4, image_size), mode='bilinear', antialias=True
        )
        for name, constant in (
            ('image_mean', torch.tensor(IMAGE_MEAN)[:, None, None]),
            ('image_std', torch.tensor(IMAGE_STD)[:, None, None]),
            ('memory_position', position.contiguous()),
            ('downsample_matrix', matrix[0, 0]),
        ):
            self.register_buffer(name, constant, persistent=False)

    # Stages ------------------------------------------------------------------------------------

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Stage `encode`: uint8 RGB (1, S, S, 3) -> image_embedding, high_res_s4, high_res_s8."""
        # First to float: TensorRT takes uint8 inputs, but does nothing with them except cast them.
        image = image.float().permute(0, 3, 1, 2) / 255
        return self.embed_image((image - self.image_mean) / self.image_std)

    def track(
        self,
        image_embedding: Tensor,
        high_res_s4: Tensor,
        high_res_s8: Tensor,
        memory_features: Tensor,
        memory_time: Tensor,
        object_pointers: Tensor,
        pointer_time: Tensor,
    ) -> TrackOutput:
        """Stage `track`: finds N remembered objects in a frame, official `track_step`.

        Args:
            image_embedding: (1, D, E, E) of `encode`, as the next two.
            high_res_s4: (1, D/8, 4E, 4E).
            high_res_s8: (1, D/4, 2E, 2E).
            memory_features: (N, M, Dm, E, E).
            memory_time: Int32 (N, M): -1 empty, 0 conditioning frame, k = 1..6 for k frames ago.
            object_pointers: (N, P, D).
            pointer_time: Int32 (N, P): -1 empty, else frames ago.
        """
        features = self.condition_on_memory(
            image_embedding, memory_features, memory_time, object_pointers, pointer_time
        )
        prompts = self.sam_prompt_encoder
        candidates = self.decode_masks(
            features, high_res_s4, high_res_s8, prompts.no_points(), prompts.no_mask()
        )
        best = best_multimask(candidates)
        return self._remember(image_embedding, candidates, best, best, prompted=False)

    def prompt(
        self,
        image_embedding: Tensor,
        high_res_s4: Tensor,
        high_res_s8: Tensor,
        memory_features: Tensor,
        memory_time: Tensor,
        object_pointers: Tensor,
        pointer_time: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        previous_logits: Tensor,
        has_previous: Tensor,
    ) -> PromptOutput:
        """Stage `prompt`: N objects by points or boxes, first seen (empty memory) or corrected.

        Args, beside those of `track`:
            point_coords: Float32 (N, Q, 2), x then y in network pixels, 0..S.
            point_labels: Int32 (N, Q): 0 background, 1 foreground, 2, 3 box corners, -1 padding.
            previous_logits: Float32 (N, 4E, 4E), the mask that is being corrected.
            has_previous: Int32 (N,), 0 where previous_logits means nothing.
        """
        conditioned = self.condition_on_memory(
            image_embedding, memory_features, memory_time, object_pointers, pointer_time
        )
        remembers = (memory_time >= 0).any(dim=1)[:, None, None, None]
        features = torch.where(remembers, conditioned, self.without_memory(image_embedding))
        candidates = self.decode_masks(
            features,
            high_res_s4,
            high_res_s8,
            self.sam_prompt_encoder.points(point_coords, point_labels),
            self._embed_previous(previous_logits, has_previous),
        )
        mask_index, token_index = self.choose(candidates, (point_labels >= 0).sum(dim=1))
        tracked = self._remember(
            image_embedding, candidates, mask_index, token_index, prompted=True
        )
        return PromptOutput(*tracked, candidates.masks[:, 1:], candidates.iou_scores[:, 1:])

    def prompt_mask(
        self, image_embedding: Tensor, high_res_s4: Tensor, high_res_s8: Tensor, mask: Tensor
    ) -> TrackOutput:
        """Stage `prompt_mask`: N objects by mask, which is the output; `_use_mask_as_output`.

        Args, beside those of `track`:
            mask: Uint8 (N, S, S), 0 or 1.
        """
        mask = mask.float()
        present = mask.amax(dim=(1, 2))  # 1 or 0
        shrink = self.downsample_matrix
        low_res_masks = shrink @ (mask * MASK_SCALE + MASK_BIAS) @ shrink.T

        dtype = image_embedding.dtype
        prompts = self.sam_prompt_encoder
        dense = prompts.mask(self.mask_downsample(mask.unsqueeze(1).to(dtype)))
        candidates = self.decode_masks(
            image_embedding, high_res_s4, high_res_s8, prompts.no_points(), dense
        )
        seen = (present > 0) & (candidates.object_score_logits > 0)
        pointer = self.object_pointer(candidates.tokens[:, 0], seen)
        score = present * MASK_SCALE + MASK_BIAS
        memory = self.encode_memory(image_embedding, low_res_masks, score, prompted=True)
        return TrackOutput(
            low_res_masks,
            torch.ones_like(present),
            score,
            pointer,
            memory,
            memory_norm(memory, pointer),
        )

    # Pieces ------------------------------------------------------------------------------------

    def embed_image(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised image (B, 3, S, S) -> image_embedding, high_res_s4, high_res_s8.

        Official `forward_image`.
        """
        dtype = self.no_mem_embed.dtype
        stride4, stride8, stride16 = self.image_encoder(image.to(dtype))
        decoder = self.sam_mask_decoder
        return stride16, decoder.conv_s0(stride4), decoder.conv_s1(stride8)

    def without_memory(self, image_embedding: Tensor) -> Tensor:
        """Features of a frame that no memory precedes (B, D, E, E)."""
        return image_embedding + self.no_mem_embed.reshape(1, -1, 1, 1)

    def condition_on_memory(
        self,
        image_embedding: Tensor,
        memory_features: Tensor,
        memory_time: Tensor,
        object_pointers: Tensor,
        pointer_time: Tensor,
    ) -> Tensor:
        """Features of a frame in the light of its memory (N, D, E, E); arguments as `track`.

        Official `_prepare_memory_conditioned_features`. The memory may have any number of slots.
        """
        positions = MemoryPositions(
            cells=self.memory_position,
            map_time=self.maskmem_tpos_enc.reshape(RECENT_SLOTS + 1, self.mem_dim),
            pointer_time=self.obj_ptr_tpos_proj if self.config.pointer_time else None,
        )
        memory = lay_out(
            memory_features,
            memory_time,
            object_pointers,
            pointer_time,
            positions,
            self.grid,
            self.hidden_dim,
            self.mem_dim,
        )
        return self.memory_attention(image_embedding, memory)

    def decode_masks(
        self,
        features: Tensor,
        high_res_s4: Tensor,
        high_res_s8: Tensor,
        sparse: Tensor,
        dense: Tensor,
    ) -> Candidates:
        """All mask candidates of conditioned features and embedded prompts, see `MaskDecoder`."""
        positions = self.sam_prompt_encoder.dense_positions().to(features.dtype)
        return self.sam_mask_decoder(features, positions, sparse, dense, high_res_s4, high_res_s8)

    def choose(self, candidates: Candidates, num_points: Tensor) -> tuple[Tensor, Tensor]:
        """Which candidate is the mask, and which one's token makes the pointer, each (N,).

        At most one point is ambiguous: the best multimask candidate. More points: the single mask,
        or, when that is unstable, the best multimask one (`_dynamic_multimask_via_stability`), but
        always the single mask's token.

        Args:
            candidates: Of N objects.
            num_points: (N,), a box counts two.
        """
        best = best_multimask(candidates)
        single = torch.zeros_like(best)
        ambiguous = num_points <= 1
        if self.training:
            mask_index = torch.where(ambiguous, best, single)
        else:
            stable = single_mask_is_stable(candidates)
            mask_index = torch.where(stable & ~ambiguous, single, best)
        return mask_index, torch.where(ambiguous, best, single)

    def object_pointer(self, token: Tensor, present: Tensor) -> Tensor:
        """Output token (N, D) -> pointer (N, D); a learned one where present (N,) is false."""
        return torch.where(present.unsqueeze(-1), self.obj_ptr_proj(token), self.no_obj_ptr)

    def encode_memory(
        self,
        image_embedding: Tensor,
        low_res_masks: Tensor,
        object_score_logits: Tensor,
        prompted: bool,
    ) -> Tensor:
        """Memory features (N, Dm, E, E) of a frame and its masks, official `_encode_new_memory`.

        Args:
            image_embedding: (B, D, E, E), not conditioned.
            low_res_masks: Float32 logits (N, 4E, 4E).
            object_score_logits: Float32 (N,).
            prompted: The masks answer a prompt: they are binarised, except in training.
        """
        logits = F.interpolate(
            low_res_masks.unsqueeze(1), scale_factor=4.0, mode='bilinear', align_corners=False
        )
        binarise = prompted and not self.training
        mask = (logits > 0).float() if binarise else logits.sigmoid()
        mask = (mask * MASK_SCALE + MASK_BIAS).to(image_embedding.dtype)
        features = self.memory_encoder(image_embedding, mask)
        if not self.config.no_object_embedding:
            return features
        absent = (object_score_logits <= 0)[:, None, None, None]
        marked = features + self.no_obj_embed_spatial[..., None, None]
        return torch.where(absent, marked, features)

    # Inside ------------------------------------------------------------------------------------

    def _remember(
        self,
        image_embedding: Tensor,
        candidates: Candidates,
        mask_index: Tensor,
        token_index: Tensor,
        prompted: bool,
    ) -> TrackOutput:
        """Chosen mask and pointer, and the frame's memory; second half of `_forward_sam_heads`."""
        score = candidates.object_score_logits
        present = score > 0
        masks = pick(candidates.masks, mask_index)
        masks = torch.where(present[:, None, None], masks, NO_OBJECT_LOGIT)
        pointer = self.object_pointer(pick(candidates.tokens, token_index), present)
        memory = self.encode_memory(image_embedding, masks, score, prompted)
        return TrackOutput(
            masks,
            pick(candidates.iou_scores, mask_index),
            score,
            pointer,
            memory,
            memory_norm(memory, pointer),
        )

    def _embed_previous(self, previous_logits: Tensor, has_previous: Tensor) -> Tensor:
        """Earlier mask logits, clamped as `add_new_points_or_box` does -> (N, D, E, E)."""
        prompts = self.sam_prompt_encoder
        logits = previous_logits.clamp(-PREVIOUS_LOGITS_LIMIT, PREVIOUS_LOGITS_LIMIT)
        embedded = prompts.mask(logits.unsqueeze(1).to(self.no_mem_embed.dtype))
        return torch.where((has_previous > 0)[:, None, None, None], embedded, prompts.no_mask())

    # Export ------------------------------------------------------------------------------------

    def prepare_for_export(self, half: bool = False) -> SAM2:
        """A frozen copy to export: evaluation mode, tables for its size as constants.

        Args:
            half: Apply the half-precision policy of `ops`; features and memory become float16.
        """
        model = copy.deepcopy(self).eval().requires_grad_(False)
        for module in model.modules():
            if hasattr(module, 'freeze'):
                module.freeze()
        # Nothing lies between the pyramid's fine levels and the decoder's projections of them.
        decoder, levels = model.sam_mask_decoder, model.image_encoder.neck.convs
        for level, name in ((levels[2], 'conv_s1'), (levels[3], 'conv_s0')):
            level.conv = merge_1x1(level.conv, getattr(decoder, name))
            setattr(decoder, name, nn.Identity())
        if half:
            to_half(model)
        return model


def embedding(*shape: int) -> nn.Parameter:
    """A learned embedding, initialised as the official ones."""
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(shape), std=0.02))
