"""Plan names, records, staleness, and files that are whole or absent."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sam2_rt.errors import EngineError
from sam2_rt.runtime import plans as module
from sam2_rt.runtime.cuda import Device
from sam2_rt.runtime.manifest import GRAPH_NAMES, Manifest, load_manifest, sha256
from sam2_rt.runtime.plans import (
    PlanFile,
    PlanSet,
    Target,
    find_plans,
    plan_name,
    read_record,
    write_record,
    write_whole,
)

ORIN = Target('tensorrt', '10.3.0', Device('Orin', (8, 7), 16, '12.6'))
ORIN_NX = replace(ORIN, device=Device('Orin', (8, 7), 8, '12.6'))
DESKTOP = Target('tensorrt_rtx', '1.7.1', Device('NVIDIA GeForce RTX 4090', (8, 9), 128, '13.0'))


@pytest.fixture
def manifest(engine_copy: Path) -> Manifest:
    return load_manifest(engine_copy)


def built(manifest: Manifest, target: Target, policy: str = 'fp32') -> PlanSet:
    """Writes plans with made-up content, and their record."""
    folder = manifest.folder / 'plans'
    folder.mkdir(exist_ok=True)
    files = {}
    for graph in GRAPH_NAMES:
        path = write_whole(folder / plan_name(manifest, graph, target, policy), graph.encode())
        files[graph] = PlanFile(path.name, sha256(path), 1.5)
    found = PlanSet(policy, files, {policy: {'mean_iou': 0.999}}, '2026-01-01T00:00:00+00:00')
    write_record(manifest, target, found)
    return found


def test_name_says_graph_library_version_gpu_and_policy(manifest: Manifest) -> None:
    name = plan_name(manifest, 'track', DESKTOP, 'fp16')
    graph, key, rest = name.split('.', 2)
    assert graph == 'track'
    assert len(key) == 12
    assert rest == 'tensorrt_rtx-1.7.1.nvidia-geforce-rtx-4090-sm89-128mp.fp16.plan'


def test_name_changes_with_everything_the_plan_depends_on(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_weights = replace(manifest, files={**manifest.files, 'weights.bin': 'a' * 64})
    other_weights = replace(manifest, files={**manifest.files, 'weights.bin': 'b' * 64})
    other_graph = replace(manifest, files={**manifest.files, 'track.onnx': 'c' * 64})
    more_objects = replace(manifest, max_objects=99)
    other_driver = replace(ORIN, device=replace(ORIN.device, driver_version='12.9'))
    names = [
        plan_name(each, 'track', target, policy)
        for each, target, policy in (
            (manifest, ORIN, 'fp32'),
            (manifest, ORIN, 'tf32'),
            (manifest, ORIN_NX, 'fp32'),
            (manifest, DESKTOP, 'fp32'),
            (manifest, replace(ORIN, version='10.3.1'), 'fp32'),
            (with_weights, ORIN, 'fp32'),
            (other_weights, ORIN, 'fp32'),
            (other_graph, ORIN, 'fp32'),
            (more_objects, ORIN, 'fp32'),
        )
    ]
    monkeypatch.setattr(module, 'BUILD_REVISION', module.BUILD_REVISION + 1)
    names.append(plan_name(manifest, 'track', ORIN, 'fp32'))
    assert len(set(names)) == len(names)
    monkeypatch.undo()
    # A newer driver runs older plans, and the check clip is no part of a plan.
    other_clip = replace(manifest, files={**manifest.files, 'check.npz': 'd' * 64})
    assert plan_name(manifest, 'track', other_driver, 'fp32') == names[0]
    assert plan_name(other_clip, 'track', ORIN, 'fp32') == names[0]


def test_found_plans_are_those_recorded(manifest: Manifest) -> None:
    orin, desktop = built(manifest, ORIN), built(manifest, DESKTOP, 'tf32')
    assert find_plans(manifest, ORIN) == orin
    assert find_plans(manifest, DESKTOP) == desktop


def test_no_plans(manifest: Manifest) -> None:
    with pytest.raises(
        EngineError, match=r'no plans for tensorrt 10\.3\.0 on Orin.*: none;.*build'
    ):
        find_plans(manifest, ORIN)


def test_foreign_plans_are_named(manifest: Manifest) -> None:
    built(manifest, ORIN)
    for target in (ORIN_NX, DESKTOP, replace(ORIN, version='10.4.0')):
        with pytest.raises(
            EngineError, match=r'there are plans for: tensorrt-10\.3\.0\.orin-sm87'
        ):
            find_plans(manifest, target)


def test_plans_of_an_older_export_are_stale(manifest: Manifest) -> None:
    built(manifest, ORIN)
    exported = replace(manifest, files={**manifest.files, 'prompt.onnx': 'e' * 64})
    with pytest.raises(EngineError, match=r'expected plan prompt\..* have changed since'):
        find_plans(exported, ORIN)


@pytest.mark.parametrize('damage', ['missing', 'truncated', 'altered'])
def test_damaged_plan(manifest: Manifest, damage: str) -> None:
    found = built(manifest, ORIN)
    path = manifest.folder / 'plans' / found.plans['track'].file
    if damage == 'missing':
        path.unlink()
    else:
        path.write_bytes(b'trac' if damage == 'truncated' else b'trick')
    with pytest.raises(EngineError, match='missing, truncated or altered'):
        find_plans(manifest, ORIN)


def test_incomplete_record(manifest: Manifest) -> None:
    found = built(manifest, ORIN)
    plans = {graph: plan for graph, plan in found.plans.items() if graph != 'track'}
    write_record(manifest, ORIN, replace(found, plans=plans))
    with pytest.raises(EngineError, match='got nothing'):
        find_plans(manifest, ORIN)


@pytest.mark.parametrize('text', ['', '{', '[]', '{"format_version": 1, "targets": {"x": 1}}'])
def test_unreadable_record(manifest: Manifest, text: str) -> None:
    built(manifest, ORIN)
    (manifest.folder / 'plans/manifest.json').write_text(text)
    with pytest.raises(EngineError, match=r'cannot be read.*delete .*plans'):
        find_plans(manifest, ORIN)


def test_record_of_another_format_counts_as_not_built(manifest: Manifest) -> None:
    built(manifest, ORIN)
    path = manifest.folder / 'plans/manifest.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'format_version': 99}))
    assert read_record(manifest) == {}


def test_building_again_deletes_only_what_it_replaces(manifest: Manifest) -> None:
    built(manifest, DESKTOP)
    built(manifest, ORIN, 'tf32')
    built(manifest, ORIN, 'fp32')
    names = [path.name for path in (manifest.folder / 'plans').glob('*.plan')]
    assert len(names) == 8
    assert not any('.tf32.' in name for name in names)


def test_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_whole(tmp_path / 'x.plan', b'old')

    def fail(handle: int) -> None:
        raise OSError('no space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(EngineError, match='no space left on device'):
        write_whole(path, b'new')
    assert path.read_bytes() == b'old'
    assert [each.name for each in tmp_path.iterdir()] == ['x.plan']
