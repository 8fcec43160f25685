"""The driver wrapper and device arrays, on the fake driver."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from sam2_rt.errors import BackendError, DeviceLostError, DeviceMemoryError
from sam2_rt.runtime import cuda as module
from sam2_rt.runtime.cuda import Cuda, Device, describe, gpu_name, load_driver, probe
from sam2_rt.runtime.device_array import DevicePool
from tests.runtime.fake_driver import OUT_OF_MEMORY, FakeDriver


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver(capacity=1 << 20)


def test_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f'{name}: cannot open shared object file')

    monkeypatch.setattr(ctypes, 'CDLL', missing)
    with pytest.raises(BackendError, match=r'libcuda\.so\.1 cannot be loaded.*install the NVIDIA'):
        load_driver()


def test_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def __getattr__(self, name: str) -> Any:
            if name == 'cuGraphInstantiateWithFlags':
                raise AttributeError(name)
            return type('Function', (), {})()

    monkeypatch.setattr(ctypes, 'CDLL', lambda name: Old())
    with pytest.raises(BackendError, match=r'no cuGraphInstantiateWithFlags.*update the driver'):
        load_driver()


def test_driver_that_does_not_start(driver: FakeDriver) -> None:
    driver.fail['cuInit'] = 999
    with pytest.raises(BackendError, match='cannot be used: error 999'):
        probe(driver)


def test_driver_without_a_device(driver: FakeDriver) -> None:
    driver.devices = 0
    with pytest.raises(BackendError, match='it sees no device'):
        probe(driver)


def test_device_is_described_without_a_context(driver: FakeDriver) -> None:
    assert describe(driver) == Device('Fake GPU', (8, 7), 8, '12.2')
    assert 'cuDevicePrimaryCtxRetain' not in driver.calls


def test_a_gpu_s_name_tells_it_and_its_driver_from_others(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, 'load_driver', lambda: driver)
    assert gpu_name() == 'Fake GPU, sm_87, 8 multiprocessors, driver for CUDA 12.2'
    driver.name = b'Other GPU'
    assert gpu_name().startswith('Other GPU, ')
    driver.fail['cuDeviceGet'] = 999
    assert gpu_name() == ''


def test_machine_without_a_gpu_has_no_name_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise BackendError('libcuda.so.1 cannot be loaded')

    monkeypatch.setattr(module, 'load_driver', missing)
    assert gpu_name() == ''


def test_every_function_called_has_a_signature(driver: FakeDriver) -> None:
    """Without one, ctypes passes 64-bit addresses as 32-bit numbers."""
    used = {name for name in dir(FakeDriver) if name.startswith('_cu')}
    declared = {f'_{name.removesuffix("_v2")}' for name in module._SIGNATURES}
    assert used <= declared


@pytest.mark.parametrize(
    ('code', 'kind'), [(2, DeviceMemoryError), (700, DeviceLostError), (1, BackendError)]
)
def test_results_become_typed_errors(driver: FakeDriver, code: int, kind: type) -> None:
    cuda = Cuda(driver)
    driver.fail['cuMemsetD8Async'] = code
    with cuda.current(), pytest.raises(BackendError) as raised:
        cuda.fill_async(0, 0, 1)
    assert type(raised.value) is kind


def test_round_trip_through_the_device(driver: FakeDriver) -> None:
    cuda = Cuda(driver)
    with cuda.current():
        source, target = cuda.allocate_pinned(1000), cuda.allocate_pinned(1000)
        one, other = cuda.allocate(1000), cuda.allocate(1000)
        source[:] = np.arange(1000) % 251
        cuda.upload_async(one, source)
        cuda.copy_async(other, one, 1000)
        cuda.download_async(target, other)
        cuda.synchronise()
        np.testing.assert_array_equal(target, source)
        assert cuda.free_bytes() == (1 << 20) - 2000
        for address in (one, other):
            cuda.free(address)
        for array in (source, target):
            cuda.free_pinned(array)
    cuda.close()
    assert driver.used == 0


def test_capture_replays_and_gives_back_what_it_used(driver: FakeDriver) -> None:
    cuda = Cuda(driver)
    with cuda.current():
        address, host = cuda.allocate(8), cuda.allocate_pinned(8)
        with cuda.capture() as captured:
            cuda.fill_async(address, 7, 8)
        cuda.fill_async(address, 1, 8)
        cuda.launch_async(captured[0])
        cuda.download_async(host, address)
        cuda.synchronise()
        assert host.tolist() == [7] * 8
        assert list(driver.graphs) == captured
        cuda.destroy_graph(captured[0])
    assert not driver.graphs


def test_failed_capture_leaves_the_stream_usable(driver: FakeDriver) -> None:
    cuda = Cuda(driver)
    with cuda.current():
        with pytest.raises(RuntimeError, match='in the middle'), cuda.capture():
            raise RuntimeError('in the middle')
        cuda.synchronise()
    assert not driver.graphs


def test_calls_outside_a_context_are_noticed(driver: FakeDriver) -> None:
    cuda = Cuda(driver)
    with pytest.raises(BackendError):
        cuda.allocate(10)


# -- device arrays --------------------------------------------------------------------------------


def test_indexing_gives_views_as_numpy_does(driver: FakeDriver) -> None:
    cuda = Cuda(driver)
    with cuda.current():
        array = DevicePool(cuda).array((4, 3, 5), 'float16', fixed=True)
    model = np.zeros((4, 3, 5), np.float16)
    for pick in (lambda x: x[1], lambda x: x[-1], lambda x: x[1:3], lambda x: x[2][1]):
        ours, theirs = pick(array), pick(model)
        assert ours.shape == theirs.shape
        assert ours.nbytes == theirs.nbytes
        assert ours.address - array.address == theirs.ctypes.data - model.ctypes.data
        assert ours.block is array.block
        assert ours.fixed
    assert len(array[5:]) == 0
    for wrong in (4, -5, 'x', slice(None, None, 2)):
        with pytest.raises(BackendError, match='device array'):
            array[wrong]
    with pytest.raises(BackendError, match='cannot be iterated'):
        list(array)


def test_view_keeps_its_memory(driver: FakeDriver) -> None:
    cuda = Cuda(driver)
    with cuda.current():
        pool = DevicePool(cuda)
        view = pool.array((4, 100), 'float32')[1]
        other = pool.array((4, 100), 'float32')
        assert abs(other.address - view.address) >= 1600 - 400
        assert driver.calls['cuMemAlloc_v2'] == 2
        del view
        pool.array((4, 99), 'float32')  # the same size, rounded up
        assert driver.calls['cuMemAlloc_v2'] == 2


def test_full_pool(driver: FakeDriver) -> None:
    cuda = Cuda(driver)
    with cuda.current():
        pool = DevicePool(cuda)
        kept = pool.array((700_000,), 'uint8')
        with pytest.raises(DeviceMemoryError, match='0.6 MB'):
            pool.array((600_000,), 'uint8')
        del kept
        assert pool.array((600_000,), 'uint8').shape == (600_000,)
        driver.fail['cuMemAlloc_v2'] = OUT_OF_MEMORY
        with pytest.raises(DeviceMemoryError):
            pool.array((1,), 'uint8')
        del driver.fail['cuMemAlloc_v2']
        pool.close()
    assert driver.used == 0
