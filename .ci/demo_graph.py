"""The graph half of `make demo`: camera, tracker and recorder as ROS 2 processes, one prompt.

    python .ci/demo_graph.py CLIP --engine FOLDER --point X,Y --out FOLDER

Run it inside a ROS 2 environment. It builds this package with colcon, launches the shipped launch
file, and clicks on the first image as a viewer would.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = REPOSITORY / '.cache' / 'colcon'
LAUNCH = """
import sys
from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

file = get_package_share_directory('sam2_rt') + '/launch/sam2_rt.launch.py'
arguments = [argument.split(':=', 1) for argument in sys.argv[1:]]
include = IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=arguments)
service = LaunchService()
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""


def build() -> None:
    """Installs the package into .cache/colcon."""
    command = ['colcon', '--log-base', str(BUILD / 'log'), 'build', '--base-paths', '.']
    command += ['--build-base', str(BUILD / 'build'), '--install-base', str(BUILD / 'install')]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f'colcon build failed:\n{done.stdout}{done.stderr}')


def click(point: tuple[float, float], seconds: float = 60.0) -> None:
    """Waits for the tracker's first result and clicks on its image."""
    import rclpy
    from geometry_msgs.msg import PointStamped
    from vision_msgs.msg import Detection2DArray

    rclpy.init()
    node = rclpy.create_node('viewer')
    clicks = node.create_publisher(PointStamped, 'sam2_rt/prompt_point', 1)
    results: list[Detection2DArray] = []
    node.create_subscription(Detection2DArray, 'sam2_rt/objects', results.append, 10)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (results and clicks.get_subscription_count()):
        rclpy.spin_once(node, timeout_sec=0.1)
    if results:
        # The first image's stamp: by now it is an old one, and the click still lands on it.
        prompt = PointStamped(header=results[0].header)
        prompt.point.x, prompt.point.y = point
        clicks.publish(prompt)
        print(f'clicked on {point} of the image of {results[0].header.stamp.sec}', flush=True)
        time.sleep(0.5)
    node.destroy_node()
    rclpy.shutdown()


def main() -> int:
    """Builds, launches, clicks, and waits for the end of the clip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('clip', type=Path)
    parser.add_argument('--engine', type=Path, required=True)
    parser.add_argument('--point', required=True)
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    build()
    os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
    given = {'source': args.clip, 'engine': args.engine, 'record': args.out}
    words = [f'{name}:={path.resolve()}' for name, path in given.items()] + ['loop:=false']
    shell = f'source {BUILD}/install/setup.bash && exec {sys.executable} - "$@"'
    launch = subprocess.Popen(
        ['bash', '-c', shell, 'bash', *words],
        cwd=args.out,
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert launch.stdin is not None
    with launch.stdin as pipe:
        pipe.write(LAUNCH)
    try:
        x, y = map(float, args.point.split(','))
        click((x, y))
        return launch.wait()
    except KeyboardInterrupt:
        os.killpg(launch.pid, signal.SIGINT)
        return launch.wait()


if __name__ == '__main__':
    sys.exit(main())
