"""The networks by name: sizes of every variant, and how to build one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from export.model.conv_trunk import ConvTrunkConfig
from export.model.hiera import HieraConfig
from export.model.sam2 import SAM2

IMAGE_SIZES = (256, 384, 512, 768, 1024)


class TrunkConfig(Protocol):
    """What makes a trunk: a module from (B, 3, S, S) to four maps, see `ImageEncoder`."""

    def build(self, image_size: int) -> nn.Module:
        """Makes the trunk for square images of the given side in pixels."""
        ...


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and options of a network; the defaults are those of SAM 2.1.

    Attributes:
        trunk: The image trunk.
        hidden_dim: D, channels of the image embedding, tokens and pointers. A multiple of 16.
        mem_dim: Dm, channels of memory features; divides hidden_dim.
        memory_layers: Layers of the memory attention.
        memory_ffn_dim: Hidden channels of their MLPs.
        memory_dropout: Their dropout while training.
        memory_mask_channels: Channels of the memory encoder's four mask downsampling steps.
        fuser_layers: ConvNeXt blocks of the memory encoder.
        decoder_depth: Blocks of the mask decoder's two-way transformer.
        decoder_heads: Their attention heads; divides hidden_dim / 2.
        decoder_mlp_dim: Hidden channels of their MLPs.
        iou_hidden_dim: Hidden channels of the mask decoder's IoU head.
        prompt_mask_channels: Hidden channels of the prompt encoder's mask embedding.
        pointer_time: Object pointers carry a projected temporal encoding (SAM 2.1).
        no_object_embedding: Memory of a frame without the object is marked (SAM 2.1).
        remember_above: See `MemorySpec`; SAM 2 remembers every frame.
    """

    trunk: TrunkConfig
    hidden_dim: int = 256
    mem_dim: int = 64
    memory_layers: int = 4
    memory_ffn_dim: int = 2048
    memory_dropout: float = 0.1
    memory_mask_channels: tuple[int, ...] = (4, 16, 64, 256)
    fuser_layers: int = 2
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_hidden_dim: int = 256
    prompt_mask_channels: int = 16
    pointer_time: bool = True
    no_object_embedding: bool = True
    remember_above: float | None = None

    def __post_init__(self) -> None:
        if self.hidden_dim % 16 or self.hidden_dim % self.mem_dim:
            raise ValueError(
                'hidden_dim must be a multiple of 16 and of mem_dim, '
                f'got hidden_dim {self.hidden_dim} and mem_dim {self.mem_dim}'
            )
        if self.hidden_dim // 2 % self.decoder_heads:
            raise ValueError(
                'decoder_heads must divide hidden_dim / 2, '
                f'got {self.decoder_heads} heads and hidden_dim {self.hidden_dim}'
            )
        if len(self.memory_mask_channels) != 4:
            raise ValueError(
                'memory_mask_channels needs four steps, from stride 1 to stride 16, '
                f'got {self.memory_mask_channels}'
            )


TINY = HieraConfig(
    embed_dim=96,
    num_heads=1,
    stages=(1, 2, 7, 2),
    global_att_blocks=(5, 7, 9),
    window_pos_embed_bkg_spatial_size=7,
)
SMALL = HieraConfig(
    embed_dim=96,
    num_heads=1,
    stages=(1, 2, 11, 2),
    global_att_blocks=(7, 10, 13),
    window_pos_embed_bkg_spatial_size=7,
)
BASE_PLUS = HieraConfig()
LARGE = HieraConfig(
    embed_dim=144,
    num_heads=2,
    stages=(2, 6, 36, 4),
    global_att_blocks=(23, 33, 43),
    window_spec=(8, 4, 16, 8),
    window_pos_embed_bkg_spatial_size=7,
)

# The bundled network: the same parts, narrow, for a camera's rate on two processor cores.
MICRO = ModelConfig(
    ConvTrunkConfig(),
    hidden_dim=96,
    mem_dim=48,
    memory_layers=2,
    memory_ffn_dim=256,
    memory_dropout=0.0,
    memory_mask_channels=(4, 16, 32, 96),
    decoder_heads=4,
    decoder_mlp_dim=256,
    iou_hidden_dim=96,
    remember_above=2.0,
)


def _sam2(trunk: HieraConfig) -> ModelConfig:
    """SAM 2, July 2024: pointers without time, memory without the no-object mark."""
    return ModelConfig(trunk, pointer_time=False, no_object_embedding=False)


VARIANTS = {
    'sam2_hiera_tiny': _sam2(TINY),
    'sam2_hiera_small': _sam2(SMALL),
    'sam2_hiera_base_plus': _sam2(BASE_PLUS),
    'sam2_hiera_large': _sam2(LARGE),
    'sam2.1_hiera_tiny': ModelConfig(TINY),
    'sam2.1_hiera_small': ModelConfig(SMALL),
    'sam2.1_hiera_base_plus': ModelConfig(BASE_PLUS),
    'sam2.1_hiera_large': ModelConfig(LARGE),
    'micro': MICRO,
}


def build(variant: str, image_size: int = 1024, conditioning_slots: int = 2) -> SAM2:
    """Makes a network with random weights.

    Args:
        variant: A name in `VARIANTS`.
        image_size: S, side of the network's square image in pixels, one of `IMAGE_SIZES`.
        conditioning_slots: C, memory slots for prompted frames, at least 1.

    Raises:
        ValueError: Unknown variant or size; the message lists the known ones.
    """
    if variant not in VARIANTS:
        raise ValueError(f'unknown variant {variant!r}; choose one of: {", ".join(VARIANTS)}')
    return build_from_config(VARIANTS[variant], image_size, conditioning_slots)


def build_from_config(config: ModelConfig, image_size: int, conditioning_slots: int = 2) -> SAM2:
    """As `build`, for a configuration that has no name."""
    if image_size not in IMAGE_SIZES:
        sizes = ', '.join(map(str, IMAGE_SIZES))
        raise ValueError(f'unsupported image size {image_size}; choose one of: {sizes}')
    if conditioning_slots < 1:
        raise ValueError(f'conditioning_slots must be at least 1, got {conditioning_slots}')
    return SAM2(config, image_size, conditioning_slots)
