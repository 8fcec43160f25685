"""The Hugging Face implementation as a second reference: its file, its numbers, a whole video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')
transformers = pytest.importorskip('transformers', reason='needs transformers: make test-workshop')

from transformers.models.sam2.configuration_sam2 import (  # noqa: E402
    Sam2HieraDetConfig,
    Sam2VisionConfig,
)
from transformers.models.sam2_video.modeling_sam2_video import (  # noqa: E402
    Sam2VideoInferenceSession,
)

from export.checkpoint import load, read_checkpoint  # noqa: E402
from export.clips import synthetic_clip  # noqa: E402
from export.model import SAM2, ModelConfig  # noqa: E402
from export.model.hiera import HieraConfig  # noqa: E402
from export.model.sam2 import IMAGE_MEAN, IMAGE_STD  # noqa: E402
from export.model.variants import build_from_config  # noqa: E402
from export.stages import graph_specs  # noqa: E402
from export.torch_runner import TorchRunner  # noqa: E402
from sam2_rt.runtime.manifest import Manifest, MemorySpec  # noqa: E402
from sam2_rt.tracker import Tracker  # noqa: E402
from sam2_rt.types import BoxPrompt, PointPrompt  # noqa: E402

SIZE = 256
LENGTH = 16  # from here on, the scale of the pointers' time no longer depends on the length
PLAYED = 9  # enough for all memory slots to be used and the first to be replaced
TRUNK = HieraConfig(
    embed_dim=16,
    num_heads=1,
    stages=(1, 2, 3, 1),
    global_att_blocks=(4,),
    window_pos_embed_bkg_spatial_size=7,
)
OURS = ModelConfig(  # 64 memory channels are written in Hugging Face's code
    TRUNK, hidden_dim=128, mem_dim=64, memory_layers=2, memory_ffn_dim=128, fuser_layers=1
)


def their_config() -> transformers.Sam2VideoConfig:
    """The same sizes in Hugging Face's words."""
    widths = [TRUNK.embed_dim * 2**stage for stage in range(4)]
    vision = Sam2VisionConfig(
        backbone_config=Sam2HieraDetConfig(
            hidden_size=TRUNK.embed_dim,
            image_size=[SIZE, SIZE],
            blocks_per_stage=list(TRUNK.stages),
            embed_dim_per_stage=widths,
            num_attention_heads_per_stage=[1, 2, 4, 8],
            global_attention_blocks=list(TRUNK.global_att_blocks),
        ),
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[SIZE // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=OURS.hidden_dim,
    )
    return transformers.Sam2VideoConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config={'hidden_size': OURS.hidden_dim, 'image_size': SIZE},
        mask_decoder_config={'hidden_size': OURS.hidden_dim},
        image_size=SIZE,
        memory_attention_hidden_size=OURS.hidden_dim,
        memory_attention_num_layers=OURS.memory_layers,
        memory_attention_feed_forward_hidden_size=OURS.memory_ffn_dim,
        memory_attention_rope_feat_sizes=[SIZE // 16] * 2,
        memory_encoder_hidden_size=OURS.hidden_dim,
        memory_encoder_output_channels=OURS.mem_dim,
        mask_downsampler_embed_dim=OURS.hidden_dim,
        memory_fuser_num_layers=OURS.fuser_layers,
        memory_fuser_embed_dim=OURS.hidden_dim,
        memory_fuser_intermediate_dim=4 * OURS.hidden_dim,
    )


@pytest.fixture(scope='module')
def theirs() -> transformers.Sam2VideoModel:
    torch.manual_seed(0)
    model = transformers.Sam2VideoModel(their_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # as they start, many are zero and would prove little
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(
            model.shared_image_embedding.positional_embedding
        )
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(5.0)
    return model


@pytest.fixture(scope='module')
def ours(theirs: transformers.Sam2VideoModel, tmp_path_factory: pytest.TempPathFactory) -> SAM2:
    folder: Path = tmp_path_factory.mktemp('hugging_face')
    theirs.save_pretrained(folder)
    model = build_from_config(OURS, SIZE).eval()
    load(model, read_checkpoint(folder), source=str(folder))
    return model


def test_image_features(theirs: transformers.Sam2VideoModel, ours: SAM2) -> None:
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        s4, s8, s16 = theirs.get_image_features(image, return_dict=True).fpn_hidden_states
        for mine, other in zip(ours.embed_image(image), (s16, s4, s8), strict=True):
            other = other.reshape(mine.shape[2], mine.shape[3], 1, -1).permute(2, 3, 0, 1)
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', ['click', 'box'])
def test_video(kind: str, theirs: transformers.Sam2VideoModel, ours: SAM2) -> None:
    clip = synthetic_clip(0, LENGTH, size=(SIZE, SIZE))
    box = clip.boxes[0, 0]
    click = (box[:2] + box[2:]) / 2
    points, labels = {'click': (click[None], [1]), 'box': (box.reshape(2, 2), [2, 3])}[kind]

    frames = torch.from_numpy(np.stack([frame.image for frame in clip.frames])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    session = Sam2VideoInferenceSession(
        (frames / 255 - mean) / std, video_height=SIZE, video_width=SIZE, dtype=torch.float32
    )
    inputs = {
        'point_coords': torch.from_numpy(points)[None, None],
        'point_labels': torch.tensor(labels, dtype=torch.int32)[None, None],
    }
    session.add_point_inputs(session.obj_id_to_idx(1), 0, inputs)
    session.obj_with_new_inputs.append(1)

    memory = MemorySpec(2, 6, 15, OURS.mem_dim, OURS.hidden_dim)
    specs = graph_specs(SIZE, 'fp32', memory)
    manifest = Manifest(Path(), 'narrow', SIZE, 'fp32', 8, False, memory, specs, {})
    tracker = Tracker(TorchRunner(manifest, ours))
    with torch.no_grad():
        for index, frame in enumerate(clip.frames[:PLAYED]):
            expected = theirs(session, frame_idx=index).pred_masks[0, 0].numpy()
            result = tracker.step(frame)
            if index == 0:
                prompt = PointPrompt(click) if kind == 'click' else BoxPrompt(box)
                tracked = tracker.add_prompt(prompt).object
            else:
                (tracked,) = result.objects
            scale = np.abs(expected).max()
            assert np.abs(tracked.low_res_masks - expected).max() < 1e-3 * scale, index
            assert 0.01 < (expected > 0).mean() < 0.99
