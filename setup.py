"""Package of the robot side (sam2_rt/); the workshop (export/) runs from a checkout."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = 'sam2_rt'
HERE = Path(__file__).parent


def version() -> str:
    """Reads __version__ without importing the package."""
    text = (HERE / NAME / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '(.+)'", text)[1]


def files(folder: str, *patterns: str) -> tuple[str, list[str]]:
    """A data_files entry: a folder's files, installed under share/sam2_rt/."""
    found = sorted(str(path) for pattern in patterns for path in Path(folder).glob(pattern))
    return f'share/{NAME}/{folder}', found


setup(
    name=NAME,
    version=version(),
    description='Real-time promptable object tracking with SAM 2, for robots (ROS 2)',
    long_description='See README.md.',
    license='Apache-2.0',
    maintainer='sam2_rt maintainers',
    maintainer_email='sam2_rt@example.org',
    # Here and not in pyproject.toml: colcon cannot read requires-python there.
    python_requires='>=3.10',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    package_data={NAME: ['py.typed']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        files('launch', '*.launch.py', '*.yaml'),
        files('launch/dds', '*.xml'),
        files('engines/micro', '*.json', '*.onnx', '*.bin', '*.npz'),
    ],
    zip_safe=False,
    install_requires=['numpy', 'opencv-python-headless'],
    extras_require={
        'onnxruntime': ['onnxruntime>=1.17'],
        'openvino': ['openvino>=2024.4'],
        # TensorRT itself comes with JetPack, or as tensorrt-rtx; precision policies need onnx.
        'tensorrt': ['onnx'],
        'tensorrt-rtx': ['onnx', 'tensorrt-rtx>=1.4'],
        'export': ['torch>=2.4', 'onnx', 'onnxruntime', 'onnxslim', 'safetensors', 'tqdm'],
        'test': ['coverage>=7.10', 'onnx', 'onnxruntime', 'psutil', 'pytest<9', 'pytest-timeout'],
        # What the official implementation needs, without its own list (it would pull torchvision).
        'parity': ['hydra-core', 'iopath', 'pillow', 'pytest-xdist', 'tqdm', 'transformers'],
        # What a ROS 2 unpacked from a wheel lacks, and the build tool.
        'ros-test': [
            'argcomplete',
            'catkin_pkg',
            'colcon-bash',
            'colcon-core',
            'colcon-ros',
            'colcon-test-result',
            'lark',
            'packaging',
            'pyyaml',
        ],
        'lint': ['mypy', 'ruff'],
    },
    entry_points={
        'console_scripts': [
            'sam2_rt = sam2_rt.cli:main',
            'sam2_rt_node = sam2_rt.ros.node:main',
            'sam2_rt_video_source = sam2_rt.ros.video_source:main',
            'sam2_rt_recorder = sam2_rt.ros.recorder:main',
        ]
    },
)
