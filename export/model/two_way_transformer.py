"""Two-way transformer of the mask decoder: tokens and image attend to each other."""

from __future__ import annotations

from torch import Tensor, nn

from export.model.ops import MLP, LayerNorm, attend, reshape


class Attention(nn.Module):
    """Multi-head attention, narrowed inside by a factor; official class of the same name."""

    def __init__(self, dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        self.inner = dim // downsample_rate
        self.num_heads = num_heads
        self.head_dim = self.inner // num_heads
        self.q_proj = nn.Linear(dim, self.inner)
        self.k_proj = nn.Linear(dim, self.inner)
        self.v_proj = nn.Linear(dim, self.inner)
        self.out_proj = nn.Linear(self.inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, T, dim), (B, L, dim), (B, L, dim) -> (B, T, dim); batches of 1 broadcast."""
        q = self._heads(self.q_proj(q))
        k = self._heads(self.k_proj(k))
        v = self._heads(self.v_proj(v))
        out = attend(q, k, v, self.head_dim**-0.5).transpose(1, 2)
        return self.out_proj(reshape(out, (0, -1, self.inner)))

    def _heads(self, x: Tensor) -> Tensor:
        return reshape(x, (0, -1, self.num_heads, self.head_dim)).transpose(1, 2)


class TwoWayAttentionBlock(nn.Module):
    """Tokens to tokens, tokens to image, MLP, image to tokens; official class of the same name."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample_rate=2)
        self.norm2 = LayerNorm(dim)
        self.mlp = MLP(dim, mlp_dim, dim, num_layers=2)
        self.norm3 = LayerNorm(dim)
        self.norm4 = LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample_rate=2)

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.first:  # the tokens are still their own position embedding
            queries = self.self_attn(queries, queries, queries)
        else:
            placed = queries + query_pe
            queries = queries + self.self_attn(placed, placed, queries)
        queries = self.norm1(queries)

        placed_keys = keys + key_pe
        queries = queries + self.cross_attn_token_to_image(queries + query_pe, placed_keys, keys)
        queries = self.norm2(queries)
        queries = self.norm3(queries + self.mlp(queries))

        keys = keys + self.cross_attn_image_to_token(placed_keys, queries + query_pe, queries)
        return queries, self.norm4(keys)


class TwoWayTransformer(nn.Module):
    """Official class of the same name."""

    def __init__(self, depth: int, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(dim, num_heads, mlp_dim, first=index == 0)
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample_rate=2)
        self.norm_final_attn = LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the blocks; a batch of 1 on either side broadcasts to the other's N.

        Args:
            image: (N, E * E, D) image tokens.
            image_pe: (1, E * E, D) their positions.
            tokens: (N or 1, T, D) output and prompt tokens.

        Returns:
            Tokens (N, T, D) and image tokens (N, E * E, D).
        """
        queries, keys = tokens, image
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, image_pe)
        attended = self.final_attn_token_to_image(queries + tokens, keys + image_pe, keys)
        return self.norm_final_attn(queries + attended), keys
