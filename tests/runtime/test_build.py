"""`sam2_rt.runtime.build` on the fake GPU: the gate, the record, and what goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sam2_rt.errors import BackendError, DeviceMemoryError, EngineError
from sam2_rt.runtime.build import build
from sam2_rt.runtime.check import REQUIRED_IOU, check_accuracy, load_clip
from sam2_rt.runtime.manifest import load_manifest
from sam2_rt.runtime.ort import OrtRunner
from sam2_rt.runtime.trt import TrtRunner

BUNDLED = Path(__file__).parents[2] / 'engines/micro'


def test_build_records_what_the_gate_measured(gpu: SimpleNamespace, engine_copy: Path) -> None:
    lines: list[str] = []
    plans = build(engine_copy, progress=lines.append)
    assert plans.policy == 'tf32'
    assert plans.accuracy['tf32'] is not None
    assert plans.accuracy['tf32']['mean_iou'] > 0.99
    record = json.loads((engine_copy / 'plans/manifest.json').read_text())
    (name,) = record['targets']
    assert name == 'tensorrt-10.3.0.fake-gpu-sm87-8mp'
    assert record['targets'][name]['policy'] == 'tf32'
    assert any('mask IoU' in line for line in lines)
    names = sorted(path.name for path in (engine_copy / 'plans').iterdir())
    assert [x.partition('.')[0] for x in names] == [
        'encode', 'manifest', 'prompt', 'prompt_mask', 'timing', 'track',
    ]  # fmt: skip
    assert not gpu.driver.blocks


def test_bundled_engine(gpu: SimpleNamespace, tmp_path: Path) -> None:
    """Whose weights are stored in half, and beside the graphs."""
    folder = shutil.copytree(BUNDLED, tmp_path / 'micro', ignore=shutil.ignore_patterns('plans'))
    plans = build(folder)
    assert plans.policy == 'tf32'
    assert plans.accuracy['tf32']['mean_iou'] >= REQUIRED_IOU
    with TrtRunner(load_manifest(folder)) as runner:
        assert check_accuracy(runner).passed
        assert {'encode', 'track'} <= set(runner.captured)


def test_second_build_does_nothing(gpu: SimpleNamespace, engine_copy: Path) -> None:
    first = build(engine_copy)
    count = len(gpu.trt.built)
    assert build(engine_copy) == first
    assert len(gpu.trt.built) == count
    build(engine_copy, rebuild=True)
    assert len(gpu.trt.built) == 2 * count


def test_wrong_masks_are_refused_and_the_next_policy_taken(
    gpu: SimpleNamespace, engine_copy: Path
) -> None:
    def spoil(model: bytes, config: Any) -> bytes:
        # A plan that is wrong unless TF32 was switched off: another tolerance, 0.25 -> 0.0.
        return model if config.cleared else model.replace(np.float32(0.25).tobytes(), bytes(4))

    gpu.trt.spoil = spoil
    plans = build(engine_copy)
    assert plans.policy == 'fp32'
    assert plans.accuracy['tf32'] is not None
    assert plans.accuracy['tf32']['mean_iou'] < 0.99
    assert not list((engine_copy / 'plans').glob('*.tf32.plan'))


def test_no_policy_gives_the_right_masks(gpu: SimpleNamespace, engine_copy: Path) -> None:
    gpu.trt.spoil = lambda model, config: model.replace(np.float32(0.25).tobytes(), bytes(4))
    with pytest.raises(BackendError, match=r'no precision policy.*tf32 0\.\d+, fp32 0\.\d+'):
        build(engine_copy)
    assert not list((engine_copy / 'plans').glob('*.plan'))
    with pytest.raises(EngineError, match='no plans'):
        TrtRunner(load_manifest(engine_copy), 'fp32')


def test_failed_build_leaves_nothing_to_load(gpu: SimpleNamespace, engine_copy: Path) -> None:
    gpu.trt.builds_fail = 'no implementation for node 7'
    with pytest.raises(BackendError, match='no implementation for node 7'):
        build(engine_copy)
    assert not list((engine_copy / 'plans').glob('*.plan'))
    assert not gpu.driver.blocks


def test_out_of_memory_while_building(gpu: SimpleNamespace, engine_copy: Path) -> None:
    gpu.trt.builds_fail = 'Requested amount of GPU memory could not be allocated: out of memory'
    with pytest.raises(DeviceMemoryError, match='close other programs'):
        build(engine_copy)


def test_damaged_engine_is_not_built(gpu: SimpleNamespace, engine_copy: Path) -> None:
    path = engine_copy / 'track.onnx'
    path.write_bytes(path.read_bytes() + b' ')
    with pytest.raises(EngineError, match='truncated or altered'):
        build(engine_copy)
    assert not gpu.trt.built


def test_folder_that_cannot_be_written_to(
    gpu: SimpleNamespace, engine_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError('read-only file system')

    monkeypatch.setattr(Path, 'mkdir', refuse)
    with pytest.raises(EngineError, match=r'cannot be written.*copy the engine folder'):
        build(engine_copy)


def test_damaged_timing_cache_is_replaced(gpu: SimpleNamespace, engine_copy: Path) -> None:
    build(engine_copy)
    (cache,) = (engine_copy / 'plans').glob('timing.*')
    kept = cache.read_bytes()
    assert kept == b'timed ' * 4
    cache.write_bytes(b'damaged')
    build(engine_copy, rebuild=True)
    assert cache.read_bytes() == kept


def test_random_weights_are_not_gated(gpu: SimpleNamespace, engine_copy: Path) -> None:
    data = json.loads((engine_copy / 'manifest.json').read_text())
    (engine_copy / 'manifest.json').write_text(json.dumps({**data, 'trained': False}))
    assert build(engine_copy).accuracy == {'tf32': None}


def test_gate_is_the_check_that_other_backends_pass(
    gpu: SimpleNamespace, engine_copy: Path
) -> None:
    build(engine_copy)
    manifest = load_manifest(engine_copy)
    clip = load_clip(manifest.folder)
    with TrtRunner(manifest, 'fp32') as ours, OrtRunner(manifest, 'fp32', 1) as theirs:
        assert check_accuracy(ours, clip).mask_iou == check_accuracy(theirs, clip).mask_iou
