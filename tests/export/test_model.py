"""The network by itself: training, freezing for export, half precision, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')

from torch import Tensor, nn  # noqa: E402

from export.model import SAM2, ModelConfig, build  # noqa: E402
from export.model.hiera import HieraConfig  # noqa: E402
from export.model.ops import attend  # noqa: E402
from export.model.variants import build_from_config  # noqa: E402

CONFIG = ModelConfig(
    HieraConfig(embed_dim=8, num_heads=1, stages=(1, 1, 2, 1), global_att_blocks=(3,)),
    hidden_dim=32,
    mem_dim=16,
    memory_layers=1,
    memory_ffn_dim=64,
    memory_mask_channels=(2, 4, 8, 16),
    fuser_layers=1,
    decoder_heads=4,
    decoder_mlp_dim=64,
    iou_hidden_dim=32,
)
SIZE = 256


@pytest.fixture
def model() -> SAM2:
    torch.manual_seed(0)
    network = build_from_config(CONFIG, SIZE).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    return network


def two_clips(model: SAM2) -> dict[str, Tensor]:
    """Inputs of the stages for a frame each of two clips, with one object in each."""
    objects = 2
    generator = torch.Generator().manual_seed(1)
    grid, slots, pointers = model.grid, model.memory_slots, model.pointer_slots
    random = torch.randn
    return {
        'images': random(objects, 3, SIZE, SIZE, generator=generator),
        'maps': random(objects, slots, model.mem_dim, grid, grid, generator=generator),
        'map_time': torch.arange(slots, dtype=torch.int32).expand(objects, -1) - 1,
        'pointers': random(objects, pointers, model.hidden_dim, generator=generator),
        'pointer_time': torch.arange(pointers, dtype=torch.int32).expand(objects, -1) - 1,
        'coords': SIZE * torch.rand(objects, 2, 2, generator=generator),
        'labels': torch.tensor([[1, 0], [2, 3]], dtype=torch.int32),
        'previous': random(objects, 4 * grid, 4 * grid, generator=generator),
        'has_previous': torch.tensor([0, 1], dtype=torch.int32),
        'mask': torch.randint(0, 2, (objects, SIZE, SIZE), dtype=torch.uint8, generator=generator),
    }


def run_everything(model: SAM2) -> list[Tensor]:
    """The outputs of every stage on a batch of frames."""
    given = two_clips(model)
    features = model.embed_image(given['images'])
    memory = [given[name] for name in ('maps', 'map_time', 'pointers', 'pointer_time')]
    points = [given[name] for name in ('coords', 'labels', 'previous', 'has_previous')]
    empty = torch.full_like(memory[1], -1)
    first = model.prompt(*features, memory[0], empty, *memory[2:], *points)
    return [
        *model.track(*features, *memory),
        *model.prompt(*features, *memory, *points),
        *first,
        *model.prompt_mask(*features, given['mask']),
    ]


def test_gradients_reach_every_parameter(model: SAM2) -> None:
    model.train()
    sum(output.square().mean() for output in run_everything(model)).backward()
    without = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    # The objects are present, so what stands for absence is unused; the third is never used.
    assert without == {'no_obj_ptr', 'no_obj_embed_spatial', 'no_mem_pos_enc'}
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_dropout_only_while_training(model: SAM2) -> None:
    def tracked() -> Tensor:
        with torch.no_grad():
            return run_everything(model)[0]

    assert torch.equal(tracked(), tracked())
    model.train()
    assert not torch.equal(tracked(), tracked())


def test_memory_of_a_prompted_frame_is_binarised_except_in_training(model: SAM2) -> None:
    masks = torch.linspace(-3, 3, 64 * 64).reshape(1, 64, 64)
    features = torch.randn(1, 32, 16, 16)
    score = torch.ones(1)

    def memory(prompted: bool) -> Tensor:
        with torch.no_grad():
            return model.encode_memory(features, masks, score, prompted)

    hard, soft = memory(True), memory(False)
    assert not torch.allclose(hard, soft, atol=1e-3)
    assert torch.equal(hard, memory(True))
    model.train()
    torch.testing.assert_close(memory(True), soft)


def test_a_frozen_copy_gives_the_same_and_leaves_the_original_alone(model: SAM2) -> None:
    model.train()
    frozen = model.prepare_for_export()
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.image_encoder.trunk.frozen_positions is None
    model.eval()
    with torch.no_grad():
        for ours, theirs in zip(run_everything(frozen), run_everything(model), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=3e-4)
        for parameter in model.parameters():
            parameter.zero_()
        assert any(output.any() for output in run_everything(frozen))


def test_half_precision_spares_normalisation_and_tables(model: SAM2) -> None:
    half = model.prepare_for_export(half=True)
    for module in half.modules():
        wanted = torch.float32 if isinstance(module, nn.LayerNorm) else torch.float16
        assert all(parameter.dtype == wanted for parameter in module.parameters(recurse=False))
    assert all(buffer.dtype == torch.float32 for buffer in half.buffers())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_attention_survives_large_scores_and_empty_slots() -> None:
    q = torch.full((1, 4, 64), 100.0)
    k = torch.cat((q, -q), dim=1)
    v = torch.arange(8.0).reshape(1, 8, 1)
    bias = torch.zeros(1, 1, 8)
    bias[..., :2] = -30000.0
    # the scores are 80000 and -80000: the last four lose by score, the first two by their bias
    torch.testing.assert_close(attend(q, k, v, 0.125, bias), torch.full((1, 4, 1), 2.5))


def test_unknown_variant() -> None:
    with pytest.raises(ValueError, match=r"unknown variant 'sam3'.*sam2\.1_hiera_tiny"):
        build('sam3')


@pytest.mark.parametrize('size', [0, 500, 640])
def test_unsupported_image_size(size: int) -> None:
    with pytest.raises(ValueError, match=f'image size {size}; choose one of: 256, .*, 1024'):
        build('sam2.1_hiera_tiny', size)


def test_no_conditioning_slot() -> None:
    with pytest.raises(ValueError, match='at least 1, got 0'):
        build('sam2.1_hiera_tiny', 512, conditioning_slots=0)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'mem_dim': 24}, 'hidden_dim 32 and mem_dim 24'),
        ({'hidden_dim': 40, 'mem_dim': 20}, 'multiple of 16'),
        ({'decoder_heads': 3}, '3 heads and hidden_dim 32'),
        ({'memory_mask_channels': (4, 16)}, r'four steps.*\(4, 16\)'),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
