"""export.verify: it passes what is right and catches what is wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')
pytest.importorskip('onnxruntime', reason='needs onnxruntime: make test-workshop')

from export.clips import synthetic_clip  # noqa: E402
from export.closed_loop import FIRST, SECOND, compare, play, scripted  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.networks import Network, with_random_weights  # noqa: E402
from export.torch_runner import TorchRunner  # noqa: E402
from export.verify import main, poisoned_outputs, verify  # noqa: E402
from sam2_rt.runtime.host import Execute, HostArrays  # noqa: E402
from sam2_rt.runtime.manifest import Manifest, load_manifest, sha256  # noqa: E402
from sam2_rt.types import BoxPrompt, MaskPrompt, PointPrompt  # noqa: E402


@pytest.fixture(scope='module')
def network() -> Network:
    return with_random_weights('micro', 256, 2, seed=0)


@pytest.fixture
def manifest(micro_engine: Path) -> Manifest:
    return load_manifest(micro_engine)


@pytest.fixture
def engine(micro_engine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(micro_engine, tmp_path / 'engine'))


class Faulty(TorchRunner):
    """The right network with something wrong on the way out."""

    def __init__(self, manifest: Manifest, network: Network, fault: str) -> None:
        super().__init__(manifest, network.model)
        self.fault = fault

    def _load(self, graph: str) -> Execute:
        right = super()._load(graph)

        def execute(inputs: HostArrays, outputs: HostArrays) -> None:
            if self.fault == 'leaves a mask unwritten' and 'low_res_masks' in outputs:
                right(
                    inputs, {**outputs, 'low_res_masks': np.empty_like(outputs['low_res_masks'])}
                )
            elif self.fault == 'ignores the image' and graph == 'encode':
                right({'image': np.zeros_like(inputs['image'])}, outputs)
            else:
                right(inputs, outputs)
            if self.fault == 'forgets' and 'new_memory_features' in outputs:
                outputs['new_memory_features'][...] = 0.0
            if self.fault == 'sees nothing' and 'object_score_logits' in outputs:
                outputs['object_score_logits'][...] = -1.0
                outputs['low_res_masks'][...] = -1024.0

        return execute


def test_scenario_covers_what_can_go_wrong() -> None:
    scenario = scripted(synthetic_clip(0, 9))
    kinds = {
        index: [(object_id, type(prompt)) for object_id, prompt in prompts]
        for index, prompts in scenario.prompts.items()
    }
    assert kinds == {
        0: [(FIRST, PointPrompt)],
        3: [(SECOND, BoxPrompt)],
        6: [(FIRST, PointPrompt), (SECOND, MaskPrompt)],
    }
    assert scenario.prompts[6][0][1].labels.tolist() == [0]  # type: ignore[union-attr]


def test_clips_differ_by_seed_and_only_by_seed() -> None:
    first, again, other = (synthetic_clip(seed, 3) for seed in (0, 0, 1))
    assert np.array_equal(first.frames[2].image, again.frames[2].image)
    assert not np.array_equal(first.frames[2].image, other.frames[2].image)
    assert not np.array_equal(first.frames[0].image, first.frames[2].image)
    height, width = first.frames[0].image.shape[:2]
    assert (first.boxes >= 0).all()
    assert (first.boxes[..., 2] <= width).all()
    assert (first.boxes[..., 3] <= height).all()


def test_command_line_passes_a_good_engine_and_records_it(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(engine), '--frames', '6', '--threshold', '0.999']) == 0
    told = capsys.readouterr().out
    assert 'passed' in told
    assert told.count(SECOND) == 4  # boxed on frame 2 of 6
    accuracy = load_manifest(engine).accuracy['onnxruntime fp32']
    assert accuracy['worst_iou'] > 0.999
    assert accuracy['worst_relative_logit_difference'] < 1e-3
    assert (accuracy['reference'], accuracy['frames']) == ('torch fp32', 6)


def test_engine_for_a_single_object(
    engine: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(manifest, folder=engine, max_objects=1).save()
    assert main([str(engine), '--frames', '3']) == 0
    assert SECOND not in capsys.readouterr().out


def test_command_line_fails_an_engine_with_other_weights(
    engine: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = np.fromfile(engine / 'weights.bin', np.float32)
    rng = np.random.default_rng(0)
    (weights * rng.uniform(0.5, 1.5, weights.shape).astype(np.float32)).tofile(
        engine / 'weights.bin'
    )
    files = {**manifest.files, 'weights.bin': sha256(engine / 'weights.bin')}
    replace(manifest, folder=engine, files=files).save()
    assert main([str(engine), '--frames', '4']) == 1
    assert 'failed: mask IoU' in capsys.readouterr().out
    assert load_manifest(engine).accuracy['onnxruntime fp32']['worst_iou'] < 0.99


def test_command_line_compares_two_engines_on_images(
    engine: Path, micro_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / 'images'
    images.mkdir()
    for index, frame in enumerate(synthetic_clip(3, 4).frames):
        cv2.imwrite(str(images / f'{index}.png'), frame.image)
    arguments = [str(engine), '--reference', str(micro_engine), '--clip', str(images)]
    assert main([*arguments, '--point', '80,120', '--frames', '3']) == 0
    accuracy = load_manifest(engine).accuracy['onnxruntime fp32']
    assert (accuracy['clip'], accuracy['frames']) == ('images', 3)
    assert main([*arguments, '--point', 'left']) == 1
    assert "--point: expected x,y, got 'left'" in capsys.readouterr().err


def test_command_line_wants_the_engines_own_checkpoint(
    engine: Path,
    manifest: Manifest,
    network: Network,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / 'micro.pt'
    torch.save({'model': network.model.state_dict()}, path)
    source = {'checkpoint': 'micro.pt', 'sha256': sha256(path)}
    replace(manifest, folder=engine, source=source).save()
    assert main([str(engine), '--checkpoint', str(path), '--frames', '3']) == 0
    with path.open('ab') as file:
        file.write(b'.')
    assert main([str(engine), '--checkpoint', str(path)]) == 1
    assert 'was exported from a checkpoint with SHA-256' in capsys.readouterr().err
    assert main([str(engine)]) == 1
    assert 'which is not at checkpoints/micro.pt; give --checkpoint' in capsys.readouterr().err


def test_poison_shows_what_a_graph_does_not_write(network: Network, manifest: Manifest) -> None:
    good = TorchRunner(manifest, network.model)
    scenario = scripted(synthetic_clip(0, 3))
    with poisoned_outputs():
        outcome = play(Faulty(manifest, network, 'leaves a mask unwritten'), scenario)
        intact = play(good, scenario)
    assert compare(play(good, scenario), outcome).worst_iou == 0.0
    assert compare(play(good, scenario), intact).worst_iou == 1.0


def test_engine_that_ignores_the_image(network: Network, manifest: Manifest) -> None:
    good, bad = (
        TorchRunner(manifest, network.model),
        Faulty(manifest, network, 'ignores the image'),
    )
    with pytest.raises(ExportError, match='two different clips gave the same masks'):
        verify(good, bad, scripted(synthetic_clip(0, 3)), 0)


def test_presence_that_differs_is_told(network: Network, manifest: Manifest) -> None:
    good = TorchRunner(manifest, network.model)
    scenario = scripted(synthetic_clip(0, 3))
    report = compare(
        play(good, scenario), play(Faulty(manifest, network, 'sees nothing'), scenario)
    )
    assert report.presence_agreement == 0.0
    assert report.worst_iou == 0.0
    assert report.empty_share == 0.0


def test_reference_that_sees_nothing_proves_nothing(network: Network, manifest: Manifest) -> None:
    blind = Faulty(manifest, network, 'sees nothing')
    good = TorchRunner(manifest, network.model)
    with pytest.raises(ExportError, match='saw no object on any frame'):
        verify(blind, good, scripted(synthetic_clip(0, 3)), 0, lambda text: None)


def test_memory_that_gets_lost_is_noticed(network: Network, manifest: Manifest) -> None:
    good = TorchRunner(manifest, network.model)
    scenario = scripted(synthetic_clip(0, 6))
    report = compare(play(good, scenario), play(Faulty(manifest, network, 'forgets'), scenario))
    by_frame = {each.frame_index: each for each in report.differences if each.object_id == FIRST}
    assert by_frame[0].logits == 0.0
    assert by_frame[5].logits > 1e-3


def test_too_short(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(['engine', '--frames', '2'])
    assert 'at least 3' in capsys.readouterr().err
    assert main(['no such folder']) == 1
    assert 'export.verify: engine no such folder is not a folder' in capsys.readouterr().err
