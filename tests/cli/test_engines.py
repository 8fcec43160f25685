"""`sam2_rt engines`, and how an engine is found by name."""

import json
import shutil
from pathlib import Path

import pytest

from sam2_rt.cli.table import table
from sam2_rt.errors import EngineError
from sam2_rt.runtime import locate


@pytest.fixture
def here(engine_copy, tmp_path):
    """./engines with one engine in it, and no other place that has any."""
    folder = tmp_path / 'engines' / 'colours'
    shutil.copytree(engine_copy, folder)
    return folder


@pytest.fixture(autouse=True)
def _not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(locate, '__file__', str(tmp_path / 'lib/sam2_rt/runtime/locate.py'))


def test_engines_of_the_current_folder_are_listed(run, here):
    result = run('engines')
    assert result.status == 0
    heading, row = result.out.splitlines()
    assert heading.split()[:3] == ['engine', 'variant', 'pixels']
    assert row.split() == [str(here), 'tiny', '64', 'fp32', '8', '2+6', '0.1', 'trained', 'ok']


def test_as_json(run, here):
    (engine,) = json.loads(run('engines', '--json', 'engines').out)
    assert (engine['variant'], engine['image_size'], engine['problem']) == ('tiny', 64, '')
    assert engine['bytes'] == sum(path.stat().st_size for path in here.iterdir())


def test_damage_is_told_and_changes_the_status(run, here):
    graph = next(here.glob('*.onnx'))
    graph.write_bytes(graph.read_bytes()[:100])
    result = run('engines', here)
    assert result.status == 2
    assert 'damaged, see below' in result.out
    assert f'{graph.name}: expected SHA-256' in result.err


def test_an_unreadable_manifest_is_listed_too(run, here):
    (here / 'manifest.json').write_text('{')
    result = run('engines')
    assert result.status == 2
    assert '?' in result.out
    assert 'cannot be read as JSON' in result.err
    (engine,) = json.loads(run('engines', '--json').out)
    assert 'variant' not in engine
    assert 'cannot be read as JSON' in engine['problem']


def test_no_engines(run):
    result = run('engines')
    assert result.status == 0
    assert 'no engines found (no engines folder here); export one' in result.err


def test_a_folder_that_is_none(run):
    result = run('engines', 'nowhere')
    assert result.status == 2
    assert 'nowhere is not a folder' in result.err


def test_engines_are_found_by_name_and_by_path(here):
    assert locate.locate_engine('colours') == Path.cwd() / 'engines' / 'colours'
    assert locate.locate_engine('engines/colours') == Path('engines/colours')


def test_the_bundled_engine_is_the_default(here):
    with pytest.raises(EngineError, match=r"bundled engine 'micro' is missing.* found: colours\."):
        locate.locate_engine()
    here.rename(here.with_name('micro'))
    assert locate.locate_engine() == Path.cwd() / 'engines' / 'micro'


def test_engines_of_an_installation_are_found(engine_copy, tmp_path):
    shared = tmp_path / 'share' / 'sam2_rt' / 'engines'
    shutil.copytree(engine_copy, shared / 'micro')
    assert locate.engine_roots() == [shared]
    assert locate.locate_engine() == shared / 'micro'


def test_an_unknown_name_lists_the_known_ones(here):
    with pytest.raises(EngineError, match=r"there is no engine 'other'; engines found: colours"):
        locate.locate_engine('other')


def test_random_weights_are_told(run, here, video):
    path = here / 'manifest.json'
    path.write_text(path.read_text().replace('"trained": true', '"trained": false'))
    assert ' random ' in run('engines').out
    argv = ['--engine', 'colours', '--backend', 'onnxruntime']
    result = run('track', video, '--point', '30,50', *argv)
    assert 'this engine has random weights: its masks mean nothing' in result.err


def test_columns_of_numbers_are_set_right():
    rows = [('name', 'ms', 'note'), ('a', '1.50', 'x'), ('bbb', '10.25', ''), ('c', '-', 'yy')]
    assert table(rows).splitlines() == [
        'name     ms  note',
        'a      1.50  x',
        'bbb   10.25',
        'c         -  yy',
    ]
