"""Files to read."""

import cv2
import pytest

from tests.sources.pictures import picture, write_video


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / 'video.avi', 'MJPG')


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / 'images'
    path.mkdir()
    for index in range(12):
        cv2.imwrite(str(path / f'frame{index}.png'), picture(index))
    (path / 'notes.txt').write_text('not an image')
    return path
