"""A fake GPU, an engine folder with plans for it, and a runner of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sam2_rt.runtime.build import build
from sam2_rt.runtime.manifest import Manifest, load_manifest
from sam2_rt.runtime.trt import TrtRunner


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    pytest.importorskip('onnxruntime', reason='it runs the fake GPU: pip install onnxruntime')
    from tests.runtime.fake_tensorrt import install

    return install(monkeypatch)


@pytest.fixture
def manifest(gpu: SimpleNamespace, engine_copy: Path) -> Manifest:
    """Of an engine folder whose plans are built."""
    build(engine_copy)
    gpu.driver.log.clear()
    gpu.driver.calls.clear()
    gpu.trt.enqueues = 0
    return load_manifest(engine_copy)


@pytest.fixture
def runner(manifest: Manifest) -> Iterator[TrtRunner]:
    with TrtRunner(manifest, 'fp32') as opened:
        yield opened
