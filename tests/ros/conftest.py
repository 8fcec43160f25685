"""Shared by the ROS tests. Where there is no ROS 2, only test_environment.py is collected."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec('rclpy') is None:
    collect_ignore_glob = ['test_[!e]*.py', 'nodes/*']

# Other ROS graphs on this machine must not be heard, nor other test runs.
os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
# The settings that are shipped, here and in the nodes' processes.
DDS = Path(__file__).resolve().parents[2] / 'launch' / 'dds'
os.environ.setdefault('CYCLONEDDS_URI', (DDS / 'cyclonedds.xml').as_uri())
os.environ.setdefault('FASTRTPS_DEFAULT_PROFILES_FILE', str(DDS / 'fastdds.xml'))


@pytest.fixture(scope='session')
def ros() -> Iterator[None]:
    """The client library, in the test's own process."""
    import rclpy

    from sam2_rt.ros.process import tune_malloc

    tune_malloc()
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope='session')
def tracking_parameters(tiny_engine: Path) -> dict[str, Any]:
    """Of a node with the hand-made engine that tracks by colour."""
    return {'engine': str(tiny_engine), 'backend': 'onnxruntime', 'threads': 1, 'max_objects': 4}


@pytest.fixture
def start(
    ros: None, tracking_parameters: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Call it with changed parameters: it starts a node and returns its process and a client."""
    from tests.ros.graph import running

    with ExitStack() as stack:

        def start(*arguments: str, prelude: str = '', **changes: Any) -> tuple[Any, Any]:
            parameters = tracking_parameters | changes
            return stack.enter_context(running(tmp_path, parameters, *arguments, prelude=prelude))

        yield start


@pytest.fixture(scope='module')
def shared(
    ros: None, tracking_parameters: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Any]]:
    """One node for a whole module; see `tracking`."""
    from tests.ros.graph import running

    with running(tmp_path_factory.mktemp('node'), tracking_parameters) as both:
        both[1].connected()
        yield both


@pytest.fixture
def tracking(shared: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """The module's node, tracking nothing; its newest frame is BOTH."""
    from tests.ros.graph import BOTH

    process, client = shared
    client.reset()
    client.listed(BOTH, [])
    yield process, client
    assert process.popen.poll() is None, process.text()
