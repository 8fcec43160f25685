"""OpenVINO: the fastest on most x86 CPUs, above all on those with bfloat16 units."""

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

_DEVICE = 'CPU'
_EXTRA = 'sam2_rt[openvino]'
_HINTS = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}
"""Our precision names and OpenVINO's; its capability list has ours in capitals."""


class OpenVinoRunner(HostRunner):
    """Runs the graphs with OpenVINO on the CPU, whatever precision is written in them.

    Args:
        manifest: of the engine folder.
        precision: 'fp32', or 'bf16' / 'fp16' on CPUs with such units; 'auto' is fp32.
        threads: CPU threads for one graph; None for all usable physical cores.

    Raises:
        BackendError: openvino is not installed, or the CPU lacks the precision.
    """

    backend = 'openvino'

    def __init__(
        self, manifest: Manifest, precision: str = 'auto', threads: int | None = None
    ) -> None:
        super().__init__(manifest)
        self._precision = 'fp32' if precision == 'auto' else precision
        available = self.precisions(manifest)
        if self._precision not in available:
            raise BackendError(
                f'openvino: {precision!r} was asked for, but this CPU calculates in '
                f'{", ".join(available)} only; choose one of these'
            )
        self._openvino = import_backend('openvino', _EXTRA)
        self._core = self._openvino.Core()
        self._threads = threads or usable_cores()

    @classmethod
    def precisions(cls, manifest: Manifest) -> tuple[str, ...]:
        """Precisions this CPU calculates in; BackendError if openvino is not installed."""
        core = import_backend('openvino', _EXTRA).Core()
        capabilities = core.get_property(_DEVICE, 'OPTIMIZATION_CAPABILITIES')
        return tuple(name for name in _HINTS if name.upper() in capabilities)

    @staticmethod
    def version() -> str:
        """Of the installed package, without the build it was made in."""
        return str(import_backend('openvino', _EXTRA).__version__).partition('-')[0]

    @property
    def info(self) -> RunnerInfo:
        return RunnerInfo(self.backend, _DEVICE, self._precision, self.version())

    def _load(self, graph: str) -> Execute:
        path = self.manifest.path(graph)
        try:
            model = self._core.read_model(path)
        except Exception as error:
            raise EngineError(
                f'{path} is not a whole ONNX graph ({error}); copy or export the engine again'
            ) from error
        # The model as written, because compiling may sharpen shapes and drop unused inputs.
        inputs, outputs = _signature(model.inputs), _signature(model.outputs)
        check_signature(path, self.manifest.graphs[graph], inputs, outputs)
        try:
            compiled = self._core.compile_model(model, _DEVICE, self._properties())
        except Exception as error:
            raise BackendError(f'{path} cannot be compiled by openvino: {error}') from error
        self._check_precision(compiled)
        request = compiled.create_infer_request()
        tensor = self._openvino.Tensor

        def execute(inputs: HostArrays, outputs: HostArrays) -> None:
            for name, value in (*inputs.items(), *outputs.items()):
                request.set_tensor(name, tensor(value, shared_memory=True))
            request.infer()
            # An output smaller than its buffer is no error to OpenVINO: the rest stays garbage.
            for name, value in outputs.items():
                came = tuple(request.get_tensor(name).shape)
                if came != value.shape:
                    raise BackendError(
                        f'graph {graph}: output {name} must have shape {value.shape}, got {came}; '
                        'export the engine again'
                    )

        return execute

    def _properties(self) -> dict[str, Any]:
        return {
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_PRECISION_HINT': _HINTS[self._precision],
            'INFERENCE_NUM_THREADS': self._threads,
            # A pinned thread waits for whatever else the robot runs on its core.
            'ENABLE_CPU_PINNING': False,
        }

    def _check_precision(self, compiled: Any) -> None:
        used = compiled.get_property('INFERENCE_PRECISION_HINT')
        expected = getattr(self._openvino.Type, _HINTS[self._precision])
        if used != expected:
            raise BackendError(
                f'openvino: {self._precision} was asked for, but this CPU would calculate in '
                f'{used.get_type_name()}; choose fp32'
            )


def _signature(ports: list[Any]) -> Signature:
    return {
        name: (
            str(port.element_type.to_dtype()),
            tuple(None if axis.is_dynamic else axis.get_length() for axis in port.partial_shape),
        )
        for port in ports
        for name in port.names
    }
