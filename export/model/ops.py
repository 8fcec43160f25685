"""Primitives whose form in the exported graph matters, and the half-precision policy.

Half precision: parameters become float16, except those of normalisations. Normalisation, softmax
and mask logits are computed in float32; buffers (positional tables) stay float32 and are cast
where they are used. In a float32 model every cast is a no-op.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis, in float32 whatever the input's type."""

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.to(x.dtype)


class LayerNorm2d(LayerNorm):
    """Layer normalisation over the channels of (N, C, H, W), official `LayerNorm2d`."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLP(nn.Module):
    """Linear layers with an activation between them, official `MLP`."""

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        widths = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


class _ReshapeForOnnx(torch.autograd.Function):
    """One `Reshape` node with a constant shape; the tracer would emit Shape, Gather and Concat."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])

    @staticmethod
    def symbolic(g: Any, x: Any, shape: Sequence[int]) -> Any:
        target = list(shape)
        if -1 not in target and 0 in target:
            # The exporter's shape inference demands a -1 beside a 0; the last 0 may as well be it.
            target[len(target) - 1 - target[::-1].index(0)] = -1
        return g.op('Reshape', x, g.op('Constant', value_t=torch.tensor(target)))


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Reshape as ONNX defines it: 0 copies the input's size at that place, one -1 is inferred."""
    if torch.onnx.is_in_onnx_export():
        return _ReshapeForOnnx.apply(x, tuple(shape))
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention; the leading axes of q, k and v broadcast.

    Args:
        q: Queries (..., T, d).
        k: Keys (..., L, d).
        v: Values (..., L, e).
        scale: Factor of the scores.
        bias: Float32, added to the scaled scores (..., T, L).
        dropout: Probability of dropping an attention weight.

    Returns:
        (..., T, e), of q's type.
    """
    if not torch.onnx.is_in_onnx_export():
        batch = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        q, k, v = (x.expand(*batch, *x.shape[-2:]) for x in (q, k, v))
        mask = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
    # Scaling the queries, not the scores, keeps float16 products in range.
    scores = ((q * scale) @ k.transpose(-2, -1)).float()
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1).to(v.dtype) @ v


def merge_1x1(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """The 1 x 1 convolution that does what two in a row do; to be exported, not trained."""
    outer, inner = (conv.weight[:, :, 0, 0].double() for conv in (second, first))
    merged = nn.Conv2d(first.in_channels, second.out_channels, kernel_size=1)
    merged.weight.data = (outer @ inner).to(first.weight.dtype)[:, :, None, None]
    merged.bias.data = (outer @ first.bias.double() + second.bias).to(first.bias.dtype)
    return merged.requires_grad_(False)


def to_half(model: nn.Module) -> nn.Module:
    """Applies the half-precision policy to a model in place and returns it."""
    for module in model.modules():
        if not isinstance(module, nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.half()
    return model
