"""The robot side stands alone: no torch, no ROS, and each backend behind one file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'sam2_rt'
MODULES = sorted(PACKAGE.rglob('*.py'))

TRACK_WITHOUT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {'torch', 'rclpy', 'export'}:
            raise ImportError(f'{name} is blocked')

sys.meta_path.insert(0, Blocked())

import importlib
for name in sys.argv[2:]:
    importlib.import_module(name)

import numpy as np
from sam2_rt.runtime.select import open_runner
from sam2_rt.tracker import Tracker
from sam2_rt.types import Frame, PointPrompt

image = np.zeros((64, 64, 3), np.uint8)
image[20:40, 20:40] = (255, 0, 0)
with open_runner(sys.argv[1], 'onnxruntime') as runner:
    tracker = Tracker(runner)
    tracker.step(Frame(image, 1))
    tracker.add_prompt(PointPrompt([30, 30]))
    (found,) = tracker.step(Frame(image, 2)).objects
    print(found.mask[30, 30], found.mask[5, 5])
assert not {'torch', 'rclpy', 'export'} & set(sys.modules)
"""


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    return '.'.join(part for part in parts if part not in ('__init__', '__main__'))


def imported(path):
    """Top-level names of everything a file imports, at whatever depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_everything_but_ros_imports_and_tracks_without_torch_and_rclpy(tiny_engine):
    modules = [module_name(p) for p in MODULES if 'ros' not in p.parts and p.name != '__main__.py']
    assert len(modules) > 20
    folder = str(tiny_engine)
    done = subprocess.run(
        [sys.executable, '-c', TRACK_WITHOUT, folder, *modules],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=PACKAGE.parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['True', 'False']


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    inside = path.relative_to(PACKAGE).parts
    for name in imported(path):
        top = name.partition('.')[0]
        assert top not in ('torch', 'export', 'tests'), f'{path} imports {name}'
        if inside[0] != 'ros':
            assert top not in ('rclpy', 'sensor_msgs', 'vision_msgs'), f'{path} imports {name}'
            assert not name.startswith('sam2_rt.ros'), f'{path} imports {name}'
        if inside[0] not in ('cli', 'ros', '__main__.py'):
            assert not name.startswith('sam2_rt.cli'), f'{path} imports {name}'
        if top in ('onnxruntime', 'openvino'):
            assert inside[-1] in ('ort.py', 'openvino.py'), f'{path} imports {name}'
