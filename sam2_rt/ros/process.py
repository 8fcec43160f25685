"""What every executable of this package does around its node: memory tuning, spinning, ending."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

# glibc's mallopt: names from malloc.h, and values under which a large image is taken from memory
# the process already has. The defaults map and unmap pages for every image: at 1280x720 that costs
# a subscriber 2.4 times the CPU, and best-effort frames are lost meanwhile.
_MALLOPT = {
    -3: 32 << 20,  # M_MMAP_THRESHOLD, glibc's largest
    -1: 512 << 20,  # M_TRIM_THRESHOLD
    -8: 1,  # M_ARENA_MAX
}


def tune_malloc() -> bool:
    """Tunes glibc for large images; call it before any thread starts. False where it cannot."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # not glibc
    done = [mallopt(name, value) == 1 for name, value in _MALLOPT.items()]
    return all(done)


def run(make: Callable[[], Any], start: Callable[[Any], None], stop: Callable[[Any], bool]) -> int:
    """Makes a node, spins it until a signal, and ends it.

    Args:
        make: constructs the node.
        start: called once, before the first callback.
        stop: releases what the node holds; False if something of it is still at work.

    Returns:
        Exit code: 0 after SIGINT or SIGTERM, 1 if the node could not be made.
    """
    tune_malloc()
    rclpy.init()
    try:
        node = make()
    except Exception as error:
        print(f'sam2_rt: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ended = True
    try:
        start(node)
        _spin(executor, node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # the ordinary ends: SIGINT and SIGTERM
    finally:
        ended = stop(node)
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    if not ended:
        # A graph that is still being computed cannot be interrupted, only left behind.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _spin(executor: SingleThreadedExecutor, node: Any) -> None:
    """Spins; an error in one callback is reported and does not end the node."""
    while rclpy.ok():
        try:
            # With a time-out, because a signal that comes just before the wait does not end it.
            executor.spin_once(timeout_sec=0.5)
        except (KeyboardInterrupt, ExternalShutdownException):
            raise
        except Exception as error:
            if not rclpy.ok():
                return
            node.get_logger().error(f'{type(error).__name__}: {error}')


class Throttle:
    """Says whether a message is news: the same words within a period are not.

    Args:
        period_s: seconds for which a message that was said is not said again.
        remember: most messages remembered.
    """

    def __init__(self, period_s: float = 1.0, remember: int = 32) -> None:
        self._period_s = period_s
        self._remember = remember
        self._said: dict[str, float] = {}

    def news(self, text: str) -> bool:
        now = time.monotonic()
        if now - self._said.get(text, -self._period_s) < self._period_s:
            return False
        self._said.pop(text, None)
        while len(self._said) >= self._remember:
            del self._said[next(iter(self._said))]
        self._said[text] = now
        return True
