"""ONNX Runtime: on every CPU; on NVIDIA GPUs where its CUDA build is installed."""

from __future__ import annotations

from typing import Any

from sam2_rt.errors import BackendError, EngineError
from sam2_rt.runtime.base import RunnerInfo
from sam2_rt.runtime.cpu import usable_cores
from sam2_rt.runtime.host import (
    Execute,
    HostArrays,
    HostRunner,
    Signature,
    check_signature,
    import_backend,
)
from sam2_rt.runtime.manifest import Manifest

_DTYPES = {
    'tensor(uint8)': 'uint8',
    'tensor(int32)': 'int32',
    'tensor(float16)': 'float16',
    'tensor(float)': 'float32',
}


class OrtRunner(HostRunner):
    """Runs the graphs with ONNX Runtime, in the precision that is written in them.

    Args:
        manifest: of the engine folder.
        precision: the graphs' own; ONNX Runtime converts nothing.
        threads: CPU threads for one graph; None for all usable physical cores.

    Raises:
        BackendError: onnxruntime is not installed, its build lacks the device, or another
            precision was asked for.
    """

    backend = 'onnxruntime'
    extra = 'sam2_rt[onnxruntime]'
    provider = 'CPUExecutionProvider'

    def __init__(
        self, manifest: Manifest, precision: str = 'auto', threads: int | None = None
    ) -> None:
        super().__init__(manifest)
        if precision not in ('auto', *self.precisions(manifest)):
            raise BackendError(
                f'{self.backend}: runs this engine in {manifest.precision}, as its graphs are '
                f'written; {precision!r} was asked for: choose another backend or export again'
            )
        self._ort = import_backend('onnxruntime', self.extra)
        self._threads = threads or usable_cores()

    @classmethod
    def precisions(cls, manifest: Manifest) -> tuple[str, ...]:
        """Precisions this engine can be run in here; BackendError if there is no such device."""
        ort = import_backend('onnxruntime', cls.extra)
        if cls.provider not in ort.get_available_providers():
            raise BackendError(
                f'the installed onnxruntime {ort.__version__} has no {cls.provider}, only '
                f'{ort.get_available_providers()}; install {cls.extra}'
            )
        return (manifest.precision,)

    @classmethod
    def version(cls) -> str:
        """Of the installed package."""
        return str(import_backend('onnxruntime', cls.extra).__version__)

    @property
    def info(self) -> RunnerInfo:
        device = self.provider.removesuffix('ExecutionProvider')
        return RunnerInfo(self.backend, device, self.manifest.precision, self.version())

    def _load(self, graph: str) -> Execute:
        path = self.manifest.path(graph)
        states = self._ort.capi.onnxruntime_pybind11_state
        broken = (states.InvalidProtobuf, states.InvalidGraph, states.NoSuchFile)
        providers = list(dict.fromkeys((self.provider, 'CPUExecutionProvider')))
        try:
            session = self._ort.InferenceSession(str(path), self._options(), providers=providers)
        except (*broken, states.InvalidArgument) as error:
            raise EngineError(
                f'{path} is not a whole ONNX graph ({error}); copy or export the engine again'
            ) from error
        except Exception as error:
            raise BackendError(f'{path} cannot be loaded by {self.backend}: {error}') from error
        # A provider whose libraries are missing is dropped with no more than a warning.
        if session.get_providers()[0] != self.provider:
            raise BackendError(
                f'{self.backend}: asked for {self.provider}, ONNX Runtime fell back to '
                f'{session.get_providers()}; check that its libraries (CUDA, cuDNN) are installed'
            )
        inputs, outputs = _signature(session.get_inputs()), _signature(session.get_outputs())
        check_signature(path, self.manifest.graphs[graph], inputs, outputs)

        def execute(inputs: HostArrays, outputs: HostArrays) -> None:
            # Bound in place: `session.run` would copy every output once more.
            binding = session.io_binding()
            for name, value in inputs.items():
                binding.bind_cpu_input(name, value)
            for name, value in outputs.items():
                binding.bind_output(
                    name, 'cpu', 0, value.dtype.type, value.shape, value.ctypes.data
                )
            session.run_with_iobinding(binding)

        return execute

    def _options(self) -> Any:
        options = self._ort.SessionOptions()
        # A number given here also keeps ONNX Runtime from pinning its threads to cores, where
        # they would wait for whatever else the robot runs there.
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Waiting threads would spin, between operators and for 10 ms or so after every run. On a
        # processor shared with other work that cost Hiera-T's encoder 20 % more processor time
        # and 15 % more time than sleeping does, and others a core in the meantime.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        options.log_severity_level = 4  # whatever matters arrives as an exception
        return options


class OrtCudaRunner(OrtRunner):
    """The same on an NVIDIA GPU, with the tensors on the host between runs.

    For a quick start on a GPU without building plans: TensorRT keeps tensors on the device.
    """

    backend = 'onnxruntime-cuda'
    extra = 'onnxruntime-gpu'
    provider = 'CUDAExecutionProvider'


def _signature(tensors: list[Any]) -> Signature:
    return {
        tensor.name: (
            _DTYPES.get(tensor.type, tensor.type),
            tuple(length if isinstance(length, int) else None for length in tensor.shape),
        )
        for tensor in tensors
    }
