"""Listing engine folders."""

import shutil

import pytest

from sam2_rt.errors import EngineError
from sam2_rt.runtime.folders import find_engines


def test_engines_are_listed_by_name_with_what_is_wrong(tiny_engine, tmp_path):
    for name in ('b-whole', 'a-cut', 'd-bare', '.unfinished'):
        shutil.copytree(tiny_engine, tmp_path / name)
    (tmp_path / 'a-cut' / 'track.onnx').write_bytes(b'')
    (tmp_path / 'd-bare' / 'manifest.json').unlink()
    (tmp_path / 'c-something-else').mkdir()
    (tmp_path / 'README.md').touch()

    cut, whole, bare = find_engines(tmp_path)
    assert [engine.folder.name for engine in (cut, whole, bare)] == ['a-cut', 'b-whole', 'd-bare']
    assert whole.problem == ''
    assert whole.manifest is not None
    assert whole.manifest.variant == 'tiny'
    assert whole.nbytes == sum(path.stat().st_size for path in tiny_engine.iterdir())
    assert 'track.onnx: expected SHA-256' in cut.problem
    assert cut.manifest is not None
    assert 'has no manifest.json' in bare.problem
    assert bare.manifest is None


def test_an_engine_folder_itself_is_a_list_of_one(tiny_engine):
    (engine,) = find_engines(tiny_engine)
    assert (engine.folder, engine.problem) == (tiny_engine, '')


def test_a_folder_without_engines(tmp_path):
    assert find_engines(tmp_path) == []


def test_no_folder(tmp_path):
    with pytest.raises(EngineError, match='nowhere is not a folder; give an engine folder or'):
        find_engines(tmp_path / 'nowhere')
