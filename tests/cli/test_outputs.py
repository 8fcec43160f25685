"""Result files: whole or not there, and true to what was tracked."""

import errno
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_rt.cli.files import write_png
from sam2_rt.cli.outputs import CODECS, JsonLines, Outputs, VideoOutput, run_lengths
from sam2_rt.errors import OutputError
from sam2_rt.sources import VideoFile
from sam2_rt.types import Frame, TrackResult

SIZE = (48, 64)


def frame(stamp_ms=0, colour=(200, 60, 20), order='rgb', size=SIZE):
    return Frame(np.full((*size, 3), colour, np.uint8), stamp_ms * 1_000_000, order)


def result(index=0):
    return TrackResult(index, 0, SIZE, (), {'track': 0.01})


@pytest.mark.parametrize('suffix', CODECS)
def test_every_kind_of_video_can_be_read_again(suffix):
    output = VideoOutput(Path(f'o{suffix}'), fps=25.0)
    for index in range(5):
        output.write(frame(), result(index), index, None)
        assert not Path(f'o{suffix}').exists()
    output.finish()
    frames = list(VideoFile(f'o{suffix}'))
    assert len(frames) == 5
    assert VideoFile(f'o{suffix}').fps == 25.0


def test_rgb_and_bgr_frames_keep_their_colours():
    output = VideoOutput(Path('o.avi'), fps=25.0)
    output.write(frame(order='rgb'), result(), 0, None)
    output.write(frame(order='bgr', colour=(20, 60, 200)), result(), 1, None)
    output.finish()
    for read in VideoFile('o.avi'):
        assert read.image[5, 40].tolist() == pytest.approx([20, 60, 200], abs=12)


def test_a_video_keeps_time_where_frames_were_dropped():
    output = VideoOutput(Path('o.avi'), fps=10.0, keep_time=True)
    for stamp_ms in (1000, 1100, 1400, 1410, 1600):
        output.write(frame(stamp_ms), result(), 0, None)
    output.finish()
    # 1.0, 1.1, twice a repeat, 1.4, one that came early, 1.6
    assert len(list(VideoFile('o.avi'))) == 7


def test_a_codec_that_is_missing_is_told(monkeypatch):
    closed = type('Writer', (), {'isOpened': lambda self: False})()
    monkeypatch.setattr(cv2, 'VideoWriter', lambda *_: closed, raising=True)
    monkeypatch.setattr(cv2.VideoWriter, 'fourcc', lambda *_: 0, raising=False)
    output = VideoOutput(Path('o.mp4'), fps=10.0)
    with pytest.raises(OutputError, match='OpenCV cannot write a 64x48 video here'):
        output.write(frame(), result(), 0, None)


def test_a_video_without_frames_is_none():
    output = VideoOutput(Path('o.mp4'), fps=10.0)
    with pytest.raises(OutputError, match='no frame came'):
        output.finish()
    assert not Path('o.mp4').exists()


def test_one_failure_does_not_spoil_the_other_files():
    outputs = Outputs()
    outputs.add(VideoOutput(Path('o.avi'), fps=10.0))
    outputs.add(JsonLines(Path('o.jsonl')))
    outputs.write(frame(), result(), 0, None)
    Path('o.part.avi').unlink()
    with pytest.raises(OutputError, match=r'o\.avi'):
        outputs.finish()
    assert Path('o.jsonl').read_text().count('\n') == 1


def test_a_full_disk_is_told_with_the_name_of_the_file(monkeypatch):
    def no_space(self, data):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', no_space)
    with pytest.raises(OutputError, match=r'o\.png cannot be written: No space left on device'):
        write_png(Path('o.png'), np.zeros((4, 4), np.uint8))
    assert not Path('o.png').exists()


def test_an_older_result_stays_until_the_new_one_is_whole():
    Path('o.jsonl').write_text('old')
    output = JsonLines(Path('o.jsonl'))
    output.write(frame(), result(), 0, None)
    assert Path('o.jsonl').read_text() == 'old'
    output.finish()
    assert Path('o.jsonl').read_text().startswith('{"frame_index": 0')


@pytest.mark.parametrize('first', [False, True])
def test_run_lengths_begin_with_background(first):
    mask = np.array([[first, True], [False, True]])
    counts = [0, 1, 1, 2] if first else [2, 2]
    assert run_lengths(mask) == {'size': [2, 2], 'counts': counts}


@pytest.mark.parametrize('value', [False, True])
def test_run_lengths_of_a_plain_mask(value):
    mask = np.full((2, 3), value)
    assert run_lengths(mask)['counts'] == ([0, 6] if value else [6])
