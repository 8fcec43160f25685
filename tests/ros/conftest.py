"""Shared by the ROS tests. Where there is no ROS 2, only test_environment.py is collected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

if find_spec('rclpy') is None:
    collect_ignore_glob = ['test_[!e]*.py']

# Other ROS graphs on this machine must not be heard, nor other test runs.
os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))


@pytest.fixture(scope='session')
def ros() -> Iterator[None]:
    """The client library, in the test's own process."""
    import rclpy

    rclpy.init()
    yield
    rclpy.try_shutdown()
