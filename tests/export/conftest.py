"""What the tests of the workshop share."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope='session', autouse=True)
def one_thread() -> Iterator[None]:
    """Threads gain networks this small nothing, and wait for each other on a busy machine."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def micro_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro variant at 256, fp32, random weights of seed 0; shared, so leave it alone."""
    pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')
    from export.networks import with_random_weights
    from export.to_onnx import export_engine

    out = tmp_path_factory.mktemp('exported') / 'micro'
    return export_engine(with_random_weights('micro', 256, 2, seed=0), out).folder
