"""What the node does with its runner, seen from inside."""

from __future__ import annotations

import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from sam2_rt.errors import BackendError
from sam2_rt.ros import node as node_module
from tests.fakes import FakeRunner

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture
def runners(monkeypatch):
    """Fake runners in the order in which the node opened them; `closed` counts."""
    opened: list[FakeRunner] = []

    def open_fake(folder, backend, *, precision, threads):
        runner = FakeRunner()
        runner.closed = 0
        runner.close = lambda: setattr(runner, 'closed', runner.closed + 1)
        opened.append(runner)
        return runner

    monkeypatch.setattr(node_module, 'locate_engine', lambda text: text)
    monkeypatch.setattr(node_module, 'open_runner', open_fake)
    return opened


@pytest.fixture
def node(ros, runners):
    made = node_module.TrackerNode()
    yield made
    made.stop()
    made.destroy_node()


def test_the_engine_is_kept_while_inactive_and_released_by_cleanup(node, runners) -> None:
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert node.trigger_deactivate() == SUCCESS
    assert [runner.closed for runner in runners] == [0]
    assert node.trigger_cleanup() == SUCCESS
    assert [runner.closed for runner in runners] == [1]
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_shutdown() == SUCCESS
    assert [runner.closed for runner in runners] == [1, 1]


def test_an_engine_that_fails_to_warm_up_is_released(node, runners, monkeypatch) -> None:
    def fail(self) -> None:
        raise BackendError('no memory left on the device')

    monkeypatch.setattr(FakeRunner, 'warm_up', fail)
    assert node.trigger_configure() == FAILURE
    assert [runner.closed for runner in runners] == [1]


def test_plans_are_built_before_the_engine_is_opened_if_asked(node, runners, monkeypatch) -> None:
    built = []

    def build(folder, *, progress) -> None:
        progress('building')
        built.append((folder, len(runners)))

    monkeypatch.setattr(node_module, 'build', build)
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    assert built == []
    node.set_parameters([Parameter('engine', value='some'), Parameter('build_plans', value=True)])
    assert node.trigger_configure() == SUCCESS
    assert built == [('some', 1)]


def test_plans_that_cannot_be_built_leave_the_node_unconfigured(
    node, runners, monkeypatch
) -> None:
    def build(folder, *, progress) -> None:
        raise BackendError('no NVIDIA driver')

    monkeypatch.setattr(node_module, 'build', build)
    node.set_parameters([Parameter('build_plans', value=True)])
    assert node.trigger_configure() == FAILURE
    assert runners == []
    assert node._problem == 'cannot configure: no NVIDIA driver'


def test_images_before_activation_and_after_deactivation_have_no_subscription(node) -> None:
    def subscriptions() -> int:
        return sum(item.topic_name == '/image' for item in node.subscriptions)

    assert subscriptions() == 0
    node.trigger_configure()
    node.trigger_activate()
    assert subscriptions() == 1
    node.trigger_deactivate()
    assert subscriptions() == 0


def test_commands_are_refused_while_inactive(node, runners) -> None:
    reset = node._commands._on_reset(Trigger.Request(), Trigger.Response())
    assert (reset.success, reset.message) == (False, 'refused: not active, or too busy')
    pause = node._commands._on_pause(SetBool.Request(data=True), SetBool.Response())
    assert (pause.success, pause.message) == (False, 'refused: not active')


def test_every_publisher_and_service_of_the_interface_is_there(node) -> None:
    topics = {publisher.topic_name for publisher in node.publishers}
    outputs = ('mask', 'objects', 'presence', 'overlay', 'latency')
    assert {'/diagnostics', *(f'/sam2_rt/{name}' for name in outputs)} <= topics
    services = {service.srv_name.replace('~', '/sam2_rt') for service in node.services}
    assert {f'/sam2_rt/{name}' for name in ('reset', 'pause', 'change_state')} <= services
