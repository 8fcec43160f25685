"""Files to read."""

import cv2
import pytest

from tests.sources.pictures import FPS, FRAMES, SIZE, picture


@pytest.fixture
def video(tmp_path):
    path = tmp_path / 'video.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), FPS, SIZE)
    for index in range(FRAMES):
        writer.write(picture(index))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / 'images'
    path.mkdir()
    for index in range(12):
        cv2.imwrite(str(path / f'frame{index}.png'), picture(index))
    (path / 'notes.txt').write_text('not an image')
    return path
