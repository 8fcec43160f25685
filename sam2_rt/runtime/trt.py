"""TensorRT: plans on an NVIDIA GPU, with everything but masks and scores staying there.

Every tensor of the graphs has a slot: device memory of its largest size, at an address that never
changes, so that a run can be captured as a CUDA graph. Per run, host inputs go through pinned
memory into their slots; the memory bank is read where it is; outputs the host wants come back
through pinned memory, the others are copied, on the device, into an array that is the caller's.
All of it is on one stream, and only a run with host outputs waits for it, once: a frame is two
launches and one wait. Images may come ahead, on a stream of their own: see uploads.py.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_rt.errors import BackendError, DeviceLostError, EngineError
from sam2_rt.runtime.base import Runner, RunnerInfo
from sam2_rt.runtime.compile_plan import MAX_POINTS, Lengths, sized
from sam2_rt.runtime.cuda import Cuda, describe, load_driver
from sam2_rt.runtime.device_array import DeviceArray, DevicePool
from sam2_rt.runtime.manifest import GRAPH_NAMES, GraphSpec, Manifest, TensorSpec
from sam2_rt.runtime.plans import FOLDER, PlanSet, Target, find_plans
from sam2_rt.runtime.trt_execution import (
    Execution,
    KernelCache,
    check_engine,
    scratch_bytes,
)
from sam2_rt.runtime.trt_library import TensorRT, import_tensorrt
from sam2_rt.runtime.uploads import StagedImage, Uploads
from sam2_rt.types import Array

_ALIGNMENT = 256  # TensorRT's for addresses of inputs and outputs
_EXECUTIONS = 32  # shapes kept ready: one each for encode and for track per N, some for prompts
_CAPTURED = ('encode', 'track')  # prompts come in ever other shapes


class _Slot:
    """Where a tensor of the graphs lies.

    Attributes:
        array: device memory of its largest size.
        pinned: host memory of that size, None for a resident tensor.
        mirrors: the caller's array whose values the slot holds, as far as known.
    """

    def __init__(self, array: DeviceArray, pinned: NDArray[np.uint8] | None) -> None:
        self.array = array
        self.pinned = pinned
        self.uploading = False
        self._mirrors: weakref.ref[DeviceArray] | None = None

    def mirrors(self, array: DeviceArray) -> bool:
        return self._mirrors is not None and self._mirrors() is array

    def set_mirror(self, array: DeviceArray | None) -> None:
        self._mirrors = None if array is None else weakref.ref(array)

    def shares_memory(self, array: DeviceArray) -> bool:
        """Whether writing into `array` makes the mirror differ from the slot."""
        mirrored = self._mirrors() if self._mirrors is not None else None
        return mirrored is not None and mirrored.block is array.block


class TrtRunner(Runner):
    """Runs an engine folder's plans.

    Args:
        manifest: of the engine folder.
        precision: 'auto', or 'fp32' or 'fp16', which must then be that of the plans.
        threads: ignored; the GPU has its own.
        plans: which to load; None for those this machine has built.
        capture: False runs every graph by plain enqueue.
        library: 'tensorrt', 'tensorrt_rtx', or 'auto' for the first that is installed.

    Raises:
        EngineError: there is no plan for this TensorRT and GPU; the reason is said.
        BackendError: no driver, no TensorRT, a plan cannot be loaded, or the device is full.
    """

    def __init__(
        self,
        manifest: Manifest,
        precision: str = 'auto',
        threads: int | None = None,
        *,
        plans: PlanSet | None = None,
        capture: bool = True,
        library: str = 'auto',
    ) -> None:
        super().__init__(manifest)
        driver = load_driver()
        self._library = import_tensorrt(library)
        self._plans = plans or find_plans(manifest, target(driver, self._library))
        if precision not in ('auto', arithmetic(self._plans.policy)):
            raise BackendError(
                f'{manifest.folder}: {precision} asked for, but its TensorRT plans calculate in '
                f'{self._plans.policy}; ask for {arithmetic(self._plans.policy)}'
            )
        self._capture = capture
        self._cuda = cuda = Cuda(driver)
        name = target(driver, self._library).name
        self._kernels = KernelCache(manifest.folder / FOLDER / f'kernels.{name}.cache')
        self._executions: OrderedDict[tuple[str, int, int], Execution] = OrderedDict()
        self._slots: dict[str, _Slot] = {}
        self._pool = DevicePool(cuda)
        self._uploads = Uploads(cuda, self._pool)
        self._closed = False
        try:
            with cuda.current():
                self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        """Deserialises the plans and allocates the slots."""
        folder = self.manifest.folder / FOLDER
        self._runtime = self._library.module.Runtime(self._library.logger)
        self._engines: dict[str, Any] = {}
        for graph in GRAPH_NAMES:
            path = folder / self._plans.plans[graph].file
            engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if engine is None:
                raise self._library.error(f'load {path}')
            check_engine(self._library, engine, graph, self.manifest.graphs[graph])
            self._engines[graph] = engine
        # Graphs run one after the other: one piece of memory serves all intermediate results.
        self._scratch = self._pool.take(max(map(scratch_bytes, self._engines.values())))

        most = {'N': self.manifest.max_objects, 'Q': MAX_POINTS}
        sizes: dict[str, int] = {}
        resident: dict[str, bool] = {}
        for spec in self.manifest.graphs.values():
            for tensor in (*spec.inputs, *spec.outputs):
                nbytes = prod(sized(tensor, most)) * np.dtype(tensor.dtype).itemsize
                sizes[tensor.name] = max(nbytes, sizes.get(tensor.name, 0))
                resident[tensor.name] = tensor.resident
        for name, nbytes in sizes.items():
            pinned = None if resident[name] else self._cuda.allocate_pinned(nbytes)
            self._slots[name] = _Slot(self._pool.array((nbytes,), 'uint8', fixed=True), pinned)
        self._uploads.allocate(sizes['image'])

    @classmethod
    def precisions(cls, manifest: Manifest) -> tuple[str, ...]:
        """The precision of the plans that this machine has built.

        Raises:
            BackendError: no driver, no TensorRT, or no plans.
        """
        try:
            found = find_plans(manifest, target(load_driver(), import_tensorrt()))
        except EngineError as error:
            raise BackendError(str(error)) from error
        return (arithmetic(found.policy),)

    @classmethod
    def version(cls) -> str:
        """Of TensorRT."""
        library = import_tensorrt()
        return f'{library.name} {library.version}'

    @property
    def info(self) -> RunnerInfo:
        device = self._cuda.device
        major, minor = device.compute_capability
        return RunnerInfo(
            self._library.name,
            f'{device.name} (sm_{major}{minor})',
            self._plans.policy,
            self._library.version,
        )

    @property
    def capture_refused(self) -> str:
        """Why graphs run by plain enqueue, '' if none does for want of capture."""
        return next((e.refused for e in self._executions.values() if e.refused), '')

    @property
    def captured(self) -> tuple[str, ...]:
        """Graphs that are replayed from a capture."""
        return tuple(key[0] for key, found in self._executions.items() if found.captured)

    @property
    def cuda(self) -> Cuda:
        """The device, for measurements."""
        return self._cuda

    @property
    def max_points(self) -> int:
        return MAX_POINTS

    def upload(self, image: NDArray[np.uint8]) -> StagedImage:
        self._require_open()
        return self._uploads.stage(image)

    def allocate(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        self._require_open()
        with self._cuda.current():
            array = self._pool.array(shape, dtype, fixed=True)
            self._cuda.fill_async(array.address, 0, array.nbytes)
        return array

    def copy(self, destination: DeviceArray, source: DeviceArray) -> None:
        self._require_open()
        if destination.shape != source.shape or destination.dtype != source.dtype:
            raise BackendError(
                f'copy: expected {destination.shape} {destination.dtype}, '
                f'got {source.shape} {source.dtype}'
            )
        for slot in self._slots.values():
            if slot.shares_memory(destination):
                slot.set_mirror(None)
        with self._cuda.current():
            self._cuda.copy_async(destination.address, source.address, source.nbytes)

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """A device array's values; waits for them. For tests and measurements."""
        host = np.empty(array.shape, array.dtype)
        with self._cuda.current():
            self._cuda.download_async(host.reshape(-1).view(np.uint8), array.address)
            self._synchronise()
        return host

    def _run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self._require_open()
        spec = self.manifest.graphs[graph]
        lengths: Lengths = {
            axis: length
            for tensor in spec.inputs
            for axis, length in zip(tensor.shape, inputs[tensor.name].shape, strict=True)
            if isinstance(axis, str)
        }
        with self._cuda.current():
            execution = self._execution(graph, spec, lengths)
            addresses = {
                tensor.name: self._give(tensor, inputs[tensor.name]) for tensor in spec.inputs
            }
            for tensor in spec.outputs:
                slot = self._slots[tensor.name]
                addresses[tensor.name] = slot.array.address
                slot.set_mirror(None)
            execution.run_async(addresses)
            return self._take(spec, lengths)

    def _execution(self, graph: str, spec: GraphSpec, lengths: Lengths) -> Execution:
        key = (graph, lengths.get('N', 0), lengths.get('Q', 0))
        if key not in self._executions:
            if len(self._executions) >= _EXECUTIONS:
                self._synchronise()
                self._executions.popitem(last=False)[1].close()
            self._executions[key] = Execution(
                self._library,
                self._cuda,
                self._engines[graph],
                graph,
                spec,
                lengths,
                max_objects=self.manifest.max_objects,
                scratch=(self._scratch.address, self._scratch.nbytes),
                capture=self._capture and graph in _CAPTURED,
                kernels=self._kernels,
            )
        self._executions.move_to_end(key)
        return self._executions[key]

    def _give(self, tensor: TensorSpec, value: Array) -> int:
        """Makes an input readable by the graph; returns the address to read it at."""
        slot = self._slots[tensor.name]
        if isinstance(value, StagedImage):
            if not self._uploads.copy_async(value, slot.array.address):
                self._upload(tensor, slot, value.host)
        elif not isinstance(value, DeviceArray):
            self._upload(tensor, slot, value)
        elif value.fixed and value.address % _ALIGNMENT == 0:
            return value.address
        elif not slot.mirrors(value):
            self._cuda.copy_async(slot.array.address, value.address, value.nbytes)
            slot.set_mirror(value)
        return slot.array.address

    def _upload(self, tensor: TensorSpec, slot: _Slot, value: NDArray[Any]) -> None:
        if slot.pinned is None:
            raise BackendError(
                f'input {tensor.name}: expected a device array (from allocate or an output), got '
                f'{type(value).__name__}'
            )
        if slot.uploading:
            # The last upload from this memory may still be under way: no output has been waited
            # for since.
            self._synchronise()
        staged = slot.pinned[: value.nbytes]
        staged[:] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        self._cuda.upload_async(slot.array.address, staged)
        slot.uploading = True

    def _take(self, spec: GraphSpec, lengths: Lengths) -> dict[str, Array]:
        """Makes outputs the caller's; waits if any goes to the host."""
        outputs: dict[str, Array] = {}
        staged: dict[str, NDArray[np.uint8]] = {}
        for tensor in spec.outputs:
            slot, shape = self._slots[tensor.name], sized(tensor, lengths)
            if slot.pinned is None:
                array = self._pool.array(shape, tensor.dtype)
                self._cuda.copy_async(array.address, slot.array.address, array.nbytes)
                slot.set_mirror(array)
                outputs[tensor.name] = array
            else:
                host = slot.pinned[: prod(shape) * np.dtype(tensor.dtype).itemsize]
                self._cuda.download_async(host, slot.array.address)
                staged[tensor.name] = host
        if staged:
            self._synchronise()
        for tensor in spec.outputs:
            if tensor.name in staged:
                values = staged[tensor.name].view(tensor.dtype).reshape(sized(tensor, lengths))
                outputs[tensor.name] = values.copy()
        return outputs

    def _synchronise(self) -> None:
        self._cuda.synchronise()
        for slot in self._slots.values():
            slot.uploading = False

    def _require_open(self) -> None:
        if self._closed:
            raise BackendError('the TensorRT runner is closed; open another one')

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # Of a lost device there is nothing to give back.
        with suppress(DeviceLostError):
            with self._cuda.current():
                self._cuda.synchronise()
                self._uploads.close()
                self._kernels.save()
                for execution in self._executions.values():
                    execution.close()
                self._executions.clear()
                # Contexts before engines before the runtime: TensorRT wants this order.
                self._engines = {}
                self._runtime = None
                for slot in self._slots.values():
                    if slot.pinned is not None:
                        self._cuda.free_pinned(slot.pinned)
                self._slots.clear()
                self._pool.close()
            self._cuda.close()


def target(driver: Any, library: TensorRT) -> Target:
    """What plans on this machine are tied to."""
    return Target(library.name, library.version, describe(driver))


def arithmetic(policy: str) -> str:
    """The precision that a policy's plans calculate in, for the most part."""
    return 'fp16' if policy.startswith('fp16') else 'fp32'
