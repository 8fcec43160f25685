"""What is ONNX Runtime's alone: threads, and the GPU it must not pretend to have."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sam2_rt.errors import BackendError
from sam2_rt.runtime.ort import OrtCudaRunner, OrtRunner
from tests.onnx_builder import onnx
from tests.runtime.engines import add_engine, product_engine

ort = pytest.importorskip('onnxruntime', reason='pip install onnxruntime')

TASKS = Path('/proc/self/task')
NO_CUDA = 'CUDAExecutionProvider' not in ort.get_available_providers()
ADDENDS = {'a': np.ones((1, 3), np.float32), 'b': np.int32([[1, 2, 3]])}


def product(runner: OrtRunner) -> None:
    runner.run('product', {'matrix': np.ones((768, 768), np.float32)})


COUNT_THREADS = """
import sys
from pathlib import Path
from tests.runtime.test_ort import TASKS, OrtRunner, product, product_engine

runner = OrtRunner(product_engine(Path(sys.argv[1])), threads=int(sys.argv[2]))
before = len(list(TASKS.iterdir()))
product(runner)
print(len(list(TASKS.iterdir())) - before)
"""


@pytest.mark.skipif(not TASKS.is_dir(), reason='Linux lists threads: run it there')
@pytest.mark.parametrize('threads', [1, 3])
def test_it_takes_no_more_threads_than_it_was_given(tmp_path, threads):
    # In a process of its own, where no other library's threads come and go.
    command = [sys.executable, '-c', COUNT_THREADS, str(tmp_path), str(threads)]
    root = Path(__file__).parents[2]
    printed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert int(printed) == threads - 1  # the caller works too


def test_idle_threads_sleep_as_soon_as_a_run_is_over(tmp_path):
    runner = OrtRunner(product_engine(tmp_path), threads=2)
    product(runner)
    burnt = []
    for _ in range(5):
        product(runner)
        start = time.process_time()
        time.sleep(0.06)
        burnt.append(time.process_time() - start)
    # Left to itself ONNX Runtime spins for about 24 ms of these 60.
    assert np.median(burnt) < 0.008


def test_precision_is_what_is_written_in_the_graphs(tmp_path):
    manifest = replace(add_engine(tmp_path), precision='fp16')
    assert OrtRunner.precisions(manifest) == ('fp16',)
    with pytest.raises(BackendError, match="runs this engine in fp16, .*'fp32' was asked for"):
        OrtRunner(manifest, 'fp32')


def test_a_graph_that_cannot_be_run_is_a_backend_error(tmp_path):
    manifest = add_engine(tmp_path)
    model = onnx.load(manifest.path('add'))
    model.opset_import[0].version = 9999
    onnx.save(model, manifest.path('add'))
    with pytest.raises(BackendError, match=r'add\.onnx cannot be loaded by onnxruntime: .*opset'):
        OrtRunner(manifest).run('add', ADDENDS)


@pytest.mark.skipif(not NO_CUDA, reason='for one without CUDA: pip install onnxruntime')
def test_without_a_cuda_build_the_cuda_runner_says_what_to_install(tmp_path):
    manifest = add_engine(tmp_path)
    message = 'has no CUDAExecutionProvider, only .*; install onnxruntime-gpu'
    with pytest.raises(BackendError, match=message):
        OrtCudaRunner.precisions(manifest)
    with pytest.raises(BackendError, match=message):
        OrtCudaRunner(manifest)


@pytest.mark.skipif(not NO_CUDA, reason='for one without CUDA: pip install onnxruntime')
@pytest.mark.filterwarnings('ignore:Specified provider')
def test_a_silent_fallback_to_the_cpu_is_an_error(tmp_path, monkeypatch):
    # A CUDA build without its libraries: the provider is listed, and dropped when it is needed.
    providers = ['CUDAExecutionProvider', 'CPUExecutionProvider']
    monkeypatch.setattr(ort, 'get_available_providers', lambda: providers)
    runner = OrtCudaRunner(add_engine(tmp_path))
    assert runner.info.device == 'CUDA'
    with pytest.raises(BackendError, match='asked for CUDAExec.* fell back to .*CPUExec'):
        runner.run('add', ADDENDS)
