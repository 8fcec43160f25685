"""What is OpenVINO's alone: precisions that depend on the processor."""

import numpy as np
import pytest

from sam2_rt.errors import BackendError
from sam2_rt.runtime.openvino import OpenVinoRunner
from tests.runtime.engines import add_engine, product_engine

openvino = pytest.importorskip('openvino', reason='pip install openvino')

CAPABILITIES = openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
HAS_BF16 = 'BF16' in CAPABILITIES


def run_add(runner: OpenVinoRunner) -> np.ndarray:
    inputs = {'a': np.full((1, 3), 1.001, np.float32), 'b': np.int32([[0, 0, 0]])}
    return runner.run('add', inputs)['twice']


def test_precisions_are_those_of_the_processor(tmp_path):
    precisions = OpenVinoRunner.precisions(add_engine(tmp_path))
    assert precisions[0] == 'fp32'
    assert ('bf16' in precisions) == HAS_BF16


def test_precision_is_fp32_unless_another_one_is_named(tmp_path):
    with OpenVinoRunner(add_engine(tmp_path)) as runner:
        assert runner.info.precision == 'fp32'
        np.testing.assert_array_equal(run_add(runner), np.float32([[1.001] * 3]) * 2)


@pytest.mark.skipif(HAS_BF16, reason='for a processor without bf16: run it there')
def test_bf16_without_the_units_for_it_is_refused_at_once(tmp_path):
    with pytest.raises(BackendError, match=r"'bf16' was asked for, .* calculates in fp32.* only"):
        OpenVinoRunner(add_engine(tmp_path), 'bf16')


@pytest.mark.skipif(HAS_BF16, reason='for a processor without bf16: run it there')
def test_a_silent_fallback_to_fp32_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(OpenVinoRunner, 'precisions', lambda *_: ('fp32', 'bf16'))
    runner = OpenVinoRunner(add_engine(tmp_path), 'bf16')
    with pytest.raises(BackendError, match='bf16 was asked for, but this CPU would .* in f32'):
        run_add(runner)


@pytest.mark.skipif(not HAS_BF16, reason='for a processor with bf16 (AMX): run it there')
def test_bf16_rounds_and_fp32_does_not(tmp_path):
    matrix = np.full((768, 768), 1.001, np.float32)
    results = {}
    for precision in ('fp32', 'bf16'):
        with OpenVinoRunner(product_engine(tmp_path), precision) as runner:
            assert runner.info.precision == precision
            results[precision] = runner.run('product', {'matrix': matrix})['result'][0, 0]
    exact = 768 * np.float64(np.float32(1.001)) ** 2
    assert abs(results['fp32'] - exact) < 1e-3 * exact / 10
    assert 1e-4 * exact < abs(results['bf16'] - exact) < 1e-2 * exact


def test_threads_are_passed_on(tmp_path, monkeypatch):
    asked = []
    core = openvino.Core

    class Recording:
        def __init__(self):
            self._core = core()

        def __getattr__(self, name):
            return getattr(self._core, name)

        def compile_model(self, model, device, properties):
            asked.append(properties)
            compiled = self._core.compile_model(model, device, properties)
            asked.append(compiled.get_property('INFERENCE_NUM_THREADS'))
            return compiled

    monkeypatch.setattr(openvino, 'Core', Recording)
    run_add(OpenVinoRunner(add_engine(tmp_path), threads=1))
    properties, used = asked
    assert used == 1
    assert properties['ENABLE_CPU_PINNING'] is False


def test_a_graph_that_cannot_be_compiled_is_a_backend_error(tmp_path, monkeypatch):
    runner = OpenVinoRunner(add_engine(tmp_path))

    def fail(*_):
        raise RuntimeError('no such operation')

    monkeypatch.setattr(runner._core, 'compile_model', fail, raising=False)
    with pytest.raises(BackendError, match='cannot be compiled by openvino: no such operation'):
        run_add(runner)
