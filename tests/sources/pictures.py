"""Pictures that know their number, and files that break off."""

import cv2
import numpy as np

SIZE = (64, 48)
FRAMES = 30
FPS = 25.0


def picture(index):
    """A grey level that names the frame."""
    return np.full((SIZE[1], SIZE[0], 3), 8 * (index % 32), np.uint8)


def index_of(frame):
    return round(float(frame.image.mean()) / 8)


def write_video(path, codec):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), FPS, SIZE)
    for index in range(FRAMES):
        writer.write(picture(index))
    writer.release()
    return path


def truncated(path, keep):
    """A copy of a file that ends after a share of its bytes."""
    data = path.read_bytes()
    copy = path.with_name(f'truncated{path.suffix}')
    copy.write_bytes(data[: int(len(data) * keep)])
    return copy
