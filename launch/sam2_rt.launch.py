"""The tracker node, and on demand a camera from a file and a recorder.

    ros2 launch sam2_rt sam2_rt.launch.py image:=/camera/image_raw
    ros2 launch sam2_rt sam2_rt.launch.py source:=cups.mp4 record:=out/

`ros2 launch sam2_rt sam2_rt.launch.py --show-args` explains the arguments.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

HERE = Path(__file__).resolve().parent
PACKAGE = 'sam2_rt'

ARGUMENTS = {
    'engine': ('', "engine folder, or the name of one; '' = the bundled engine"),
    'backend': ('auto', 'auto, tensorrt, onnxruntime-cuda, openvino or onnxruntime'),
    'image': ('image', 'topic of the camera images'),
    'namespace': ('', 'namespace of all nodes'),
    'parameters': (str(HERE / 'sam2_rt.yaml'), 'YAML file with the parameters'),
    'use_sim_time': ('false', 'take the time from /clock'),
    'tune_transport': ('true', 'DDS settings for large images (launch/dds/)'),
    'source': ('', 'video file, folder, webcam number or URL to publish as the camera'),
    'rate': ('0.0', "frames per second of a file; 0 = the file's own"),
    'loop': ('true', 'play a file again when it ends; otherwise everything ends with it'),
    'record': ('', 'folder for an overlay video, one JSON line per frame, and the latency'),
}


def launch_setup(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The actions, now that the arguments are known."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    common = {
        'package': PACKAGE,
        'namespace': value['namespace'],
        'output': 'screen',
        'emulate_tty': True,
        'sigterm_timeout': '3',
    }
    sim_time = {'use_sim_time': value['use_sim_time'] == 'true'}
    actions: list[LaunchDescriptionEntity] = []
    if value['tune_transport'] == 'true':
        # Every process that sends or receives images needs these: source this launch file's
        # settings for a camera that is started elsewhere (see README).
        dds = HERE / 'dds'
        fast = str(dds / 'fastdds.xml')
        actions += [
            SetEnvironmentVariable('CYCLONEDDS_URI', (dds / 'cyclonedds.xml').as_uri()),
            SetEnvironmentVariable('FASTRTPS_DEFAULT_PROFILES_FILE', fast),
            SetEnvironmentVariable('FASTDDS_DEFAULT_PROFILES_FILE', fast),
        ]
    settings = {'engine': value['engine'], 'backend': value['backend'], **sim_time}
    actions.append(
        Node(
            executable='sam2_rt_node',
            name=PACKAGE,
            parameters=[value['parameters'], settings],
            remappings=[('image', value['image'])],
            **common,
        )
    )
    if value['record']:
        actions.append(
            Node(
                executable='sam2_rt_recorder',
                name='recorder',
                parameters=[{'folder': value['record'], **sim_time}],
                **common,
            )
        )
    if value['source']:
        camera = Node(
            executable='sam2_rt_video_source',
            name='video_source',
            parameters=[
                {
                    'source': value['source'],
                    'rate': float(value['rate']),
                    'loop': value['loop'] == 'true',
                    'wait_for_subscriber': True,
                    **sim_time,
                }
            ],
            remappings=[('image', value['image'])],
            **common,
        )
        ended = EmitEvent(event=Shutdown(reason='the video has ended'))
        actions += [
            camera,
            RegisterEventHandler(OnProcessExit(target_action=camera, on_exit=[ended])),
        ]
    return actions


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=launch_setup)])
