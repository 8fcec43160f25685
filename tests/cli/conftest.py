"""A made-up video with two coloured squares, and a way to run the command line on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from sam2_rt.cli import main

WIDTH, HEIGHT, FRAMES, FPS = 160, 120, 16, 25.0
RED, BLUE, GREY = (40, 40, 220), (220, 90, 30), (128, 128, 128)  # BGR
HIDDEN = range(8, 12)
"""Frames on which the red square is not there."""


class Result(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Result]


def red_box(index: int) -> tuple[int, int, int, int]:
    x = 10 + 4 * index
    return x, 30, x + 40, 70


BLUE_BOX = (110, 70, 150, 110)


def picture(index: int) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
    cv2.rectangle(image, BLUE_BOX[:2], (BLUE_BOX[2] - 1, BLUE_BOX[3] - 1), BLUE, cv2.FILLED)
    if index not in HIDDEN:
        x0, y0, x1, y1 = red_box(index)
        image[y0:y1, x0:x1] = RED
    return image


def centre(box: tuple[int, int, int, int]) -> str:
    return f'{(box[0] + box[2]) / 2:g},{(box[1] + box[3]) / 2:g}'


RED_CLICK, BLUE_CLICK = centre(red_box(0)), centre(BLUE_BOX)


def box_iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area - width * height)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / 'video.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), FPS, (WIDTH, HEIGHT))
    for index in range(FRAMES):
        writer.write(picture(index))
    writer.release()
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), picture(0))
    return path


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's folders is seen or written."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; whatever happens, no traceback may be shown."""

    def call(*argv: object) -> Result:
        capfd.readouterr()
        try:
            status = main([str(word) for word in argv])
        except SystemExit as error:
            status = int(error.code or 0)
        captured = capfd.readouterr()
        assert 'Traceback' not in captured.err or '--debug' in argv
        return Result(status, captured.out, captured.err)

    return call


@pytest.fixture
def track(run: Run, tiny_engine: Path) -> Run:
    """Runs `sam2_rt track` with the tiny engine."""
    engine = ['--engine', tiny_engine, '--backend', 'onnxruntime', '--threads', 1]
    return lambda *argv: run('track', *engine, *argv)
