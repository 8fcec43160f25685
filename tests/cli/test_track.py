"""`sam2_rt track`, with an engine that tracks colours."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_rt.errors import SourceError
from sam2_rt.mailbox import LatestFrame
from sam2_rt.overlay import colour_of
from sam2_rt.sources import VideoFile
from sam2_rt.tracker import Tracker
from tests.cli.conftest import (
    BLUE_BOX,
    BLUE_CLICK,
    FRAMES,
    HEIGHT,
    HIDDEN,
    RED_CLICK,
    WIDTH,
    box_iou,
    picture,
    red_box,
)


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def objects_of(path):
    """Per frame: object id -> what is said of it."""
    return [{each['id']: each for each in line['objects']} for line in lines_of(path)]


def leftovers(folder):
    return [path.name for path in Path(folder).rglob('*') if '.part' in path.name]


def test_all_results_of_a_video(track, video, tmp_path):
    result = track(
        video, '--object', 'red=a red square', '--point', RED_CLICK, '--save', 'out.mp4',
        '--json', 'out.jsonl', '--masks', 'masks',
    )  # fmt: skip
    assert result.status == 0
    assert f'{FRAMES} frames in ' in result.err
    assert f'red: visible in {FRAMES - len(HIDDEN)} of {FRAMES} frames' in result.err
    assert 'wrote out.mp4, masks, out.jsonl' in result.err
    assert leftovers(tmp_path) == []

    lines = lines_of('out.jsonl')
    assert [line['frame_index'] for line in lines] == list(range(FRAMES))
    assert [line['source_frame'] for line in lines] == list(range(FRAMES))
    assert [line['stamp_ns'] for line in lines] == [k * 40_000_000 for k in range(FRAMES)]
    assert all(line['stage_ms']['track'] > 0 for line in lines[1:])
    assert json.loads(Path('masks/objects.json').read_text()) == {'red': 1}
    frames = list(VideoFile('out.mp4'))
    assert len(frames) == FRAMES
    for index, (line, frame) in enumerate(zip(lines, frames, strict=True)):
        (red,) = line['objects']
        labels = cv2.imread(f'masks/{index:06d}.png', cv2.IMREAD_UNCHANGED)
        assert labels.shape == (HEIGHT, WIDTH)
        assert np.count_nonzero(labels) == red['area']
        assert red['label'] == 'a red square'
        if index in HIDDEN:
            assert (red['state'], red['box'], red['area']) == ('occluded', None, 0)
            assert red['probability'] < 0.5
            assert red['last_seen_ns'] == (HIDDEN.start - 1) * 40_000_000
        else:
            assert red['state'] == 'visible'
            assert box_iou(red['box'], red_box(index)) > 0.6
            assert set(np.unique(labels)) == {0, 1}
            x, y = (red['box'][0] + red['box'][2]) // 2, (red['box'][1] + red['box'][3]) // 2
            # The first colour of the overlay is blue: it is in the red square now.
            drawn = frame.image[y, x].astype(int) - picture(index)[y, x]
            assert drawn[0] > 40
            assert colour_of(0)[2] == 255


def test_two_objects_one_of_them_later(track, video):
    result = track(
        video, '--object', 'red', '--point', RED_CLICK, '--object', 'blue', '--at', 5, '--box',
        ','.join(map(str, BLUE_BOX)), '--json', 'out.jsonl', '--masks', 'masks',
    )  # fmt: skip
    assert result.status == 0
    objects = objects_of('out.jsonl')
    assert [list(each) for each in objects] == [['red']] * 5 + [['red', 'blue']] * (FRAMES - 5)
    assert all(box_iou(each['blue']['box'], BLUE_BOX) > 0.6 for each in objects[5:])
    assert json.loads(Path('masks/objects.json').read_text()) == {'red': 1, 'blue': 2}
    hidden = cv2.imread(f'masks/{HIDDEN[0]:06d}.png', cv2.IMREAD_UNCHANGED)
    assert set(np.unique(hidden)) == {0, 2}


def test_labels_in_masks_do_not_depend_on_who_came_first(track, video):
    # Named first, seen second.
    result = track(
        video, '--object', 'late', '--at', 4, '--point', BLUE_CLICK, '--object', 'early',
        '--point', RED_CLICK, '--masks', 'masks', '--json', 'out.jsonl',
    )  # fmt: skip
    assert result.status == 0
    numbers = json.loads(Path('masks/objects.json').read_text())
    assert numbers == {'late': 1, 'early': 2}
    for index, objects in enumerate(objects_of('out.jsonl')):
        labels = cv2.imread(f'masks/{index:06d}.png', cv2.IMREAD_UNCHANGED)
        for name, number in numbers.items():
            assert np.count_nonzero(labels == number) == objects.get(name, {'area': 0})['area']


def test_a_correction_on_a_later_frame_changes_only_what_follows(track, video):
    red = ['--object', 'red', '--point', RED_CLICK]
    assert track(video, *red, '--json', 'plain.jsonl').status == 0
    x0, y0, x1, _ = red_box(4)
    off = f'{(x0 + x1) / 2},{y0 + 5}'
    correction = ['--at', 4, '--background', off]
    assert track(video, *red, *correction, '--json', 'corrected.jsonl').status == 0
    plain, corrected = objects_of('plain.jsonl'), objects_of('corrected.jsonl')
    assert [each['red']['area'] for each in plain[:4]] == [
        each['red']['area'] for each in corrected[:4]
    ]
    assert corrected[4]['red']['area'] < plain[4]['red']['area']


def test_a_mask_prompt(track, video):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    x0, y0, x1, y1 = red_box(0)
    mask[y0:y1, x0:x1] = 1  # as in a label image: anything but black counts
    cv2.imwrite('mask.png', mask)
    assert track(video, '--mask', 'mask.png', '--json', 'out.jsonl').status == 0
    objects = objects_of('out.jsonl')
    assert box_iou(objects[0]['1']['box'], red_box(0)) > 0.8
    assert box_iou(objects[5]['1']['box'], red_box(5)) > 0.6


def test_run_lengths_are_the_mask(track, video):
    argv = [video, '--point', RED_CLICK, '--rle', '--json', 'out.jsonl', '--masks', 'masks']
    assert track(*argv).status == 0
    for index, objects in enumerate(objects_of('out.jsonl')):
        size, counts = objects['1']['mask']['size'], objects['1']['mask']['counts']
        values = np.repeat(np.arange(len(counts)) % 2, counts)
        labels = cv2.imread(f'masks/{index:06d}.png', cv2.IMREAD_UNCHANGED)
        assert np.array_equal(values.reshape(size, order='F'), labels)


def test_a_late_prompt_is_carried_forward_to_now(track, video):
    assert track(video, '--point', RED_CLICK, '--json', 'prompt.jsonl').status == 0
    late = track(video, '--point', RED_CLICK, '--prompt-delay', 6, '--json', 'late.jsonl')
    assert late.status == 0
    prompt, delayed = objects_of('prompt.jsonl'), objects_of('late.jsonl')
    # By frame 6 the square has left the place of the click, and now it is on its way.
    assert delayed[5] == delayed[6] == {}
    assert delayed[-1]['1']['box'] == prompt[-1]['1']['box']
    assert box_iou(delayed[-1]['1']['box'], red_box(FRAMES - 1)) > 0.6


def test_corrections_come_in_the_order_of_frames_however_typed(track, video):
    for name, argv in (
        ('typed.jsonl', ['--at', 6, '--point', BLUE_CLICK, '--at', 0, '--point', RED_CLICK]),
        ('sorted.jsonl', ['--point', RED_CLICK, '--at', 6, '--point', BLUE_CLICK]),
    ):
        assert track(video, *argv, '--json', name).status == 0
    boxes = [[each['1']['box'] for each in objects_of(f'{n}.jsonl')] for n in ('typed', 'sorted')]
    assert boxes[0] == boxes[1]


def test_a_folder_of_images(track):
    Path('images').mkdir()
    for index in range(6):
        cv2.imwrite(f'images/{index}.png', picture(index))
    assert track('images', '--point', RED_CLICK, '--fps', 10, '--json', 'o.jsonl').status == 0
    assert [line['stamp_ns'] for line in lines_of('o.jsonl')] == [
        k * 100_000_000 for k in range(6)
    ]
    assert box_iou(objects_of('o.jsonl')[5]['1']['box'], red_box(5)) > 0.6


def test_real_time_drops_what_comes_too_fast_and_keeps_the_video_s_speed(
    track, video, monkeypatch
):
    # The first frame takes until five have come.
    five_came = threading.Event()
    step, put = Tracker.step, LatestFrame.put

    def put_and_count(self, item):
        put(self, item)
        if self.received == 5:
            five_came.set()

    def slow_step(self, frame):
        assert five_came.wait(20)
        return step(self, frame)

    monkeypatch.setattr(LatestFrame, 'put', put_and_count)
    monkeypatch.setattr(Tracker, 'step', slow_step)
    result = track(
        video, '--point', RED_CLICK, '--realtime', '--json', 'o.jsonl', '--save', 'o.mp4'
    )
    assert result.status == 0
    lines = lines_of('o.jsonl')
    positions = [line['source_frame'] for line in lines]
    assert positions == sorted(set(positions))
    assert len(lines) <= FRAMES - 3
    assert f'{FRAMES - len(lines)} dropped' in result.err
    assert all(line['age_ms'] > 0 for line in lines)
    # Frames are repeated where others were dropped.
    assert VideoFile('o.mp4').frame_count == positions[-1] - positions[0] + 1


def test_json_on_standard_output(track, video):
    result = track(video, '--point', RED_CLICK, '--json', '-')
    assert result.status == 0
    assert len([json.loads(line) for line in result.out.splitlines()]) == FRAMES
    assert 'wrote' not in result.err


def signal_on_frame(monkeypatch, index, *numbers):
    step = Tracker.step

    def step_and_signal(self, frame):
        result = step(self, frame)
        if result.frame_index == index:
            for number in numbers:
                signal.raise_signal(number)
        return result

    monkeypatch.setattr(Tracker, 'step', step_and_signal)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_completes_the_files(track, video, tmp_path, monkeypatch, number):
    signal_on_frame(monkeypatch, 5, number)
    before = signal.getsignal(number)
    result = track(
        video, '--point', RED_CLICK, '--save', 'o.mp4', '--json', 'o.jsonl', '--masks', 'm'
    )
    assert result.status == 130
    assert 'interrupted after 6 frames' in result.err
    assert len(lines_of('o.jsonl')) == 6
    assert len(list(VideoFile('o.mp4'))) == 6
    assert len(list(Path('m').glob('*.png'))) == 6
    assert leftovers(tmp_path) == []
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once_and_leaves_no_file_that_looks_whole(
    track, video, monkeypatch
):
    signal_on_frame(monkeypatch, 5, signal.SIGINT, signal.SIGINT)
    result = track(video, '--point', RED_CLICK, '--save', 'o.mp4', '--json', 'o.jsonl')
    assert result.status == 130
    assert 'unfinished results are left in o.part.mp4, o.jsonl.part' in result.err
    assert not Path('o.mp4').exists()
    assert not Path('o.jsonl').exists()
    assert len(lines_of('o.jsonl.part')) == 5


def test_ctrl_c_before_the_first_frame_leaves_nothing(track, video, tmp_path, monkeypatch):
    monkeypatch.setattr(Tracker, 'warm_up', lambda self: signal.raise_signal(signal.SIGINT))
    result = track(video, '--point', RED_CLICK, '--save', 'o.mp4', '--json', 'o.jsonl')
    assert result.status == 130
    assert leftovers(tmp_path) == []
    assert not Path('o.jsonl').exists()


def test_a_source_that_was_stopped_before_its_first_frame(track, video, tmp_path, monkeypatch):
    frames = VideoFile._frames

    def late(self):
        signal.raise_signal(signal.SIGINT)
        yield from frames(self)

    monkeypatch.setattr(VideoFile, '_frames', late)
    assert track(video, '--point', RED_CLICK, '--json', 'o.jsonl').status == 130
    assert leftovers(tmp_path) == []
    assert not Path('o.jsonl').exists()


def test_a_source_that_breaks_before_its_first_frame(track, video, tmp_path, monkeypatch):
    def broken(self):
        raise SourceError('no good')

    monkeypatch.setattr(VideoFile, '_frames', broken)
    result = track(video, '--point', RED_CLICK, '--json', 'o.jsonl')
    assert (result.status, result.err.splitlines()[-1]) == (2, 'sam2_rt: no good')
    assert leftovers(tmp_path) == []
    assert not Path('o.jsonl').exists()


def test_a_video_that_breaks_off_keeps_the_results_of_its_good_frames(track, video, tmp_path):
    data = video.read_bytes()
    Path('cut.avi').write_bytes(data[: int(len(data) * 0.8)])
    argv = ['--save', 'o.mp4', '--json', 'o.jsonl', '--masks', 'm']
    result = track('cut.avi', '--point', RED_CLICK, *argv)
    assert result.status == 2
    lines = lines_of('o.jsonl')
    assert f'cut.avi breaks off: {len(lines)} frames were good, 16 were announced' in result.err
    assert 3 <= len(lines) < FRAMES
    assert len(list(VideoFile('o.mp4'))) == len(lines)
    assert leftovers(tmp_path) == []


def test_a_prompt_that_a_broken_video_never_reaches(track, video):
    data = video.read_bytes()
    Path('cut.avi').write_bytes(data[: int(len(data) * 0.8)])
    result = track('cut.avi', '--at', 15, '--point', RED_CLICK, '--json', 'o.jsonl')
    assert result.status == 2
    assert 'breaks off' in result.err
    assert all(objects == {} for objects in objects_of('o.jsonl'))


def test_a_stream_that_ends_before_a_prompt_is_due(track, video):
    argv = [video, '--at', FRAMES - 1, '--point', RED_CLICK, '--prompt-delay', 5]
    result = track(*argv, '--json', 'o.jsonl')
    assert result.status == 2
    assert f'ended after {FRAMES} frames, before the prompt for frame 15' in result.err
    assert len(lines_of('o.jsonl')) == FRAMES


def test_images_of_different_sizes_cannot_become_one_video(track):
    Path('images').mkdir()
    for index in range(4):
        cv2.imwrite(f'images/{index}.png', picture(index)[: 120 - 10 * (index == 3)])
    result = track('images', '--point', RED_CLICK, '--save', 'o.mp4')
    assert result.status == 2
    assert 'frame 3 has 160x110 pixels, but the video began with 160x120' in result.err
    assert 'unfinished results are left in o.part.mp4' in result.err
    assert not Path('o.mp4').exists()


def test_a_disk_that_is_full_is_noticed_before_anything_is_tracked(track, video, monkeypatch):
    full = type('usage', (), {'free': 1000})
    monkeypatch.setattr('shutil.disk_usage', lambda path: full)
    monkeypatch.setattr(Tracker, 'step', lambda *_: pytest.fail('work was begun'))
    result = track(video, '--point', RED_CLICK, '--save', 'o.mp4')
    assert result.status == 2
    assert 'o.mp4 cannot be written: only 0 kB are free' in result.err


@pytest.mark.parametrize('option', ['--save=o.avi', '--json=o.jsonl'])
def test_a_file_that_cannot_grow_never_looks_whole(tiny_engine, video, option):
    """A real limit on file sizes stands for a disk that fills up."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    command = [
        sys.executable, '-m', 'sam2_rt', 'track', video, f'--point={RED_CLICK}', option,
        f'--engine={tiny_engine}', '--backend=onnxruntime', '--threads=1',
    ]  # fmt: skip
    # A measurement of coverage could not write its file either.
    environment = {name: value for name, value in os.environ.items() if 'COV' not in name}
    done = subprocess.run(
        command,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        errors='replace',
        env={**environment, 'PYTHONPATH': str(Path(__file__).parents[2])},
        timeout=120,
        check=False,
    )
    name = option.partition('=')[2]
    assert done.returncode == 2, done.stderr
    assert f'{name} could' in done.stderr or f'{name} cannot be written: ' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not Path(name).exists()


def test_a_progress_line_is_shown_on_a_terminal(track, video, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    result = track(video, '--point', RED_CLICK)
    assert result.status == 0
    assert f'/{FRAMES}  ' in result.err
    assert '1 visible 1.00' in result.err
