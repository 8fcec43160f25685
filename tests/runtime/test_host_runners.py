"""What ONNX Runtime's and OpenVINO's runners promise alike, on one small graph."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sam2_rt.errors import BackendError, EngineError
from sam2_rt.runtime import host
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.manifest import GraphSpec, TensorSpec
from sam2_rt.runtime.openvino import OpenVinoRunner
from sam2_rt.runtime.ort import OrtRunner
from tests.runtime.engines import SUM, TWICE, A, B, add_engine, cut_engine

RUNNERS = {'onnxruntime': OrtRunner, 'openvino': OpenVinoRunner}


@pytest.fixture(params=RUNNERS)
def runner_class(request):
    pytest.importorskip(request.param, reason=f'pip install {request.param}')
    return RUNNERS[request.param]


@pytest.fixture
def runner(runner_class, tmp_path):
    with runner_class(add_engine(tmp_path)) as runner:
        yield runner


def inputs(rows=1, value=1.0):
    return {'a': np.full((rows, 3), value, np.float32), 'b': np.int32([[10, 20, 30]])}


def test_a_graph_gives_what_it_calculates_for_every_number_of_objects(runner: Runner):
    for rows in (1, 2, 1):
        outputs = runner.run('add', inputs(rows))
        np.testing.assert_array_equal(outputs['sum'], [[11, 21, 31]] * rows)
        np.testing.assert_array_equal(outputs['twice'], [[2, 2, 2]] * rows)
        assert outputs['sum'].dtype == np.float32


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'c': np.zeros(3)}, r"missing inputs \[\], unknown inputs \['c'\]"),
        ({'a': None}, r"missing inputs \['a'\], unknown inputs \[\]"),
        ({'a': np.zeros((1, 3))}, 'input a must be float32, got float64'),
        ({'b': np.zeros((1, 3), np.uint8)}, 'input b must be int32, got uint8'),
        ({'a': np.zeros((1, 4), np.float32)}, r"a must have shape \('N', 3\), got \(1, 4\)"),
        ({'a': np.zeros(3, np.float32)}, r"a must have shape \('N', 3\), got \(3,\)"),
        ({'b': np.zeros((2, 3), np.int32)}, r'b must have shape \(1, 3\), got \(2, 3\)'),
        ({'a': np.zeros((3, 3), np.float32)}, '3 objects, but .* exported for 1 to 2'),
        ({'a': np.zeros((0, 3), np.float32)}, '0 objects, but .* exported for 1 to 2'),
    ],
)
def test_inputs_of_another_name_type_or_shape_are_refused(runner: Runner, change, message):
    wrong = {name: x for name, x in {**inputs(), **change}.items() if x is not None}
    with pytest.raises(BackendError, match=f'graph add: .*{message}'):
        runner.run('add', wrong)


def test_every_element_of_the_outputs_is_written(runner: Runner, monkeypatch):
    def poisoned(spec, inputs, allocate=host.allocate_outputs):
        outputs = allocate(spec, inputs)
        for value in outputs.values():
            value.fill(np.nan)
        return outputs

    monkeypatch.setattr(host, 'allocate_outputs', poisoned)
    for rows in (2, 1, 2):
        outputs = runner.run('add', inputs(rows))
        assert all(np.isfinite(value).all() for value in outputs.values())


def test_a_later_run_leaves_earlier_outputs_alone(runner: Runner):
    first = runner.run('add', inputs(value=1.0))
    second = runner.run('add', inputs(value=5.0))
    np.testing.assert_array_equal(first['sum'], [[11, 21, 31]])
    np.testing.assert_array_equal(second['sum'], [[15, 25, 35]])
    assert not np.shares_memory(first['twice'], second['twice'])


def test_inputs_may_be_views_or_read_only_and_are_not_changed(runner: Runner):
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)
    strided = wide[:, ::2]
    strided.setflags(write=False)
    outputs = runner.run('add', {**inputs(), 'a': strided})
    np.testing.assert_array_equal(outputs['twice'], [[0, 4, 8], [12, 16, 20]])
    np.testing.assert_array_equal(wide, np.arange(12).reshape(2, 6))


def test_a_row_of_a_resident_buffer_is_an_input_as_it_is(runner: Runner):
    bank = runner.allocate((4, 3), 'float32')
    assert not bank.any()
    runner.copy(bank[2], np.float32([1, 2, 3]))
    outputs = runner.run('add', {**inputs(), 'a': bank[2:4]})
    np.testing.assert_array_equal(outputs['twice'], [[2, 4, 6], [0, 0, 0]])


@pytest.mark.parametrize('source', [np.zeros(2, np.float32), np.zeros((1, 3)), np.zeros(3)])
def test_a_copy_neither_broadcasts_nor_converts(runner: Runner, source):
    with pytest.raises(BackendError, match=r'copy: expected \(3,\) float32, got'):
        runner.copy(runner.allocate((3,), 'float32'), source)


def test_an_output_of_another_size_than_promised_is_an_error(runner_class, tmp_path):
    runner = runner_class(cut_engine(tmp_path))
    a = np.float32([[1, 2, 3]])
    whole = runner.run('cut', {'a': a, 'count': np.int32([3])})
    np.testing.assert_array_equal(whole['columns'], a)
    with pytest.raises(BackendError, match=r'graph cut.*columns'):
        runner.run('cut', {'a': a, 'count': np.int32([2])})


def test_a_closed_runner_says_so(runner: Runner):
    runner.run('add', inputs())
    runner.close()
    with pytest.raises(BackendError, match='graph add: the runner is closed'):
        runner.run('add', inputs())


@pytest.mark.parametrize('keep', [0, 40, 150], ids='{} bytes'.format)
def test_a_truncated_graph_is_named(runner_class, tmp_path, keep):
    manifest = add_engine(tmp_path)
    path = manifest.path('add')
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EngineError, match=r'add\.onnx is not a whole ONNX graph'):
        runner_class(manifest).run('add', inputs())


def spec(*, a: TensorSpec = A, total: TensorSpec = SUM) -> GraphSpec:
    return GraphSpec('add.onnx', (a, B), (total, TWICE))


@pytest.mark.parametrize(
    ('told', 'message'),
    [
        (spec(a=replace(A, name='x')), r"lists inputs \['b', 'x'\], the file has \['a', 'b'\]"),
        (spec(total=replace(SUM, name='y')), r"lists outputs \['twice', 'y'\], the file has"),
        (spec(total=replace(SUM, dtype='float16')), r'output sum is float16 .*float32'),
        (spec(total=replace(SUM, shape=('N', 4))), r"output sum is float32 \('N', 4\)"),
        (spec(total=replace(SUM, shape=('N',))), r"output sum is float32 \('N',\)"),
        (spec(a=replace(A, shape=('N', 'Q'))), r"input a is float32 \('N', 'Q'\)"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(
    runner_class, tmp_path: Path, told, message
):
    manifest = add_engine(tmp_path, told)
    values = {
        tensor.name: np.zeros([1 if x == 'N' else 3 for x in tensor.shape], tensor.dtype)
        for tensor in told.inputs
    }
    values['b'] = np.zeros((1, 3), np.int32)
    with pytest.raises(EngineError, match=rf'add\.onnx: the manifest .*{message}'):
        runner_class(manifest).run('add', values)


def test_a_backend_that_is_not_installed_says_what_to_install(runner_class, tmp_path, monkeypatch):
    name = runner_class.backend
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"{name} cannot be imported .* pip install 'sam2_rt\[{name}\]'"
    with pytest.raises(BackendError, match=message):
        runner_class(add_engine(tmp_path))


def test_a_precision_the_backend_lacks_is_refused_at_once(runner_class, tmp_path):
    with pytest.raises(BackendError, match=f"{runner_class.backend}: .*'int3' was asked for"):
        runner_class(add_engine(tmp_path), 'int3')


def test_info_names_what_runs(runner: Runner, runner_class):
    info = runner.info
    assert (info.backend, info.device, info.precision) == (runner_class.backend, 'CPU', 'fp32')
    assert info.version[0].isdigit()
    assert '-' not in info.version
