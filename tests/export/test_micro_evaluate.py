"""The measurement of `micro`: what it runs, what it writes, what it refuses."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')

from export.micro.evaluate import follow, main, open_runner, prompt_from  # noqa: E402
from export.micro.scenes import DIFFICULTIES, generate  # noqa: E402
from export.networks import with_random_weights  # noqa: E402

BUNDLED = Path(__file__).parents[2] / 'engines' / 'micro'


@pytest.fixture
def short(tmp_path: Path) -> list[str]:
    """One clip of three frames per kind, and no real ones."""
    return ['--scenes', '1', '--frames', '3', '--out', str(tmp_path / 'out')]


@pytest.fixture
def no_real_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('export.micro.real_clips.DEFAULT_FOLDER', Path('nowhere'))


def test_it_writes_scores_of_every_kind_and_overlays(no_real_clips, short, tmp_path, capsys):
    assert main([str(BUNDLED), *short]) == 0
    scores = json.loads((tmp_path / 'out' / 'scores.json').read_text())
    assert {name.split(',')[0] for name in scores} == set(DIFFICULTIES)
    for numbers in scores.values():
        assert 0 <= numbers['J'] <= 1
        assert numbers['objects'] >= 1
    picture = cv2.imread(str(tmp_path / 'out' / 'overlays.png'))
    assert picture.shape[0] == 135 * len(scores)
    assert 'plain, box' in capsys.readouterr().out


def test_a_checkpoint_tracks_as_the_engine_made_of_it(tmp_path, micro_engine):
    """With the same memory above all: what is remembered is the engine's, not SAM 2's."""
    weights = with_random_weights('micro', 256, 2, seed=0).model.state_dict()
    torch.save({'model': weights}, tmp_path / 'micro.pt')
    clip = generate(3, 'occlusion', 10, 96, 128)
    box = prompt_from(clip.masks[0, 0], 'box')
    with open_runner(tmp_path / 'micro.pt') as torch_runner, open_runner(micro_engine) as engine:
        assert torch_runner.manifest.memory == engine.manifest.memory
        ours, theirs = (follow(runner, clip.frames, [box]) for runner in (torch_runner, engine))
    np.testing.assert_array_equal(ours.visible, theirs.visible)
    assert (ours.masks != theirs.masks).mean() < 1e-3


@pytest.mark.parametrize(
    'wrong',
    [['--scenes', '0'], ['--frames', '1'], ['--first', '-1'], ['--clips', 'nowhere']],
    ids=lambda wrong: wrong[0],
)
def test_numbers_and_folders_that_make_no_sense_are_refused(wrong, capsys):
    with pytest.raises(SystemExit, match='2'):
        main([str(BUNDLED), *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_errors_are_a_line_not_a_traceback(tmp_path, short, capsys):
    assert main([str(tmp_path / 'missing.pt'), *short]) == 1
    assert 'missing.pt' in capsys.readouterr().err
    shutil.copytree(BUNDLED, tmp_path / 'engine')
    (tmp_path / 'engine' / 'track.onnx').write_bytes(b'cut')
    assert main([str(tmp_path / 'engine'), *short]) == 1
    assert 'track.onnx' in capsys.readouterr().err
