"""The network against the official code, stage by stage, with random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from unittest import mock

import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')
pytest.importorskip(
    'sam2',
    reason='needs the official package as reference: SAM2_BUILD_CUDA=0 pip install --no-deps '
    '--no-build-isolation sam2==1.1.0',
)

from export.model import VARIANTS, build  # noqa: E402
from export.model.variants import BASE_PLUS, LARGE, SMALL, TINY  # noqa: E402
from tests.parity import official, pairs  # noqa: E402
from tests.parity.pairs import NARROW, NARROW_20, Pair, assert_match  # noqa: E402

CLICK = ([[100.0, 60.0]], [1])
BACKGROUND_CLICK = ([[40.5, 200.25]], [0])
BOX = ([[30.0, 50.0], [170.0, 140.0]], [2, 3])
BOX_AND_CLICKS = ([*BOX[0], [90.0, 90.0], [200.0, 30.0]], [2, 3, 1, 0])
THREE_CLICKS = ([[100.0, 60.0], [30.0, 220.0], [180.0, 99.0]], [1, 0, 1])


@pytest.fixture(scope='module', params=pairs.MODELS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(*pairs.MODELS[request.param])


@pytest.fixture(scope='module')
def narrow() -> Pair:
    return Pair(NARROW, 256)


def points(prompt: tuple[list[list[float]], list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([prompt[0]]), torch.tensor([prompt[1]], dtype=torch.int32)


def no_previous(pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    side = 4 * pair.ours.grid
    return torch.full((1, side, side), 50.0), torch.zeros(1, dtype=torch.int32)


@pytest.mark.parametrize('variant', [name for name in VARIANTS if 'hiera' in name])
def test_state_dict_has_the_official_names_and_shapes(variant: str) -> None:
    generation, size = variant.split('_hiera_')
    letter = {'tiny': 't', 'small': 's', 'base_plus': 'b+', 'large': 'l'}[size]
    # Hiera asks linspace for numbers, which the meta device does not have.
    linspace = partial(torch.linspace, device='cpu')
    with torch.device('meta'), mock.patch('torch.linspace', linspace):
        reference = official.from_config_file(f'configs/{generation}/{generation}_hiera_{letter}')
        ours = build(variant, 512)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in reference.state_dict().items()}


@pytest.mark.parametrize(
    'trunk', [TINY, SMALL, BASE_PLUS, LARGE], ids=['tiny', 'small', 'base_plus', 'large']
)
def test_every_trunk_layout_encodes_as_official(trunk: official.HieraConfig) -> None:
    width = 8 * trunk.num_heads
    pair = Pair(replace(NARROW, trunk=replace(trunk, embed_dim=width)), 256)
    s4, s8, s16 = pair.pyramid['backbone_fpn']
    for ours, reference in zip(pair.features, (s16, s4, s8), strict=True):
        assert_match(ours, reference)


def test_encode(pair: Pair) -> None:
    s4, s8, s16 = pair.pyramid['backbone_fpn']
    for ours, reference in zip(pair.features, (s16, s4, s8), strict=True):
        assert_match(ours, reference)


@pytest.mark.parametrize(
    'prompt',
    [CLICK, BACKGROUND_CLICK, BOX, BOX_AND_CLICKS, THREE_CLICKS],
    ids=['click', 'background', 'box', 'box+clicks', 'clicks'],
)
def test_first_prompt(pair: Pair, prompt: tuple[list[list[float]], list[int]]) -> None:
    coords, labels = points(prompt)
    outputs = pair.run('prompt', *pair.memory().ours, coords, labels, *no_previous(pair))
    pair.check(outputs, points=(coords, labels))


@pytest.mark.parametrize(
    ('conditioning', 'recent'),
    [((1,), ()), ((3,), (1, 2)), ((40, 9), tuple(range(1, 16))), ((90, 3), (1, 2, 5, 8, 15))],
    ids=['one frame', 'three frames', 'full', 'gaps'],
)
def test_track(pair: Pair, conditioning: tuple[int, ...], recent: tuple[int, ...]) -> None:
    memory = pair.memory(conditioning, recent)
    outputs = pair.run('track', *memory.ours)
    pair.check(outputs, memory)
    norm = outputs.new_memory_features.abs().mean() + outputs.object_pointer.abs().mean()
    torch.testing.assert_close(outputs.memory_norm, norm[None])


@pytest.mark.parametrize('prompt', [CLICK, THREE_CLICKS], ids=['one click', 'three clicks'])
@pytest.mark.parametrize('with_previous', [False, True])
def test_correction(
    pair: Pair, prompt: tuple[list[list[float]], list[int]], with_previous: bool
) -> None:
    memory = pair.memory((20,), (1, 2, 3))
    coords, labels = points(prompt)
    previous = None
    previous_logits, has_previous = no_previous(pair)
    if with_previous:
        generator = torch.Generator().manual_seed(7)
        # some beyond the limit of 32 that the official predictor sets
        previous = previous_logits = 30 * torch.randn(previous_logits.shape, generator=generator)
        has_previous = torch.ones_like(has_previous)
    outputs = pair.run('prompt', *memory.ours, coords, labels, previous_logits, has_previous)
    pair.check(outputs, memory, points=(coords, labels), previous=previous)


@pytest.mark.parametrize('kind', ['blob', 'empty', 'everything'])
def test_prompt_mask(pair: Pair, kind: str) -> None:
    size = pair.ours.image_size
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    if kind == 'blob':
        mask[:, size // 3 : size // 2 + 1, 5 : size // 2] = 1
        mask[:, -3:, -1:] = 1
    elif kind == 'everything':
        mask += 1
    pair.check(pair.run('prompt_mask', mask), mask=mask)


def test_absent_object(pair: Pair) -> None:
    memory = pair.memory((20,), (1, 2))
    size = pair.ours.image_size
    mask = torch.ones(1, size, size, dtype=torch.uint8)
    with pairs.object_score(pair, -30.0):
        tracked = pair.run('track', *memory.ours)
        pair.check(tracked, memory)
        pair.check(pair.run('prompt_mask', mask), mask=mask)
    assert tracked.object_score_logits.item() < 0
    assert (tracked.low_res_masks == -1024).all()
    torch.testing.assert_close(tracked.object_pointer, pair.ours.no_obj_ptr.data)


@pytest.mark.parametrize(('scale', 'stable'), [(1000.0, True), (0.01, False)])
def test_an_unstable_single_mask_gives_way(narrow: Pair, scale: float, stable: bool) -> None:
    coords, labels = points(BOX)
    with pairs.single_mask_scale(narrow, scale):
        outputs = narrow.run('prompt', *narrow.memory().ours, coords, labels, *no_previous(narrow))
        narrow.check(outputs, points=(coords, labels))
    chosen = [torch.equal(outputs.low_res_masks[0], mask) for mask in outputs.candidate_masks[0]]
    assert any(chosen) is not stable


def test_candidates_keep_their_logits_when_the_object_is_absent(narrow: Pair) -> None:
    coords, labels = points(CLICK)
    inputs = (*narrow.memory().ours, coords, labels, *no_previous(narrow))
    present = narrow.run('prompt', *inputs)
    with pairs.object_score(narrow, -30.0):
        absent = narrow.run('prompt', *inputs)
    assert (absent.low_res_masks == -1024).all()
    assert torch.equal(absent.candidate_masks, present.candidate_masks)


@pytest.mark.parametrize('config', [NARROW, NARROW_20], ids=['2.1', '2.0'])
def test_objects_in_a_batch_do_not_mix(config: pairs.ModelConfig) -> None:
    pair = Pair(config, 256)
    memories = [pair.memory((9,), (1, 2)), pair.memory(), pair.memory((40, 7), range(1, 16))]
    prompts = [points(BOX), points(([[9.0, 9.0], [1.0, 2.0]], [1, -1])), points(BOX)]
    side = 4 * pair.ours.grid
    previous = torch.randn(3, side, side, generator=torch.Generator().manual_seed(3))
    has_previous = torch.tensor([1, 0, 0], dtype=torch.int32)
    rows = [
        (*memory.ours, *prompt, previous[i : i + 1], has_previous[i : i + 1])
        for i, (memory, prompt) in enumerate(zip(memories, prompts, strict=True))
    ]
    batch = [torch.cat(column) for column in zip(*rows, strict=True)]
    for stage, count in (('track', 4), ('prompt', 11)):
        together = pair.run(stage, *batch[:count])
        for i, row in enumerate(rows):
            if stage == 'track' and i == 1:
                continue  # nothing to track: without memory the result has no meaning
            alone = pair.run(stage, *row[:count])
            for name in alone._fields:
                if stage == 'prompt' and 'memory' in name:
                    continue  # binarised: a logit at 0 would round to either side
                assert_match(getattr(together, name)[i], getattr(alone, name)[0])


def test_a_batch_of_frames_is_the_same_as_single_frames(narrow: Pair) -> None:
    frames = [pairs.blocks_image(256, seed) for seed in (1, 2)]
    images = torch.stack([official.normalise(frame, 256) for frame in frames])
    memories = [narrow.memory((9,), (1, 2)), narrow.memory((40, 7), range(1, 16))]
    rows = [memory.ours for memory in memories]
    with torch.inference_mode():
        features = narrow.ours.embed_image(images)
        batch = [torch.cat(column) for column in zip(*rows, strict=True)]
        together = narrow.ours.track(*features, *batch)
        for i, row in enumerate(rows):
            alone = narrow.ours.track(*narrow.ours.embed_image(images[i : i + 1]), *row)
            for batched, single in zip(together, alone, strict=True):
                assert_match(batched[i], single[0])
