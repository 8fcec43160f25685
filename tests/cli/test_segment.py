"""`sam2_rt segment`: all readings of a prompt, as PNGs and JSON."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam2_rt.cli.segment import named
from sam2_rt.types import Candidate
from tests.cli.conftest import BLUE_BOX, HEIGHT, RED_CLICK, WIDTH, box_iou, red_box


@pytest.fixture
def segment(run, tiny_engine, image):
    argv = ['--engine', tiny_engine, '--backend', 'onnxruntime', '--threads', 1]
    return lambda *words: run('segment', image, *words, *argv)


def test_all_readings_are_written_and_described(segment):
    result = segment('--point', RED_CLICK)
    assert result.status == 0
    folder = Path('image_segments')
    report = json.loads((folder / 'segment.json').read_text())
    assert report['size'] == [HEIGHT, WIDTH]
    assert report['probability'] > 0.9
    candidates = report['candidates']
    assert sorted(each['name'] for each in candidates) == ['part', 'subpart', 'whole']
    scores = [each['iou_score'] for each in candidates]
    assert scores == sorted(scores, reverse=True)
    area = {each['name']: each['area'] for each in candidates}
    assert area['whole'] >= area['part'] >= area['subpart'] > 0
    for each in [report['chosen'], *candidates]:
        mask = cv2.imread(str(folder / each['mask']), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (HEIGHT, WIDTH)
        assert set(np.unique(mask)) == {0, 255}
        assert np.count_nonzero(mask) == each['area']
        assert cv2.imread(str(folder / each['overlay'])).shape == (HEIGHT, WIDTH, 3)
        assert f'{each["name"]:8} score {each["iou_score"]:.3f}' in result.err
    assert box_iou(report['chosen']['box'], red_box(0)) > 0.6
    expected = {f'{n}{s}.png' for n in ('chosen', *area) for s in ('', '_overlay')}
    assert {path.name for path in folder.iterdir()} == {*expected, 'segment.json'}


def test_a_box_prompt_and_a_folder_of_choice(segment):
    box = ','.join(map(str, BLUE_BOX))
    assert segment('--box', box, '--out', 'cup').status == 0
    report = json.loads(Path('cup/segment.json').read_text())
    assert box_iou(report['chosen']['box'], BLUE_BOX) > 0.6


def test_a_background_click_takes_away(segment):
    assert segment('--point', RED_CLICK, '--out', 'plain').status == 0
    x0, y0, _, _ = red_box(0)
    off = f'{x0 + 5},{y0 + 5}'
    assert segment('--point', RED_CLICK, '--background', off, '--out', 'less').status == 0
    area = {
        name: json.loads(Path(name, 'segment.json').read_text())['chosen']['area']
        for name in ('plain', 'less')
    }
    assert area['less'] < area['plain']


def test_the_folder_cannot_be_a_file(segment):
    Path('taken').touch()
    result = segment('--point', RED_CLICK, '--out', 'taken')
    assert result.status == 2
    assert 'taken is a file; give --out a folder' in result.err


def test_a_folder_inside_of_nothing(segment):
    result = segment('--point', RED_CLICK, '--out', 'no/where')
    assert result.status == 2
    assert 'no/where cannot be written: no is not a folder; make it first' in result.err


def test_readings_are_named_by_their_size_and_keep_their_order():
    masks = [np.arange(10)[None] < count for count in (5, 9, 2)]
    candidates = [
        Candidate(mask, score) for mask, score in zip(masks, (0.9, 0.8, 0.7), strict=True)
    ]
    assert [name for name, _ in named(candidates)] == ['part', 'whole', 'subpart']
    assert [candidate for _, candidate in named(candidates)] == candidates
