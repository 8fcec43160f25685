"""Bad input on the command line: one readable line, status 2, no traceback, no files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_rt import __version__
from sam2_rt.cli import bench, engines, segment, track
from sam2_rt.tracker import Tracker
from tests.cli.conftest import RED_CLICK, picture


def check(result, message, status=2):
    assert result.status == status, result.err
    assert message in result.err.splitlines()[-1]


BAD_PROMPTS = [
    ('--point 500,10', 'is outside the image'),
    ('--point=-3,10', 'is outside the image'),
    ('--point 10,nan', 'not a finite number'),
    ('--box 50,50,10,90', 'is empty or inverted'),
    ('--box 10,10,10,90', 'is empty or inverted'),
    ('--point 1', "--point: expected X,Y in pixels, got '1'"),
    ('', 'nothing to '),
]


@pytest.mark.parametrize(('words', 'message'), BAD_PROMPTS)
def test_bad_prompts_for_track(track, video, words, message):
    result = track(video, *words.split(), '--json', 'o.jsonl', '--masks', 'm', '--save', 'o.mp4')
    check(result, message)
    assert {path.name for path in Path().iterdir()} <= {'video.avi', 'cache'}


@pytest.mark.parametrize(('words', 'message'), BAD_PROMPTS)
def test_bad_prompts_for_segment(run, tiny_engine, image, words, message):
    argv = ['--engine', tiny_engine, '--backend', 'onnxruntime']
    check(run('segment', image, *words.split(), *argv), message)
    assert not Path('image_segments').exists()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('--mask small.png', 'mask'),
        ('--mask missing.png', 'missing.png does not exist'),
        ('--object mug', "object 'mug' has no prompt"),
        ('--at 16 --point 5,5', 'a prompt is for frame 16, but'),
        ('--point 5,5 --fps 0', '--fps: expected 0.1 to 1000 frames per second, got 0'),
        ('--point 5,5 --prompt-delay -1', '--prompt-delay: expected 0 or more frames, got -1'),
        ('--point 5,5 --threads 0', 'threads: expected at least 1, got 0'),
        ('--point 5,5 --backend none', "argument --backend: invalid choice: 'none'"),
        ('--point 5,5 --save o.gif', "a video must end in one of .mp4 .mov .mkv .avi, got '.gif'"),
        ('--point 5,5 --save nowhere/o.mp4', 'nowhere is not a folder; make it first'),
        ('--point 5,5 --json nowhere/o.jsonl', 'nowhere is not a folder; make it first'),
        ('--point 5,5 --save folder.mp4', 'folder.mp4 is a folder; give the name of a file'),
        ('--point 5,5 --json full', 'full is a folder; give the name of a file'),
        ('--point 5,5 --masks full', 'full exists and is not an empty folder'),
        ('--point 5,5 --masks small.png', 'small.png exists and is not an empty folder'),
        ('--point 5,5 --json small.png/o.jsonl', 'small.png is not a folder; make it first'),
    ],
)
def test_bad_options_for_track(track, video, words, message):
    cv2.imwrite('small.png', np.full((10, 10), 255, np.uint8))
    Path('full').mkdir()
    Path('full/something').touch()
    Path('folder.mp4').mkdir()
    before = sorted(map(str, Path().rglob('*')))
    check(track(video, *words.split()), message)
    after = [path for path in map(str, Path().rglob('*')) if not path.startswith('cache')]
    assert sorted(after) == before


def test_a_mask_of_another_size(track, video):
    cv2.imwrite('small.png', np.full((10, 10), 255, np.uint8))
    result = track(video, '--mask', 'small.png')
    check(result, '10')
    assert '120' in result.err


def test_more_objects_than_the_engine_allows(track, video):
    words = [word for k in range(9) for word in ('--object', f'o{k}', '--point', RED_CLICK)]
    check(track(video, *words), 'max_objects: 9 asked for')


def test_a_folder_that_may_not_be_written(track, video):
    if os.geteuid() == 0:
        pytest.skip('root may write anywhere; run as a user')
    Path('locked').mkdir(mode=0o500)
    check(track(video, '--point', RED_CLICK, '--save', 'locked/o.mp4'), 'Permission denied')


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('missing.mp4', 'missing.mp4 does not exist; check the path'),
        ('empty.mp4', 'empty.mp4 is empty (0 bytes)'),
        ('text.mp4', 'text.mp4 (400 bytes) cannot be decoded as a video'),
        ('image.png', 'image.png is a single image, not a video'),
        ('nothing', 'nothing has no images'),
        ('77', 'webcam 77 cannot be opened'),
        ('rtsp://127.0.0.1:1/none', 'stream rtsp://127.0.0.1:1/none cannot be opened'),
    ],
)
def test_sources_that_cannot_be_used(track, image, source, message):
    Path('empty.mp4').touch()
    Path('text.mp4').write_text('text' * 100)
    Path('nothing').mkdir()
    check(track(source, '--point', '5,5'), message)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('missing.png', 'missing.png does not exist'),
        ('empty.png', 'empty.png is empty (0 bytes)'),
        ('text.png', 'text.png (4 bytes) cannot be read as an image'),
    ],
)
def test_images_that_cannot_be_used(run, tiny_engine, name, message):
    Path('empty.png').touch()
    Path('text.png').write_text('text')
    check(run('segment', name, '--point', '5,5', '--engine', tiny_engine), message)
    assert not Path(f'{Path(name).stem}_segments').exists()


@pytest.mark.parametrize('channels', [1, 4])
def test_grey_and_transparent_images_are_fine(run, tiny_engine, channels):
    square = picture(0)[..., :1] if channels == 1 else np.dstack([picture(0), picture(0)[..., :1]])
    cv2.imwrite('image.png', square)
    argv = ['--engine', tiny_engine, '--backend', 'onnxruntime', '--out', 'out']
    assert run('segment', 'image.png', '--point', RED_CLICK, *argv).status == 0


# Engines --------------------------------------------------------------------------------------


def edit(folder, **changes):
    path = folder / 'manifest.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


DAMAGE = [
    pytest.param(lambda folder: shutil.rmtree(folder), 'there is no engine', id='no folder'),
    pytest.param(lambda folder: (folder / 'manifest.json').unlink(), 'no manifest', id='no file'),
    pytest.param(lambda folder: edit(folder, format_version=99), 'got 99', id='version'),
    pytest.param(lambda folder: edit(folder, memory={}), 'missing or malformed', id='field'),
    pytest.param(
        lambda folder: truncate(folder / 'manifest.json'), 'cannot be read as JSON', id='json'
    ),
    pytest.param(lambda folder: truncate(next(folder.glob('*.onnx'))), 'SHA-256', id='truncated'),
    pytest.param(
        lambda folder: next(folder.glob('*.onnx')).unlink(), 'is missing', id='graph missing'
    ),
]


@pytest.mark.parametrize(('damage', 'message'), DAMAGE)
def test_a_damaged_engine(run, engine_copy, video, damage, message):
    damage(engine_copy)
    result = run(
        'track', video, '--point', RED_CLICK, '--engine', engine_copy, '--json', 'o.jsonl'
    )
    check(result, message)
    assert not Path('o.jsonl').exists()
    assert not Path('o.jsonl.part').exists()


def test_no_engine_at_all(run, video, monkeypatch):
    monkeypatch.setattr('sam2_rt.runtime.locate.engine_roots', lambda: [])
    result = run('track', video, '--point', RED_CLICK)
    check(result, "the bundled engine 'micro' is missing; engines found: none")
    assert 'python -m export.to_onnx' in result.err


def test_a_backend_that_is_not_installed(run, tiny_engine, video, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    argv = ['--point', RED_CLICK, '--engine', tiny_engine, '--backend', 'openvino']
    result = run('track', video, *argv)
    assert result.status == 2
    assert 'openvino' in result.err


# The command line itself ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], 'COMMAND'),
        (['fly'], "invalid choice: 'fly'"),
        (['track'], 'SOURCE'),
        (['track', 'x', '--poin', '1,2'], 'unrecognized arguments'),
        (['track', 'x', '--point'], 'argument --point: expected one argument'),
    ],
)
def test_usage_errors_are_one_line_that_names_the_help(run, words, message):
    result = run(*words)
    check(result, message)
    assert result.err.count('\n') == 1
    assert '--help' in result.err


@pytest.mark.parametrize('command', ['', 'track', 'segment', 'bench', 'engines'])
def test_help_teaches_with_examples(run, command):
    result = run(*command.split(), '--help')
    assert result.status == 0
    assert f'sam2_rt {command}'.strip() in result.out
    for module in (track, segment, bench, engines):
        if module.__name__.endswith(f'.{command}'):
            assert module.EXAMPLES.splitlines()[1].strip() in result.out


def test_version(run):
    result = run('--version')
    assert (result.status, result.out) == (0, f'sam2_rt {__version__}\n')


def test_a_bug_says_how_to_report_it(track, video, monkeypatch):
    def broken(self, frame):
        raise KeyError('surprise')

    monkeypatch.setattr(Tracker, 'step', broken)
    result = track(video, '--point', RED_CLICK)
    assert result.status == 1
    assert "unexpected error, KeyError: 'surprise'" in result.err
    assert 'This is a bug. Please report it' in result.err
    assert f'sam2_rt {__version__}' in result.err

    debugged = track(video, '--point', RED_CLICK, '--debug')
    assert debugged.status == 1
    assert "raise KeyError('surprise')" in debugged.err


def test_debug_shows_where_an_error_comes_from(run):
    result = run('track', 'missing.mp4', '--point', '1,2', '--debug')
    assert result.status == 2
    assert 'in _check_file' in result.err


def test_the_module_runs_as_a_program():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, '-m', 'sam2_rt', 'track', 'missing.mp4', '--point', '1,2'],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(root)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith('sam2_rt: missing.mp4 does not exist')
    assert done.stderr.count('\n') == 1
    assert done.stdout == ''
