"""A manifest, and every way in which an engine folder can be broken."""

import json
from dataclasses import replace

import pytest

from sam2_rt.errors import EngineError
from sam2_rt.runtime.manifest import FILE_NAME, load_manifest


def edit(folder, change):
    """Applies a change to the parsed manifest of a folder and writes it back."""
    path = folder / FILE_NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_what_was_saved_is_loaded(tiny_engine, tmp_path):
    manifest = load_manifest(tiny_engine)
    manifest.verify_files()
    assert (manifest.variant, manifest.image_size, manifest.max_objects) == ('tiny', 64, 8)
    assert manifest.memory.memory_slots == 8
    assert manifest.memory.pointer_slots == 17
    assert manifest.path('track') == tiny_engine / 'track.onnx'
    copy = replace(manifest, folder=tmp_path)
    copy.save()
    assert load_manifest(tmp_path) == copy
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize('least', [None, 0.0, -1.5])
def test_what_is_remembered_is_part_of_an_engine(tiny_engine, tmp_path, least):
    manifest = load_manifest(tiny_engine)
    memory = replace(manifest.memory, remember_above=least)
    replace(manifest, folder=tmp_path, memory=memory).save()
    assert load_manifest(tmp_path).memory == memory


def test_an_engine_that_says_nothing_of_it_remembers_every_frame(engine_copy):
    edit(engine_copy, lambda data: data['memory'].pop('remember_above', None))
    assert load_manifest(engine_copy).memory.remember_above is None


def test_a_path_that_is_no_folder(tmp_path):
    with pytest.raises(EngineError, match='nowhere is not a folder; give an engine folder'):
        load_manifest(tmp_path / 'nowhere')


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(EngineError, match=r'has no manifest\.json; give an engine folder'):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    'text', ['', '{"format_version": 1', '\udcff'], ids=['empty', 'cut', 'bin']
)
def test_a_manifest_that_is_not_json(engine_copy, text):
    (engine_copy / FILE_NAME).write_text(text, errors='surrogateescape')
    with pytest.raises(EngineError, match='cannot be read as JSON: .*copy the whole folder again'):
        load_manifest(engine_copy)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda m: m.update(format_version=2), 'expected format version 1, got 2; export'),
        (lambda m: m.pop('format_version'), 'expected format version 1, got None'),
        (lambda m: m.pop('image_size'), "malformed .KeyError: 'image_size'"),
        (lambda m: m.update(image_size='wide'), 'malformed .ValueError: .*wide'),
        (lambda m: m['memory'].update(remember_above='no'), 'malformed .TypeError'),
        (lambda m: m['memory'].update(remember_above=float('nan')), 'nan is no object score'),
        (lambda m: m.update(memory={'slots': 7}), 'malformed .TypeError'),
        (lambda m: m.update(files=None), 'malformed .TypeError'),
        (lambda m: m['graphs'].pop('prompt'), r"graphs \['prompt'\] are not listed"),
        (
            lambda m: m['graphs']['track']['inputs'][0].update(dtype='float64'),
            "'float64' of image",
        ),
        (lambda m: m['files'].pop('track.onnx'), r"no SHA-256 is given for \['track.onnx'\]"),
    ],
)
def test_a_manifest_with_something_missing_or_wrong(engine_copy, change, message):
    edit(engine_copy, change)
    with pytest.raises(EngineError, match=message):
        load_manifest(engine_copy)


def test_a_list_is_no_manifest(engine_copy):
    (engine_copy / FILE_NAME).write_text('[]')
    with pytest.raises(EngineError, match='expected format version 1, got None'):
        load_manifest(engine_copy)


def test_a_missing_file(engine_copy):
    (engine_copy / 'prompt.onnx').unlink()
    with pytest.raises(EngineError, match=r'prompt\.onnx is missing; export the engine again'):
        load_manifest(engine_copy).verify_files()


@pytest.mark.parametrize('damage', ['truncated', 'one bit'])
def test_a_file_that_is_not_what_was_exported(engine_copy, damage):
    path = engine_copy / 'track.onnx'
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content[:-9] if damage == 'truncated' else content)
    with pytest.raises(EngineError, match=r'track\.onnx: expected SHA-256 .*truncated or altered'):
        load_manifest(engine_copy).verify_files()


def test_a_file_that_cannot_be_read(engine_copy, monkeypatch):
    def fail(path):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr('sam2_rt.runtime.manifest.sha256', fail)
    with pytest.raises(EngineError, match=r'encode\.onnx cannot be read: .*Permission denied'):
        load_manifest(engine_copy).verify_files()
