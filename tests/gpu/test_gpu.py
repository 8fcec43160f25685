"""The checks of checks.py: on a real GPU where there is one, and tried out on the fake one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sam2_rt.errors import BackendError
from sam2_rt.runtime.check import load_clip
from sam2_rt.runtime.cuda import load_driver
from sam2_rt.runtime.manifest import load_manifest, sha256
from sam2_rt.runtime.trt_library import import_tensorrt

pytest.importorskip('onnxruntime', reason='TensorRT is compared with it: pip install onnxruntime')
from sam2_rt.runtime.build import build
from tests.gpu import __main__ as command
from tests.gpu import official, timing
from tests.gpu.checks import CHECKS, Subject
from tests.runtime.fake_tensorrt import install

MICRO = Path(__file__).parents[2] / 'engines/micro'


@pytest.fixture(scope='session')
def real(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The bundled engine with plans for this machine's GPU."""
    try:
        load_driver()
        import_tensorrt()
    except BackendError as error:
        pytest.skip(f'{error}; on a machine with a GPU: make gpu-check')
    folder = tmp_path_factory.mktemp('gpu') / 'micro'
    shutil.copytree(MICRO, folder)
    build(folder)
    return Subject(load_manifest(folder), long_frames=60, flat_frames=300)


@pytest.mark.parametrize('check', CHECKS, ids=lambda check: check.__name__)
def test_on_a_real_gpu(real: Subject, check: Callable[[Subject], str]) -> None:
    check(real)


# -- the same on the fake GPU: that an unattended run on a real one will come to its end ----------


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Of the TensorRT version that a test may give as parameter."""
    monkeypatch.setattr(timing, 'RUNS', 3)
    monkeypatch.setattr(timing, 'WARM_UP', 2)
    monkeypatch.setattr(timing, 'measured_peak_tflops', lambda: {'tf32': 0.5})
    return install(monkeypatch, getattr(request, 'param', '10.3.0'))


def run(engine: Path, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    few = ('--long-frames', '12', '--flat-frames', '60', '--no-official', '--out', str(out))
    status = command.main([str(engine), *few, *more])
    return status, json.loads((out / 'report.json').read_text())


@pytest.mark.parametrize('gpu', ['8.6.0', '10.3.0', '11.4.0.106', 'rtx-1.7.1'], indirect=True)
def test_whole_command(
    gpu: SimpleNamespace, engine_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, data = run(engine_copy, tmp_path / 'out')
    (report,) = data['engines']
    assert {name: found['passed'] for name, found in report['checks'].items()} == {
        check.__name__: True for check in CHECKS
    }
    assert status == 0
    assert report['measured']['bundled_iou'] > 0.99
    times = report['timings']
    assert times['track_1_captured_ms']['p50'] == 1.5
    assert times['capture_refused'] == ''
    assert 0 < times['encode_share_of_peak'] < 1
    assert times['frame_1_ms']['p50'] > 0
    assert times['frame_1_ahead_ms']['p50'] > 0
    assert report['failed_timings'] == []
    assert times['encode_and_track_overlapped_ms']['p50'] > 0
    assert times['low_res_logits_to_host_ms']['p50'] == 1.5
    table = capsys.readouterr().out
    library = f'{gpu.trt.__name__} {gpu.trt.__version__}'
    assert f'| tiny | Fake GPU | {library} | tf32 | 1.0000 | 1.50 | 1.50 |' in table
    assert table.strip() in (tmp_path / 'out/report.md').read_text()
    assert not gpu.driver.blocks


def test_wrong_outputs_fail_the_command(
    gpu: SimpleNamespace, engine_copy: Path, tmp_path: Path
) -> None:
    build(engine_copy)
    plan = next((engine_copy / 'plans').glob('track.*.plan'))
    # As if TensorRT gave other masks than when the plan passed the gate.
    wrong = plan.read_bytes().replace(np.float32(0.25).tobytes(), bytes(4))
    plan.write_bytes(wrong)
    record = engine_copy / 'plans/manifest.json'
    data = json.loads(record.read_text())
    next(iter(data['targets'].values()))['plans']['track']['sha256'] = sha256(plan)
    record.write_text(json.dumps(data))
    status, data = run(engine_copy, tmp_path / 'out', '--no-timings')
    checks = data['engines'][0]['checks']
    assert status == 1
    assert not checks['bundled_frames']['passed']
    assert not checks['long_replay']['passed']
    assert checks['flat_memory']['passed']


def test_failed_timing_loses_nothing_else(
    gpu: SimpleNamespace,
    engine_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(subject: Subject) -> dict[str, Any]:
        raise BackendError('no second runner')

    broken.__name__ = 'overlap_ms'
    monkeypatch.setattr(timing, 'overlap_ms', broken)
    status, data = run(engine_copy, tmp_path / 'out')
    (report,) = data['engines']
    assert status == 1
    assert report['failed_timings'] == ['overlap_ms']
    assert report['timings']['overlap_ms_failed'] == 'BackendError: no second runner'
    assert report['timings']['low_res_logits_to_host_ms']['p50'] == 1.5
    assert all(found['passed'] for found in report['checks'].values())


def test_engine_that_cannot_be_built_does_not_stop_the_others(
    gpu: SimpleNamespace, engine_copy: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    status = command.main(
        [str(tmp_path / 'nothing'), str(engine_copy), '--no-timings', '--out', str(out),
         '--long-frames', '6', '--flat-frames', '20']
    )  # fmt: skip
    first, second = json.loads((out / 'report.json').read_text())['engines']
    assert status == 1
    assert 'is not a folder' in first['failed']
    assert all(found['passed'] for found in second['checks'].values())


def test_operations_are_counted(tmp_path: Path) -> None:
    onnx = pytest.importorskip('onnx', reason='pip install onnx')
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node('Conv', ['x', 'kernel'], ['c'], pads=(1, 1, 1, 1)),
            helper.make_node('Reshape', ['c', 'shape'], ['r']),
            helper.make_node('MatMul', ['r', 'weight'], ['y']),
        ],
        'g',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, ['N', 3, 8, 8])],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, ['N', 64, 7])],
        [
            numpy_helper.from_array(np.zeros((5, 3, 3, 3), np.float32), 'kernel'),
            numpy_helper.from_array(np.asarray([-1, 64, 5]), 'shape'),
            numpy_helper.from_array(np.zeros((5, 7), np.float32), 'weight'),
        ],
    )
    opset = [helper.make_opsetid('', 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset), tmp_path / 'g.onnx')
    one = 2 * 64 * 5 * 27 + 2 * 64 * 7 * 5
    assert timing.flops(tmp_path / 'g.onnx') == one
    assert timing.flops(tmp_path / 'g.onnx', objects=3) == 3 * one


def test_official_predictor_is_left_out_with_a_reason(tiny_engine: Path) -> None:
    found = official.milliseconds('micro', 512, load_clip(tiny_engine))
    assert 'left_out' in found
