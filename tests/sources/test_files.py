"""Files and images: every frame, with its time, and errors that say what is wrong."""

import cv2
import numpy as np
import pytest

from sam2_rt import sources
from sam2_rt.errors import SourceError
from sam2_rt.sources import ImageFolder, VideoFile, open_source, read_image
from sam2_rt.sources.files import natural_key
from tests.sources.pictures import FPS, FRAMES, index_of, truncated, write_video


def test_a_video_yields_every_frame_with_its_time(video):
    with open_source(str(video)) as source:
        frames = list(source)
    assert isinstance(source, VideoFile)
    assert [index_of(frame) for frame in frames] == list(range(FRAMES))
    assert [frame.stamp_ns for frame in frames] == [k * 40_000_000 for k in range(FRAMES)]
    assert frames[0].colour_order == 'bgr'
    assert (source.fps, source.frame_count, source.position) == (FPS, FRAMES, FRAMES - 1)
    assert (source.live, source.dropped) == (False, 0)


def test_stamps_move_on_where_the_container_has_no_times(video, monkeypatch):
    class Timeless:
        def __init__(self, path):
            self.capture = cv2_capture(path)

        def __getattr__(self, name):
            return getattr(self.capture, name)

        def get(self, key):
            return 0.0 if key == cv2.CAP_PROP_POS_MSEC else self.capture.get(key)

    cv2_capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, 'VideoCapture', Timeless)
    stamps = [frame.stamp_ns for frame in VideoFile(video)]
    assert stamps == [k * 40_000_000 for k in range(FRAMES)]


@pytest.mark.parametrize('reported', [0.0, float('nan'), float('inf'), 90_000.0])
def test_a_nonsense_frame_rate_is_replaced(reported):
    assert sources.base.usable_fps(reported) == 30.0


def test_a_video_can_be_stopped_between_frames(video):
    with VideoFile(video) as source:
        for _ in source:
            if source.position == 4:
                source.stop()
    assert source.position == 4


def test_a_video_that_breaks_off_keeps_its_good_frames_and_says_how_many(video):
    source = VideoFile(truncated(video, keep=0.8))
    frames = []
    with pytest.raises(SourceError, match=r'breaks off: (\d+) frames were good, 30 were') as error:
        frames.extend(source)  # extend keeps what came before the error
    assert f' {len(frames)} frames were good' in str(error.value)
    assert 5 <= len(frames) < FRAMES
    assert [index_of(frame) for frame in frames] == list(range(len(frames)))


def test_a_video_that_is_one_frame_short_of_an_estimate_is_whole(video):
    source = VideoFile(video)
    source.frame_count = FRAMES + 1
    assert len(list(source)) == FRAMES


def test_a_wrong_frame_rate_is_not_taken_for_a_break(video):
    # All 30 frames come, though at 20 fps they would have lasted longer.
    source = VideoFile(video)
    source.fps = 20.0
    assert len(list(source)) == FRAMES


def test_a_variable_frame_rate_is_not_taken_for_a_break(video):
    # Announced: 2 s at an estimated 60 fps; delivered: 30 frames whose times span all of it.
    source = VideoFile(video)
    source.frame_count, source.fps = 72, 60.0
    assert len(list(source)) == FRAMES


def test_images_come_in_natural_order_at_the_given_rate(folder):
    with open_source(str(folder), fps=10) as source:
        frames = list(source)
    assert isinstance(source, ImageFolder)
    assert [index_of(frame) for frame in frames] == list(range(12))
    assert [frame.stamp_ns for frame in frames] == [k * 100_000_000 for k in range(12)]
    assert source.frame_count == 12


def test_natural_order():
    names = ['b1', 'a10', 'a2', '10', '9', 'A3']
    assert sorted(names, key=natural_key) == ['9', '10', 'a2', 'A3', 'a10', 'b1']


def test_a_broken_image_in_a_folder_says_which_and_how_many_were_good(folder):
    (folder / 'frame5.png').write_bytes(b'\x89PNG broken')
    frames = []
    with pytest.raises(SourceError, match=r'frame5\.png .*; the 5 frames before it were good'):
        frames.extend(ImageFolder(folder))
    assert len(frames) == 5


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('missing.mp4', None, 'does not exist; check the path'),
        ('empty.mp4', b'', r'is empty \(0 bytes\)'),
        ('text.mp4', b'no video at all' * 50, r'\(750 bytes\) cannot be decoded as a video'),
        ('one.png', b'whatever', 'is a single image, not a video'),
    ],
)
def test_a_file_that_is_no_video(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as error:
        open_source(str(path))
    assert str(path) in str(error.value)


def test_a_video_without_its_index_cannot_be_opened(tmp_path):
    path = write_video(tmp_path / 'video.mp4', 'mp4v')
    with pytest.raises(SourceError, match='it is truncated'):
        VideoFile(truncated(path, keep=0.6))


def test_a_folder_without_images(tmp_path):
    with pytest.raises(SourceError, match='has no images'):
        open_source(str(tmp_path))


def test_what_is_no_folder(tmp_path):
    with pytest.raises(SourceError, match='is not a folder'):
        ImageFolder(tmp_path / 'nowhere')


def test_a_pipe_is_no_file(tmp_path):
    with pytest.raises(SourceError, match='is not a file'):
        VideoFile('/dev/null')


@pytest.mark.parametrize(
    'image',
    [
        pytest.param(np.full((4, 6), 100, np.uint8), id='grey'),
        pytest.param(np.full((4, 6, 4), 100, np.uint8), id='alpha'),
        pytest.param(np.full((4, 6, 3), 100 * 257, np.uint16), id='16 bit'),
    ],
)
def test_grey_alpha_and_16_bit_images_become_frames(tmp_path, image):
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), image)
    frame = read_image(path)
    assert frame.image.shape == (4, 6, 3)
    assert frame.image.dtype == np.uint8
    assert (frame.image == 100).all()


def test_an_image_that_is_none(tmp_path):
    path = tmp_path / 'image.jpg'
    path.write_text('just text')
    with pytest.raises(SourceError, match=r'image\.jpg \(9 bytes\) cannot be read as an image'):
        read_image(path)


def test_an_image_that_opencv_refuses(tmp_path):
    # A header that promises more pixels than OpenCV is willing to allocate.
    path = tmp_path / 'huge.ppm'
    path.write_bytes(b'P6 1000000 1000000 255\n')
    with pytest.raises(SourceError, match=r'huge\.ppm.* cannot be read as an image'):
        read_image(path)
