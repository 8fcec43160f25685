"""Where training starts: small weights drawn so that positions already mean something.

From the usual random weights the decoder needs many hundred steps before a click says anything:
the point's token and the image cell under it carry the same position encoding, but random
projections do not see that. Here, queries and keys of an attention start with the same projection,
so that like positions attend to each other from the first step, and the memory attention starts
out looking at the same place in the memory. Everything stays trainable.
"""

from __future__ import annotations

import torch
from torch import nn

from export.model.sam2 import SAM2

_POSITION_GAIN = 1.75  # a matching position scores about 5 above a foreign one
_PLACE_BIAS = 1.5  # the memory's neighbourhood that counts is about 2 cells wide
_LABEL_SIZE = 0.5  # of learned labels, beside position encodings of size 1


@torch.no_grad()
def initialise(model: SAM2) -> None:
    """Redraws the weights that matter for the start, in place."""
    decoder, prompts = model.sam_mask_decoder, model.sam_prompt_encoder
    for layer in decoder.transformer.layers:
        for attention in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
            _tie(attention)
    _tie(decoder.transformer.final_attn_token_to_image)
    for embedding in (
        *prompts.point_embeddings,
        prompts.no_mask_embed,
        prompts.not_a_point_embed,
        decoder.iou_token,
        decoder.mask_tokens,
        decoder.obj_score_token,
    ):
        embedding.weight.normal_(0, _LABEL_SIZE)
    for layer in model.memory_attention.layers:
        place = layer.cross_attn_image
        for projection in (place.q_proj, place.k_proj):
            projection.bias.fill_(_PLACE_BIAS)
    for block in model.memory_encoder.fuser.layers:
        block.gamma.fill_(0.1)  # the official 1e-6 is for training that lasts


def _tie(attention: nn.Module) -> None:
    nn.init.orthogonal_(attention.q_proj.weight, _POSITION_GAIN)
    attention.k_proj.weight.copy_(attention.q_proj.weight)
    attention.q_proj.bias.zero_()
    attention.k_proj.bias.zero_()
