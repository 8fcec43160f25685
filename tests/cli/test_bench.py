"""`sam2_rt bench`: the figures are complete and mean what they say."""

import json
import signal
from pathlib import Path

import pytest

from sam2_rt.cli.bench import _drift, _grid, _made_up, _Repeated
from sam2_rt.runtime import select
from sam2_rt.sources import Paced, Source
from sam2_rt.tracker import Tracker
from tests.cli.conftest import HEIGHT, WIDTH


@pytest.fixture
def bench(run, tiny_engine):
    argv = ['--engine', tiny_engine, '--backend', 'onnxruntime', '--threads', 1]
    return lambda *words: run('bench', *words, *argv)


def test_the_report(bench, video, monkeypatch):
    steps = []
    step = Tracker.step
    monkeypatch.setattr(Tracker, 'step', lambda self, f: (steps.append(f), step(self, f))[1])
    result = bench(
        '--source', video, '--frames', 30, '--warm-up', 5, '--objects', 3, '--json', 'b.json'
    )
    assert result.status == 0
    # 16 frames, repeated.
    assert len(steps) == 35
    assert steps[20].image is steps[4].image
    report = json.loads(Path('b.json').read_text())
    assert (report['frames'], report['objects'], report['warm_up']) == (30, 3, 5)
    assert (report['dropped'], report['rate']) == (0, None)
    assert report['frame_size'] == [HEIGHT, WIDTH]
    assert report['backend'] == 'onnxruntime'
    assert set(report['versions']) == {'sam2_rt', 'onnxruntime', 'numpy', 'opencv', 'python'}
    assert report['cpu']
    assert report['memory_bytes']['resident'] > 10e6
    assert report['memory_bytes']['tracker'] > 0
    assert report['drift'] > 0
    stages = report['milliseconds']
    # The prompts were made during the warm-up, so they are not among the stages.
    assert set(stages) == {'preprocess', 'encode', 'track', 'postprocess', 'frame'}
    for times in stages.values():
        assert 0 < times['p50'] <= times['p95'] <= times['p99'] <= times['longest']
    parts = sum(times['mean'] for name, times in stages.items() if name != 'frame')
    assert parts <= stages['frame']['mean'] < 1000 / report['fps'] * 1.01
    for text in ('fp32', '30 frames of 160x120', '3 objects', 'p99', '0 dropped', 'MB in all'):
        assert text in result.out


def test_what_was_measured_is_remembered_until_told_otherwise(run, tiny_engine, monkeypatch):
    measured = []
    check = select.check_accuracy
    monkeypatch.setattr(
        select, 'check_accuracy', lambda *given: (measured.append(given), check(*given))[1]
    )
    monkeypatch.setattr(select, 'BACKENDS', {'onnxruntime': select.BACKENDS['onnxruntime']})
    words = ('bench', '--engine', tiny_engine, '--threads', 1, '--frames', 1, '--warm-up', 1)
    for more, expected in (([], 1), ([], 1), (['--remeasure'], 2), ([], 2)):
        assert run(*words, *more).status == 0
        assert len(measured) == expected


def test_a_steady_rate_counts_drops_and_ages(bench):
    result = bench('--rate', 200, '--frames', 20, '--warm-up', 2, '--json', 'b.json')
    assert result.status == 0
    report = json.loads(Path('b.json').read_text())
    assert report['frames'] == 20
    assert report['rate'] == 200
    assert report['dropped'] >= 0
    assert report['milliseconds']['age']['p50'] >= report['milliseconds']['preprocess']['p50']
    assert 'at 200 per second' in result.out
    assert '1 object,' in result.out


def test_only_drops_of_the_measurement_are_counted(bench, monkeypatch):
    class TenDropsAFrame(Source):
        live = True

        def __init__(self, source):
            super().__init__('camera')
            self.source = source

        @property
        def dropped(self):
            return 10 * (self.position + 1)

        def _frames(self):
            return iter(self.source)

    monkeypatch.setattr('sam2_rt.cli.bench.Paced', TenDropsAFrame)
    assert bench('--rate', 30, '--frames', 7, '--warm-up', 3, '--json', 'b.json').status == 0
    assert json.loads(Path('b.json').read_text())['dropped'] == 70


def test_ctrl_c_reports_what_was_measured(bench, monkeypatch):
    step = Tracker.step

    def step_and_signal(self, frame):
        result = step(self, frame)
        if result.frame_index == 9:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(Tracker, 'step', step_and_signal)
    result = bench('--warm-up', 4)
    assert result.status == 0
    assert '6 frames of 1280x720' in result.out
    assert bench('--warm-up', 50).status == 130


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--objects', 0], '--objects: expected 1 or more, got 0'),
        (['--frames', 0], '--frames: expected 1 or more, got 0'),
        (['--warm-up', 0], '--warm-up: expected 1 or more, got 0'),
        (['--rate', 0], '--rate: expected 0.1 to 1000 frames per second, got 0'),
        (['--objects', 99], 'max_objects: 99 asked for'),
        (['--source', 'nowhere'], 'nowhere does not exist'),
        (['--source', 'rtsp://127.0.0.1:1/none'], 'cannot be opened'),
        (['--json', 'nowhere/b.json'], 'nowhere is not a folder'),
    ],
)
def test_nonsense(bench, words, message):
    result = bench(*words)
    assert result.status == 2
    assert message in result.err


def test_a_camera_cannot_be_repeated(bench, monkeypatch):
    camera = Paced(_Repeated(_made_up(), 1, 30.0))
    monkeypatch.setattr('sam2_rt.cli.bench.open_source', lambda text: camera)
    result = bench('--source', '0')
    assert result.status == 2
    assert '--source: expected a video or a folder, got the camera 0' in result.err


def test_the_made_up_frames_move():
    frames = _made_up(160, 90)
    assert frames[0].image.shape == (90, 160, 3)
    assert (frames[0].image != frames[30].image).any()


@pytest.mark.parametrize('count', [1, 2, 3, 4, 5, 9])
def test_boxes_of_the_grid_are_inside_and_apart(count):
    frame = _made_up(160, 90)[0]
    boxes = _grid(count, frame)
    assert len(set(boxes)) == count
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= 160
        assert 0 <= y0 < y1 <= 90


def test_drift_compares_the_end_with_the_beginning():
    steady = [0.01] * 100
    assert _drift(steady) == 1.0
    assert _drift([0.01 * (1 + index // 50) for index in range(100)]) == 2.0
    assert _drift([9.0, *steady[1:]]) == 1.0  # one slow frame is no drift
    assert _drift([0.02]) == 1.0
