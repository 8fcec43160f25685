"""The package as a ROS 2 user has it: a clone of the repository, colcon, run, launch."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from xml.etree import ElementTree

import cv2
import pytest
from launch import LaunchContext
from launch.actions import SetEnvironmentVariable
from launch.utilities import perform_substitutions

from tests.ros.graph import LEFT, RED, REPOSITORY, Client, detection, eventually, scene

ROS2 = "import sys; from ros2cli.cli import main; sys.argv[0] = 'ros2'; sys.exit(main())"
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from ament_index_python.packages import get_package_share_directory

file = get_package_share_directory('sam2_rt') + '/launch/sam2_rt.launch.py'
arguments = [argument.split(':=', 1) for argument in sys.argv[1:]]
service = LaunchService(argv=sys.argv[1:])
source = PythonLaunchDescriptionSource(file)
include = IncludeLaunchDescription(source, launch_arguments=arguments)
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""


def run(command: str, folder: Path, seconds: float = 120.0) -> str:
    """Runs a shell command; its whole output if it succeeds."""
    # The environment of a user's shell: nothing of this checkout, nor of this test run.
    ours = ('PYTEST_', 'COVERAGE_')
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    paths = environment.get('PYTHONPATH', '').split(os.pathsep)
    environment['PYTHONPATH'] = os.pathsep.join(p for p in paths if p != str(REPOSITORY))
    done = subprocess.run(
        ['bash', '-c', command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a clean clone of the last commit in src/."""
    if not shutil.which('colcon'):
        pytest.skip('colcon is not installed; run this with `make test-ros`')
    if not (REPOSITORY / '.git').exists():
        pytest.skip('this is not a git checkout, so there is nothing to clone; run it in one')
    workspace = tmp_path_factory.mktemp('workspace')
    run(f'git clone -q {REPOSITORY} src/sam2_rt', workspace)
    return workspace


@pytest.fixture(scope='module')
def installed(clone: Path) -> Path:
    run('colcon build', clone)
    return clone


def sourced(command: str) -> str:
    return f'source install/setup.bash && {command}'


def test_colcon_builds_with_symlinks_too(clone: Path) -> None:
    places = '--build-base build_s --install-base install_s'
    run(f'colcon --log-base log_s build --symlink-install {places}', clone)
    where = run(
        'source install_s/setup.bash && cd / && '
        f'{sys.executable} -c "import sam2_rt; print(sam2_rt.__file__)"',
        clone,
    )
    assert Path(where.strip()).resolve() == clone / 'src/sam2_rt/sam2_rt/__init__.py'


def test_the_installation_is_complete(installed: Path) -> None:
    share = installed / 'install/sam2_rt/share/sam2_rt'
    for name in ('package.xml', 'launch/sam2_rt.launch.py', 'launch/sam2_rt.yaml'):
        assert (share / name).is_file()
    assert {path.name for path in (share / 'launch/dds').iterdir()} == {
        'cyclonedds.xml',
        'fastdds.xml',
    }
    executables = run(sourced(f'{sys.executable} -c "{ROS2}" pkg executables sam2_rt'), installed)
    assert set(executables.split()) == {
        'sam2_rt',
        'sam2_rt_node',
        'sam2_rt_recorder',
        'sam2_rt_video_source',
    }


def colcon_test(workspace: Path, *options: str) -> tuple[int, set[str]]:
    """How many tests passed or were skipped, none having failed, and of which modules."""
    run(f'colcon test --return-code-on-test-failure {" ".join(options)}', workspace, 280)
    summary = run('colcon test-result', workspace)
    found = re.match(r'Summary: (\d+) tests, 0 errors, 0 failures, \d+ skipped', summary)
    assert found, summary
    cases = ElementTree.parse(workspace / 'build/sam2_rt/pytest.xml').iter('testcase')
    return int(found[1]), {case.get('classname', '') for case in cases}


@pytest.mark.endurance
def test_colcon_test_tries_all_of_the_robot_that_needs_no_torch_and_no_graph(
    installed: Path,
) -> None:
    count, modules = colcon_test(installed)
    assert count > 900
    assert {'tests.test_tracker', 'tests.cli.test_track', 'tests.ros.test_convert'} <= {
        module.removeprefix('sam2_rt.') for module in modules
    }
    assert not any(name in module for module in modules for name in ('export', 'parity', 'nodes'))


def test_colcon_test_takes_a_selection(installed: Path) -> None:
    count, modules = colcon_test(installed, '--pytest-args', 'tests/ros')
    assert count > 50
    assert all('tests.ros.' in module for module in modules)


@pytest.mark.parametrize('tuned', [True, False])
def test_the_launch_file_switches_the_transport_settings(tuned: bool) -> None:
    path = REPOSITORY / 'launch' / 'sam2_rt.launch.py'
    file = run_path(str(path))
    context = LaunchContext()
    defaults = {name: default for name, (default, _) in file['ARGUMENTS'].items()}
    context.launch_configurations.update(defaults, tune_transport=str(tuned).lower())
    settings = {
        perform_substitutions(context, action.name): perform_substitutions(context, action.value)
        for action in file['launch_setup'](context)
        if isinstance(action, SetEnvironmentVariable)
    }
    assert ('CYCLONEDDS_URI' in settings) == tuned
    assert ('FASTRTPS_DEFAULT_PROFILES_FILE' in settings) == tuned
    for value in settings.values():
        ElementTree.parse(value.removeprefix('file://'))


def test_ros2_run_starts_the_node(installed: Path, tiny_engine: Path, ros: None) -> None:
    command = sourced(
        f'exec {sys.executable} -c "{ROS2}" run sam2_rt sam2_rt_node --ros-args '
        f'-r __ns:=/run_{os.getpid()} -p engine:={tiny_engine} -p backend:=onnxruntime'
    )
    process = subprocess.Popen(
        ['bash', '-c', command], cwd=installed, stdin=subprocess.DEVNULL, start_new_session=True
    )
    client = Client(f'/run_{os.getpid()}')
    try:
        client.connected()
        assert client.state() == 'active'
    finally:
        client.close()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) == 0


def test_the_launch_file_runs_camera_tracker_and_recorder(
    installed: Path, tiny_engine: Path, tmp_path: Path, ros: None
) -> None:
    clip = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*'MJPG'), 30, (320, 240))
    for _ in range(90):
        writer.write(scene((LEFT, RED))[..., ::-1].copy())
    writer.release()
    namespace = f'/launch_{os.getpid()}'
    arguments = {
        'namespace': namespace,
        'engine': tiny_engine,
        'backend': 'onnxruntime',
        'source': clip,
        'loop': 'false',
        'rate': 15.0,
        'record': tmp_path / 'record',
    }
    given = ' '.join(f'{name}:={value}' for name, value in arguments.items())
    script = tmp_path / 'launch_it.py'
    script.write_text(LAUNCH)
    launch = subprocess.Popen(
        ['bash', '-c', sourced(f'exec {sys.executable} {script} {given}')],
        cwd=installed,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    client = Client(namespace)
    try:
        eventually(lambda: client.objects, 20, 'frames of the launched camera')
        client.prompt(detection(*LEFT, id='it', label='mug'))
        eventually(lambda: any(item.detections for item in list(client.objects.values())), 10)
        said, _ = launch.communicate(timeout=30)  # it ends with the video
    finally:
        client.close()
        if launch.poll() is None:
            os.killpg(launch.pid, signal.SIGINT)
            launch.communicate(timeout=10)
    assert launch.returncode == 0, said
    assert said.count('process has finished cleanly') == 3, said
    lines = [json.loads(line) for line in (tmp_path / 'record/objects.jsonl').open()]
    assert lines[-1]['objects'][0]['id'] == 'it'
    assert lines[-1]['objects'][0]['state'] == 'visible'
    assert [line['stamp_ns'] for line in lines] == sorted(line['stamp_ns'] for line in lines)
    report = json.loads((tmp_path / 'record/latency.json').read_text())
    assert report['frames'] == len(lines)
    assert {'encode', 'track', 'age'} <= set(report['milliseconds'])
    video = cv2.VideoCapture(str(tmp_path / 'record/overlay.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_WIDTH) == 320
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) >= 0.8 * len(lines)
    video.release()
