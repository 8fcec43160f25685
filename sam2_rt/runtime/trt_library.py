"""The installed TensorRT: which one it is, what it says, and what its versions call things.

TensorRT 8.6 to 11 and TensorRT for RTX share one Python interface as far as this package goes;
where they do not, the difference is here. This is the only file that imports them.
"""

from __future__ import annotations

import importlib
from collections import deque
from types import ModuleType
from typing import Any

from sam2_rt.errors import BackendError, DeviceMemoryError

LIBRARIES = ('tensorrt', 'tensorrt_rtx')
_DTYPES = {'UINT8': 'uint8', 'INT32': 'int32', 'HALF': 'float16', 'FLOAT': 'float32'}
_HOW_TO_INSTALL = (
    'on a Jetson: apt install python3-libnvinfer and a venv with --system-site-packages; on a '
    'desktop GPU: pip install tensorrt-rtx, or TensorRT from NVIDIA'
)


class TensorRT:
    """One TensorRT library.

    Attributes:
        module: `tensorrt` or `tensorrt_rtx`.
        name: the module's name.
        version: e.g. '10.3.0'.
        logger: passed to everything TensorRT makes; keeps the latest errors.
    """

    def __init__(self, module: ModuleType | Any) -> None:
        self.module = module
        self.name = str(module.__name__)
        self.version = str(module.__version__)
        self._errors: deque[str] = deque(maxlen=4)
        self.logger = _make_logger(module, self._errors)
        if not self.is_rtx:
            module.init_libnvinfer_plugins(self.logger, '')

    @property
    def is_rtx(self) -> bool:
        return self.name == 'tensorrt_rtx'

    @property
    def strongly_typed(self) -> bool:
        """Whether a network can be told to keep the types written in the graph (from 10 on)."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED')

    def dtype(self, kind: Any) -> str:
        """NumPy name of a TensorRT data type."""
        return _DTYPES.get(kind.name, str(kind.name))

    def said(self) -> str:
        """The latest errors, for a message; they are forgotten."""
        said = ' | '.join(self._errors) or 'it gave no reason'
        self._errors.clear()
        return said

    def error(self, doing: str) -> BackendError:
        """The error to raise after a call that reports failure through the log."""
        said = self.said()
        text = f'{self.name} {self.version}: {doing}: {said}'
        if 'memory' in said.lower() and ('out of' in said.lower() or 'alloc' in said.lower()):
            return DeviceMemoryError(
                f'{text}; close other programs that use the GPU, lower max_objects or use an '
                'engine with a smaller image size'
            )
        return BackendError(f'{text}; build the plans again with `sam2_rt build`')


def import_tensorrt(name: str = 'auto') -> TensorRT:
    """Imports TensorRT. Probe the driver first (`cuda.load_driver`).

    Args:
        name: 'tensorrt', 'tensorrt_rtx', or 'auto': the first of them that is installed.

    Raises:
        BackendError: none is installed, or its libraries cannot be loaded.
    """
    if name not in ('auto', *LIBRARIES):
        raise BackendError(f"TensorRT: expected 'auto' or one of {LIBRARIES}, got {name!r}")
    reasons = []
    for candidate in LIBRARIES if name == 'auto' else (name,):
        try:
            return TensorRT(importlib.import_module(candidate))
        except (ImportError, OSError, AttributeError, RuntimeError) as error:
            reasons.append(f'{candidate}: {error}')
    raise BackendError(f'TensorRT cannot be imported ({"; ".join(reasons)}); {_HOW_TO_INSTALL}')


def flags(kind: Any, *names: str) -> int:
    """A bit mask of those named flags that this version has."""
    return sum(1 << int(getattr(kind, name)) for name in names if hasattr(kind, name))


def _make_logger(module: Any, errors: deque[str]) -> Any:
    class Logger(module.ILogger):  # type: ignore[misc]
        """Keeps errors for our messages and drops the rest."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR):
                errors.append(message.strip()[:400])

    return Logger()
