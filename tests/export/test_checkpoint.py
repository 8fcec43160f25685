"""Checkpoints: both layouts, strictness, and what a user reads when one does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')

from torch import Tensor  # noqa: E402

from export.checkpoint import guess_variant, load, read_checkpoint  # noqa: E402
from export.errors import CheckpointError, ExportError  # noqa: E402
from export.hugging_face import official_state  # noqa: E402
from export.model import SAM2, VARIANTS, build  # noqa: E402
from export.networks import from_checkpoint  # noqa: E402
from sam2_rt.runtime.manifest import sha256  # noqa: E402


@pytest.fixture(scope='module')
def micro() -> SAM2:
    torch.manual_seed(0)
    return build('micro', 256)


@pytest.fixture
def meta_file(micro: SAM2, tmp_path: Path) -> Path:
    path = tmp_path / 'micro.pt'
    torch.save({'model': micro.state_dict()}, path)
    return path


def shapes_of(variant: str) -> dict[str, Tensor]:
    """A variant's parameters without values."""
    with torch.device('meta'):
        return build(variant, 256).state_dict()


def test_meta_checkpoint(micro: SAM2, meta_file: Path) -> None:
    network = from_checkpoint(meta_file, 256, 2)
    assert (network.variant, network.trained) == ('micro', True)
    assert network.source == {'checkpoint': 'micro.pt', 'sha256': sha256(meta_file)}
    loaded = network.model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in micro.state_dict().items())


def test_half_precision_checkpoint_becomes_float32(micro: SAM2, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in micro.state_dict().items()}
    torch.save({'model': half}, tmp_path / 'half.pt')
    state = read_checkpoint(tmp_path / 'half.pt')
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_variant_is_recognised(variant: str) -> None:
    assert guess_variant(shapes_of(variant)) == variant


@pytest.mark.parametrize('generation', ['sam2', 'sam2.1'])
def test_hugging_face_layout_covers_every_parameter(generation: str) -> None:
    transformers = pytest.importorskip('transformers', reason='make test-workshop')
    is_new = generation == 'sam2.1'
    config = transformers.Sam2VideoConfig(
        enable_temporal_pos_encoding_for_object_pointers=is_new,
        enable_occlusion_spatial_embedding=is_new,
    )
    with torch.device('meta'):
        theirs = transformers.Sam2VideoModel(config).state_dict()
    assert guess_variant(official_state(theirs)) == f'{generation}_hiera_tiny'


def test_hugging_face_values_keep_their_meaning() -> None:
    state = {
        'prompt_encoder.point_embed.weight': torch.arange(8.0).reshape(4, 2),
        'mask_decoder.iou_prediction_head.proj_in.weight': torch.tensor(0.0),
        'mask_decoder.iou_prediction_head.layers.0.weight': torch.tensor(1.0),
        'mask_decoder.iou_prediction_head.proj_out.weight': torch.tensor(2.0),
        'memory_encoder.mask_downsampler.layers.2.layer_norm.bias': torch.tensor(3.0),
        'a_name_from_the_future': torch.tensor(4.0),
    }
    official = official_state(state)
    for label in range(4):
        row = official[f'sam_prompt_encoder.point_embeddings.{label}.weight']
        assert row.tolist() == [[2.0 * label, 2.0 * label + 1]]
    for layer in range(3):
        assert official[f'sam_mask_decoder.iou_prediction_head.layers.{layer}.weight'] == layer
    assert official['memory_encoder.mask_downsampler.encoder.7.bias'] == 3
    assert 'a_name_from_the_future' in official


def test_safetensors_file_and_folder(micro: SAM2, tmp_path: Path) -> None:
    safetensors = pytest.importorskip('safetensors.torch', reason='make test-workshop')
    safetensors.save_file(micro.state_dict(), tmp_path / 'model.safetensors')
    for path in (tmp_path, tmp_path / 'model.safetensors'):
        network = from_checkpoint(path, 256, 2)
        assert network.source['checkpoint'] == 'model.safetensors'
        assert torch.equal(network.model.no_obj_ptr, micro.no_obj_ptr)


def test_report_is_bounded_and_names_the_right_variant(micro: SAM2) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(micro, shapes_of('sam2.1_hiera_large'), source='large.pt')
    message = str(caught.value)
    assert message.startswith('large.pt: does not fit this network')
    assert re.search(r'\d+ unexpected:\n(    .+\n){4}    … and \d+ more', message)
    assert re.search(r'no_mem_embed: expected \(1, 1, 96\), got \(1, 1, 256\)', message)
    assert message.endswith(
        'It is a checkpoint of sam2.1_hiera_large: use --variant sam2.1_hiera_large.'
    )
    assert len(message.splitlines()) < 22


def test_one_missing_parameter(micro: SAM2) -> None:
    state = dict(micro.state_dict())
    del state['no_obj_ptr']
    with pytest.raises(CheckpointError, match='1 missing:\n    no_obj_ptr\n') as caught:
        load(micro, state, source='x.pt')
    assert str(caught.value).endswith('the closest is micro (1 parameters differ).')


def test_nothing_is_loaded_when_something_does_not_fit(micro: SAM2) -> None:
    state = {name: torch.zeros_like(tensor) for name, tensor in micro.state_dict().items()}
    state['surplus'] = torch.zeros(1)
    before = micro.no_obj_ptr.clone()
    with pytest.raises(CheckpointError, match='1 unexpected:\n    surplus'):
        load(micro, state, source='x.pt')
    assert torch.equal(micro.no_obj_ptr, before)
    assert before.abs().sum() > 0


def test_image_model_is_told_apart(micro: SAM2) -> None:
    state = {k: v for k, v in shapes_of('sam2.1_hiera_tiny').items() if 'memory' not in k}
    with pytest.raises(CheckpointError, match='it is not a video model'):
        load(micro, state, source='image.safetensors')


def test_unknown_network(meta_file: Path, micro: SAM2, tmp_path: Path) -> None:
    torch.save({'model': {'weight': torch.zeros(3)}}, tmp_path / 'other.pt')
    with pytest.raises(ExportError, match=r'fit no known variant; give --variant .*micro'):
        from_checkpoint(tmp_path / 'other.pt', 256, 2)
    with pytest.raises(ExportError, match=r"unknown variant 'nano'"):
        from_checkpoint(meta_file, 256, 2, variant='nano')
    with pytest.raises(ExportError, match='unsupported image size 300'):
        from_checkpoint(meta_file, 300, 2)


@pytest.mark.parametrize(
    'cut',
    [lambda n: 0, lambda n: 10, lambda n: n // 2, lambda n: n - 1],
    ids=['empty', 'header', 'half', 'last byte'],
)
@pytest.mark.parametrize('kind', ['pt', 'safetensors'])
def test_truncated(
    kind: str, cut: Callable[[int], int], micro: SAM2, meta_file: Path, tmp_path: Path
) -> None:
    if kind == 'safetensors':
        safetensors = pytest.importorskip('safetensors.torch', reason='make test-workshop')
        meta_file = tmp_path / 'micro.safetensors'
        safetensors.save_file(micro.state_dict(), meta_file)
    content = meta_file.read_bytes()
    meta_file.write_bytes(content[: cut(len(content))])
    with pytest.raises(CheckpointError, match='cannot be read as .* truncated'):
        read_checkpoint(meta_file)


def test_web_page_instead_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / 'page.pt').write_text('<html>Please log in</html>')
    with pytest.raises(CheckpointError, match='truncated or something else'):
        read_checkpoint(tmp_path / 'page.pt')


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({'model': Payload(tmp_path / 'was here')}, tmp_path / 'evil.pt')
    with pytest.raises(CheckpointError, match='cannot be read as a PyTorch checkpoint'):
        read_checkpoint(tmp_path / 'evil.pt')
    assert not (tmp_path / 'was here').exists()


def test_other_content(tmp_path: Path) -> None:
    torch.save({'state_dict': {}, 'epoch': 3}, tmp_path / 'other.pt')
    with pytest.raises(CheckpointError, match=r"got \['state_dict', 'epoch'\]"):
        read_checkpoint(tmp_path / 'other.pt')


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'no such checkpoint; fetch one'):
        read_checkpoint(tmp_path / 'none.pt')
