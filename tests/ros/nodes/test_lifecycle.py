"""Every transition, broken engines, signals, and a clock that jumps."""

import os
import shutil
import signal
import time

import psutil
import pytest
from lifecycle_msgs.msg import Transition
from rosgraph_msgs.msg import Clock

from sam2_rt.ros.convert import header
from tests.ros.graph import BOTH, LEFT, detection, eventually, slow_engine

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def megabytes(process) -> float:
    return psutil.Process(process.popen.pid).memory_info().rss / 1e6


def test_every_transition_ten_times_without_growth(start) -> None:
    process, client = start(autostart=False)
    assert client.state() == 'unconfigured'
    sizes, threads = [], []
    for _ in range(10):
        assert client.change_state(CONFIGURE)
        assert client.state() == 'inactive'
        assert client.change_state(ACTIVATE)
        assert client.state() == 'active'
        client.connected()
        client.track(BOTH)
        client.prompt(detection(*LEFT, id='a'))
        client.listed(BOTH, ['a'])
        assert client.change_state(DEACTIVATE)
        assert client.state() == 'inactive'
        assert client.change_state(ACTIVATE)
        client.connected()
        client.listed(BOTH, ['a'])  # deactivation keeps what is tracked
        assert client.change_state(DEACTIVATE)
        assert client.change_state(CLEANUP)
        assert client.state() == 'unconfigured'
        sizes.append(megabytes(process))
        threads.append(psutil.Process(process.popen.pid).num_threads())
    assert threads[-1] <= threads[2]
    assert sizes[-1] < sizes[2] + 10, f'resident megabytes after each round: {sizes}'
    assert client.change_state(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert client.state() == 'finalized'
    assert process.stop()[0] == 0


def test_an_impossible_transition_leaves_the_node_as_it_was(start) -> None:
    process, client = start()
    client.connected()
    with pytest.raises(AssertionError, match='not within'):
        # rclpy refuses it by an exception and sends no answer.
        client.change_state(CONFIGURE, seconds=1.0)
    assert client.state() == 'active'
    assert client.track(BOTH) in client.masks
    process.logged('RCLError')


def damage(folder, how) -> str:
    """Damages an engine folder; returns words of the message that must come."""
    manifest = folder / 'manifest.json'
    if how == 'missing':
        shutil.rmtree(folder)
        return 'there is no engine'
    if how == 'no manifest':
        manifest.unlink()
        return 'has no manifest.json'
    if how == 'not JSON':
        manifest.write_text('{')
        return 'cannot be read as JSON'
    graph = next(folder.glob('track*.onnx'))
    graph.write_bytes(graph.read_bytes()[:-100])
    return 'truncated or altered'


def test_a_broken_engine_fails_at_configure_and_the_node_stays_usable(
    start, tiny_engine, tmp_path
) -> None:
    process, client = start(autostart=False)
    for how in ('truncated graph', 'no manifest', 'not JSON', 'missing'):
        folder = shutil.copytree(tiny_engine, tmp_path / how.replace(' ', '_'))
        words = damage(folder, how)
        assert client.set_parameter('engine', str(folder)) == (True, '')
        assert not client.change_state(CONFIGURE)
        process.logged(words)
        assert client.state() == 'unconfigured'
    said = eventually(lambda: [item for item in client.health if words in item.message])
    assert said[0].level == b'\x02'  # ERROR
    assert client.set_parameter('engine', str(tiny_engine)) == (True, '')
    assert client.change_state(CONFIGURE)
    assert client.change_state(ACTIVATE)
    client.connected()
    client.track(BOTH)
    eventually(lambda: client.health[-1].message == 'tracking', 5)


def test_settings_that_contradict_each_other_stop_the_node_at_start(start) -> None:
    process, _ = start(**{'presence.show_above': 0.2})
    assert process.popen.wait(15) == 1
    assert 'presence.hide_below: expected at most show_above' in process.text()
    assert 'Traceback' not in process.text()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_at_once_and_cleanly(start, number) -> None:
    process, client = start()
    client.connected()
    client.track(BOTH)
    client.prompt(detection(*LEFT, id='a'))
    client.listed(BOTH, ['a'])
    for _ in range(20):
        client.send_image(BOTH)  # in the middle of work
    code, seconds = process.stop(number)
    assert code == 0, process.text()
    assert seconds < 2.0
    assert 'Traceback' not in process.text()
    assert [pid for pid in psutil.pids() if session_of(pid) == process.popen.pid] == []


def test_a_signal_ends_a_node_that_is_deep_in_a_graph(start) -> None:
    process, client = start(prelude=slow_engine(1.0), autostart=False)
    assert client.change_state(CONFIGURE, seconds=60)
    assert client.change_state(ACTIVATE)
    client.connected()
    client.prompt(detection(*LEFT, id='a'))
    eventually(lambda: client.send_image(BOTH) and 'no frame' in process.text())
    client.prompt(detection(*LEFT, id='a'))
    time.sleep(0.5)  # encode and prompt have begun, and take 2 s
    code, seconds = process.stop(signal.SIGTERM)
    assert code == 0, process.text()
    assert seconds < 2.0
    assert 'Traceback' not in process.text()


BREAKS = """
from sam2_rt.errors import BackendError
from sam2_rt.runtime.ort import OrtRunner
compute = OrtRunner._run
def compute_until_it_breaks(self, graph, inputs):
    if graph == 'track' and inputs['object_pointers'].any():
        OrtRunner._run = compute
        raise BackendError('the device is gone')
    return compute(self, graph, inputs)
OrtRunner._run = compute_until_it_breaks
"""


def test_a_failing_engine_is_an_error_until_the_node_is_activated_again(start) -> None:
    process, client = start(prelude=BREAKS)
    client.connected()
    client.track(BOTH)
    client.prompt(detection(*LEFT, id='a'))
    process.logged("object 'a' prompted")
    eventually(lambda: client.send_image(BOTH) and 'the device is gone' in process.text())
    said = eventually(lambda: [item for item in client.health if item.level == b'\x02'])
    assert 'tracking stopped: the device is gone' in said[0].message
    client.prompt(detection(*LEFT, id='b'))
    process.logged('the stream has failed')
    assert client.change_state(DEACTIVATE)
    assert client.change_state(ACTIVATE)
    client.connected()
    client.listed(BOTH, ['a'])
    eventually(lambda: client.health[-1].message == 'tracking', 5)


def test_a_simulated_clock_may_stop_and_jump(start) -> None:
    process, client = start(use_sim_time=True)
    client.connected()
    clock = client.node.create_publisher(Clock, '/clock', 10)
    eventually(clock.get_subscription_count)

    def at(seconds: float) -> int:
        stamp = int(seconds * 1e9)
        for _ in range(3):
            clock.publish(Clock(clock=header(stamp, '').stamp))
        return stamp

    for seconds in (100.0, 100.1, 100.2, 5000.0, 5000.1, 3.0, 3.1):
        assert client.track(BOTH, at(seconds)) in client.masks
    client.prompt(detection(*LEFT, id='a'))
    stamps = (at(3.2 + k / 10) for k in range(1000))
    eventually(lambda: client.ids(client.track(BOTH, next(stamps))) == ['a'])
    count = len(client.health)
    eventually(lambda: len(client.health) >= count + 2, 5, 'health while the clock stands still')
    assert client.health[-1].message == 'tracking' or 'no image' in client.health[-1].message
    assert process.popen.poll() is None
