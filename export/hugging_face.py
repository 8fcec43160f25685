"""Parameter names of Hugging Face checkpoints (transformers' Sam2VideoModel) -> official names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

MARK = 'vision_encoder.'
"""Prefix by which a Hugging Face checkpoint is recognised."""

_THREE_LAYERS = (
    r'(object_pointer_proj|output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head)'
)

# Every rule is tried on every name, in this order.
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Image encoder.
        (r'^vision_encoder\.backbone\.', 'image_encoder.trunk.'),
        (r'^vision_encoder\.neck\.convs\.(\d+)\.', r'image_encoder.neck.convs.\1.conv.'),
        (r'patch_embed\.projection', 'patch_embed.proj'),
        # Prompt encoder.
        (r'^prompt_encoder\.', 'sam_prompt_encoder.'),
        (r'^shared_image_embedding\.', 'sam_prompt_encoder.shared_embedding.'),
        (
            r'shared_embedding\.positional_embedding$',
            'pe_layer.positional_encoding_gaussian_matrix',
        ),
        (r'mask_embed\.conv1', 'mask_downscaling.0'),
        (r'mask_embed\.layer_norm1', 'mask_downscaling.1'),
        (r'mask_embed\.conv2', 'mask_downscaling.3'),
        (r'mask_embed\.layer_norm2', 'mask_downscaling.4'),
        (r'mask_embed\.conv3', 'mask_downscaling.6'),
        # Mask decoder.
        (r'^mask_decoder\.', 'sam_mask_decoder.'),
        (r'upscale_conv1', 'output_upscaling.0'),
        (r'upscale_layer_norm', 'output_upscaling.1'),
        (r'upscale_conv2', 'output_upscaling.3'),
        (r'layer_norm_final_attn', 'norm_final_attn'),
        # Memory encoder.
        (r'^memory_encoder\.feature_projection', 'memory_encoder.pix_feat_proj'),
        (r'^memory_encoder\.projection', 'memory_encoder.out_proj'),
        (r'mask_downsampler\.final_conv', 'mask_downsampler.encoder.12'),
        (r'memory_fuser\.layers\.(\d+)\.scale', r'fuser.layers.\1.gamma'),
        (r'memory_fuser', 'fuser'),
        (r'depthwise_conv', 'dwconv'),
        (r'pointwise_conv', 'pwconv'),
        # Multilayer perceptrons: the first and the last layer have names of their own.
        (_THREE_LAYERS + r'\.layers\.0', r'\1.layers.1'),
        (_THREE_LAYERS + r'\.proj_in', r'\1.layers.0'),
        (_THREE_LAYERS + r'\.proj_out', r'\1.layers.2'),
        (r'mlp\.proj_in', 'mlp.layers.0'),
        (r'mlp\.proj_out', 'mlp.layers.1'),
        # Everywhere.
        (r'\bo_proj\b', 'out_proj'),
        (r'\blayer_norm(\d?)\b', r'norm\1'),
        # Parameters of the model itself.
        (r'^object_pointer_proj', 'obj_ptr_proj'),
        (r'^temporal_positional_encoding_projection_layer', 'obj_ptr_tpos_proj'),
        (r'^memory_temporal_positional_encoding$', 'maskmem_tpos_enc'),
        (r'^no_memory_embedding$', 'no_mem_embed'),
        (r'^no_memory_positional_encoding$', 'no_mem_pos_enc'),
        (r'^no_object_pointer$', 'no_obj_ptr'),
        (r'^occlusion_spatial_embedding_parameter$', 'no_obj_embed_spatial'),
    )
)

# The mask downsampler's n-th layer is a convolution, a norm and an activation, numbered through.
_DOWNSAMPLER = re.compile(r'mask_downsampler\.layers\.(\d+)\.(conv|norm)\b')
_POINT_EMBED = 'sam_prompt_encoder.point_embed.weight'


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames a Hugging Face state dict's parameters; unknown names stay as they are.

    The random Fourier matrix, which Hugging Face stores once for the image and once for prompts,
    becomes one parameter; the (4, D) table of point embeddings becomes four.
    """
    official = {_official_name(name): tensor for name, tensor in state.items()}
    if _POINT_EMBED in official:
        for index, row in enumerate(official.pop(_POINT_EMBED)):
            official[f'sam_prompt_encoder.point_embeddings.{index}.weight'] = row[None].clone()
    return official


def _official_name(name: str) -> str:
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return _DOWNSAMPLER.sub(
        lambda m: f'mask_downsampler.encoder.{3 * int(m[1]) + (m[2] == "norm")}', name
    )
