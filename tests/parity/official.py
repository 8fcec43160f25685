"""The official `sam2` package as a reference: any size, random weights, frames from memory.

Import this module only after `pytest.importorskip('sam2')`; see `test_network.py`.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import sam2.sam2_video_predictor as video_module
import torch
from PIL import Image
from sam2.build_sam import build_sam2, build_sam2_video_predictor
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor, nn

from export.model.hiera import HieraConfig
from export.model.sam2 import IMAGE_MEAN, IMAGE_STD
from export.model.variants import ModelConfig

# Every config file differs only in what `overrides` sets, so one per generation will do.
CONFIG_21 = 'configs/sam2.1/sam2.1_hiera_b+.yaml'
CONFIG_20 = 'configs/sam2/sam2_hiera_b+.yaml'


def overrides(config: ModelConfig, image_size: int) -> list[str]:
    """Hydra overrides that give the official model the sizes of one of our configurations."""
    trunk = config.trunk
    if not isinstance(trunk, HieraConfig):
        raise TypeError(f'the official model has a Hiera trunk, not {type(trunk).__name__}')
    widths = [trunk.embed_dim * 2**stage for stage in range(len(trunk.stages))]
    background = trunk.window_pos_embed_bkg_spatial_size
    hidden, memory = config.hidden_dim, config.mem_dim
    layer = 'memory_attention.layer'
    values = {
        'image_size': image_size,
        'image_encoder.trunk.embed_dim': trunk.embed_dim,
        'image_encoder.trunk.num_heads': trunk.num_heads,
        'image_encoder.trunk.stages': list(trunk.stages),
        'image_encoder.trunk.global_att_blocks': list(trunk.global_att_blocks),
        'image_encoder.trunk.window_spec': list(trunk.window_spec),
        'image_encoder.trunk.window_pos_embed_bkg_spatial_size': [background, background],
        'image_encoder.neck.d_model': hidden,
        'image_encoder.neck.position_encoding.num_pos_feats': hidden,
        'image_encoder.neck.backbone_channel_list': widths[::-1],
        'memory_attention.d_model': hidden,
        'memory_attention.num_layers': config.memory_layers,
        f'{layer}.d_model': hidden,
        f'{layer}.dim_feedforward': config.memory_ffn_dim,
        f'{layer}.self_attention.embedding_dim': hidden,
        f'{layer}.cross_attention.embedding_dim': hidden,
        f'{layer}.cross_attention.kv_in_dim': memory,
        'memory_encoder.in_dim': hidden,
        'memory_encoder.out_dim': memory,
        'memory_encoder.position_encoding.num_pos_feats': memory,
        'memory_encoder.mask_downsampler.embed_dim': hidden,
        'memory_encoder.fuser.layer.dim': hidden,
        'memory_encoder.fuser.num_layers': config.fuser_layers,
    }
    return [f'++model.{name}={value}'.replace(' ', '') for name, value in values.items()]


def build_predictor(config: ModelConfig, image_size: int, seed: int = 0) -> SAM2VideoPredictor:
    """The official video predictor on the CPU, as a user gets it, with random weights.

    Post-processing is on (stability fallback, binarised memory after clicks), except hole filling,
    which needs a CUDA extension and without it does nothing but warn.

    Args:
        config: Sizes; its options tell SAM 2 from SAM 2.1.
        image_size: Side of the network's image in pixels.
        seed: Of the weights, see `randomise`.
    """
    predictor = build_sam2_video_predictor(
        CONFIG_21 if config.pointer_time else CONFIG_20,
        device='cpu',
        hydra_overrides_extra=overrides(config, image_size),
        apply_postprocessing=True,
        vos_optimized=False,
    )
    predictor.fill_hole_area = 0
    randomise(predictor, seed)
    return predictor


def from_config_file(name: str) -> SAM2Base:
    """The official model of a configuration file, such as configs/sam2.1/sam2.1_hiera_t."""
    return build_sam2(f'{name}.yaml', device=None)


def randomise(model: nn.Module, seed: int) -> None:
    """Gives every parameter a value that matters, in place, the same for the same seed.

    The usual initialisation leaves much at zero or one (biases, embeddings, the 1e-6 layer scale),
    where a mistake would not show. Mask logits come out as a few units of both signs, and objects
    are present unless `object_score_bias` says otherwise.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2 and parameter.shape[0] > 1 and parameter[0].numel() > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(0.2 * noise)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm) or type(module).__name__ == 'LayerNorm2d':
                module.weight += 1
            if type(module).__name__ == 'CXBlock':
                module.gamma += 1
    object_score_bias(model, 4.0)


def object_score_bias(model: nn.Module, value: float) -> None:
    """Sets the object score head's last bias, in place: far below 0, every object is absent."""
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(value)


def save_checkpoint(model: nn.Module, path: Path) -> Path:
    """Writes the weights as Meta's checkpoints are: a `.pt` with a state dict under 'model'."""
    torch.save({'model': model.state_dict()}, path)
    return path


def normalise(frame: np.ndarray, image_size: int) -> Tensor:
    """RGB uint8 frame (H, W, 3) -> float32 (3, S, S), as the official loader does it."""
    resized = np.asarray(Image.fromarray(frame).resize((image_size, image_size)))
    image = torch.from_numpy(resized / 255.0).permute(2, 0, 1).float()
    return (image - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[
        :, None, None
    ]


class _Float32Memory(types.ModuleType):
    """The name `torch` as the video predictor sees it, with bfloat16 meaning float32."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def float32_memory() -> Iterator[None]:
    """Within it, the official predictor keeps its memories in float32 instead of bfloat16."""
    with mock.patch.object(video_module, 'torch', _Float32Memory('torch')):
        yield


class OfficialVideo:
    """A video in the official predictor: frames given as arrays, memories kept in float32.

    Args:
        predictor: From `build_predictor`.
        frames: RGB uint8 (H, W, 3), all of one size. From 16 frames on, pointer times are scaled
            as in a stream without end (official `max_obj_ptrs_in_encoder`).
    """

    def __init__(self, predictor: SAM2VideoPredictor, frames: Sequence[np.ndarray]) -> None:
        self.predictor = predictor
        size = predictor.image_size
        images = torch.stack([normalise(frame, size) for frame in frames])
        height, width = frames[0].shape[:2]
        with mock.patch.object(
            video_module, 'load_video_frames', return_value=(images, height, width)
        ):
            self.state = predictor.init_state('frames given as arrays')

    def add_points(
        self,
        frame_index: int,
        object_id: int,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        box: Sequence[float] | None = None,
    ) -> np.ndarray:
        """Prompts an object, in frame pixels -> logits of all objects (N, H, W)."""
        with float32_memory():
            _, _, logits = self.predictor.add_new_points_or_box(
                self.state, frame_index, object_id, points=points, labels=labels, box=box
            )
        return logits[:, 0].numpy()

    def add_mask(self, frame_index: int, object_id: int, mask: np.ndarray) -> np.ndarray:
        """Prompts an object by a boolean mask (H, W) -> logits of all objects (N, H, W)."""
        with float32_memory():
            _, _, logits = self.predictor.add_new_mask(
                self.state, frame_index, object_id, torch.from_numpy(mask)
            )
        return logits[:, 0].numpy()

    def propagate(self, start: int, stop: int) -> Iterator[tuple[int, list[int], np.ndarray]]:
        """Tracks frames start..stop - 1; yields frame index, object ids, logits (N, H, W)."""
        with float32_memory(), mock.patch.object(video_module, 'tqdm', _no_progress):
            for index, object_ids, logits in self.predictor.propagate_in_video(
                self.state, start_frame_idx=start, max_frame_num_to_track=stop - 1 - start
            ):
                yield index, list(object_ids), logits[:, 0].numpy()

    def output(self, object_id: int, frame_index: int) -> dict[str, Any]:
        """What the predictor keeps of an object in a frame: pred_masks, obj_ptr and so on."""
        outputs = self.state['output_dict_per_obj'][self.state['obj_id_to_idx'][object_id]]
        for kind in ('cond_frame_outputs', 'non_cond_frame_outputs'):
            if frame_index in outputs[kind]:
                return outputs[kind][frame_index]
        raise KeyError(f'object {object_id} has no output in frame {frame_index}')


def _no_progress(iterable: Any, **_: Any) -> Any:
    return iterable
