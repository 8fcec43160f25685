"""How prompts are typed, and what is said of those that cannot be read."""

import argparse

import cv2
import numpy as np
import pytest

from sam2_rt.cli.prompts import add_options, parse_prompts
from sam2_rt.errors import PromptError
from sam2_rt.types import BoxPrompt, MaskPrompt, PointPrompt


def parse(line, tracking=True):
    parser = argparse.ArgumentParser()
    add_options(parser, tracking=tracking)
    return parse_prompts(parser.parse_args(line.split()).prompts)


def test_no_prompts():
    assert parse('') == []


def test_points_that_follow_each_other_are_one_prompt_of_the_first_object():
    (request,) = parse('--point 1,2 --background 3.5,4 --point 5,6')
    assert (request.object_id, request.label, request.frame) == ('1', '', 0)
    assert isinstance(request.prompt, PointPrompt)
    assert request.prompt.points.tolist() == [[1, 2], [3.5, 4], [5, 6]]
    assert request.prompt.labels.tolist() == [1, 0, 1]


def test_a_box_and_points_are_one_prompt():
    (request,) = parse('--point 5,6 --box 1,2,30,40 --background 7,8')
    assert isinstance(request.prompt, BoxPrompt)
    assert request.prompt.box.tolist() == [1, 2, 30, 40]
    assert request.prompt.points.tolist() == [[5, 6], [7, 8]]
    assert request.prompt.labels.tolist() == [1, 0]


def test_objects_are_told_apart_by_their_order():
    mug, ball = parse('--object mug --box 1,2,3,4 --object ball --point 5,6')
    assert (mug.object_id, type(mug.prompt)) == ('mug', BoxPrompt)
    assert (ball.object_id, type(ball.prompt)) == ('ball', PointPrompt)


def test_a_label_belongs_to_all_prompts_of_its_object():
    parsed = parse(
        '--object a=cup --point 1,2 --object b --point 3,4 --object a --at 5 --point 6,7'
    )
    assert [(each.object_id, each.label) for each in parsed] == [
        ('a', 'cup'),
        ('b', ''),
        ('a', 'cup'),
    ]


def test_frames_are_told_apart_and_begin_at_0_for_every_object():
    parsed = parse(
        '--object b --at 9 --point 1,1 --at 3 --point 2,2 '
        '--object a --point 3,3 --at 9 --point 4,4 --object b --point 5,5'
    )
    assert [(each.object_id, each.frame) for each in parsed] == [
        ('b', 9),
        ('b', 3),
        ('a', 0),
        ('a', 9),
        ('b', 0),
    ]


def test_a_mask_is_everything_that_is_not_black(tmp_path):
    image = np.zeros((4, 5), np.uint8)
    image[1, 2], image[3, 4] = 1, 255
    cv2.imwrite(str(tmp_path / 'mask.png'), image)
    (request,) = parse(f'--mask {tmp_path}/mask.png')
    assert isinstance(request.prompt, MaskPrompt)
    assert np.array_equal(request.prompt.mask, image > 0)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('--point 1', r"--point: expected X,Y in pixels, got '1'"),
        ('--point 1,2,3', r"--point: expected X,Y in pixels, got '1,2,3'"),
        ('--background a,b', r"--background: expected X,Y in pixels, got 'a,b'"),
        ('--point nan,1', 'not a finite number'),
        ('--box 1,2,3', r"--box: expected X0,Y0,X1,Y1 in pixels, got '1,2,3'"),
        ('--box 5,5,1,9', r'box \[5.0, 5.0, 1.0, 9.0\] is empty or inverted'),
        ('--box 5,5,5,5', 'is empty or inverted'),
        ('--box 1,2,3,4 --box 1,2,3,4', r"object '1' has two of --box on frame 0"),
        ('--mask a.png --mask b.png', r"object '1' has two of --mask on frame 0"),
        ('--mask a.png --point 1,2', 'a mask is a complete prompt'),
        ('--mask nowhere.png', r'--mask: nowhere\.png does not exist'),
        ('--mask {tmp}/text.png', r'text\.png cannot be read as an image'),
        ('--mask {tmp}/black.png', 'the mask is empty'),
        ('--object mug', r"object 'mug' has no prompt"),
        ('--object mug --object ball --point 1,2', r"object 'mug' has no prompt"),
        ('--object =cup --point 1,2', r"--object: expected ID or ID=LABEL, got '=cup'"),
        ('--at -1 --point 1,2', r"--at: expected the number of a frame, 0 or more, got '-1'"),
        ('--at soon --point 1,2', r"--at: expected the number of a frame, 0 or more, got 'soon'"),
    ],
)
def test_what_cannot_be_read(line, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.png').write_text('text')
    cv2.imwrite(str(tmp_path / 'black.png'), np.zeros((4, 4), np.uint8))
    with pytest.raises(PromptError, match=message):
        parse(line.format(tmp=tmp_path))


def test_segment_knows_neither_objects_nor_frames(capsys):
    for option in ('--object a', '--at 3', '--mask a.png'):
        with pytest.raises(SystemExit):
            parse(option, tracking=False)
        assert 'unrecognized arguments' in capsys.readouterr().err
