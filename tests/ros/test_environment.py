"""Says whether the ROS tests ran, and on what."""

import os
from importlib.util import find_spec

import pytest


def test_ros_2_is_here() -> None:
    if find_spec('rclpy') is None:
        reason = os.environ.get('SAM2_RT_NO_ROS') or 'rclpy cannot be imported'
        pytest.skip(
            f'no ROS tests: {reason}. To run them: source a ROS 2 set-up file, or have Python '
            '3.12 on Linux, and call `make test-ros`'
        )
    import rclpy

    assert os.environ['ROS_DISTRO'] in rclpy.__file__ or 'AMENT_PREFIX_PATH' in os.environ
    assert rclpy.get_rmw_implementation_identifier() == os.environ.get(
        'RMW_IMPLEMENTATION', rclpy.get_rmw_implementation_identifier()
    )
