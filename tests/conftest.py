"""Fixtures that several test files use."""

import logging
import shutil
import signal
from pathlib import Path

import pytest

# A shell that starts the tests in the background ignores Ctrl-C for them and all they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A sourced ROS 2 brings a pytest plugin whose kind of logger passes nothing on to pytest's own.
logging.setLoggerClass(logging.Logger)


@pytest.fixture(scope='session')
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine folder that tracks by colour (tests/tiny_engine.py); shared, so leave it alone."""
    from tests.tiny_engine import build  # here, because without onnx it skips

    return build(tmp_path_factory.mktemp('engines') / 'tiny').folder


@pytest.fixture
def engine_copy(tiny_engine: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(tiny_engine, tmp_path / 'tiny'))
