"""`sam2_rt build`, on a fake GPU and on a machine without one."""

import ctypes

import pytest

from tests.runtime.fake_tensorrt import install


@pytest.fixture
def gpu(monkeypatch):
    return install(monkeypatch)


def test_build_says_what_it_measured(run, gpu, engine_copy):
    result = run('build', engine_copy)
    assert result.status == 0
    _, row = result.out.splitlines()
    assert row.split()[:4] == [str(engine_copy), 'tf32', '1.0000', '1.0000']
    assert 'building for tensorrt 10.3.0 on Fake GPU' in result.err
    assert run('engines', engine_copy).status == 0


def test_policy_can_be_chosen(run, gpu, engine_copy):
    result = run('build', engine_copy, '--policy', 'fp32')
    assert result.out.splitlines()[1].split()[1] == 'fp32'


def test_policy_must_fit_the_engine(run, gpu, engine_copy):
    result = run('build', engine_copy, '--policy', 'fp16')
    assert result.status == 2
    assert "policy 'fp16': expected some of ('tf32', 'fp32')" in result.err


def test_track_builds_when_asked(run, gpu, engine_copy, video):
    result = run(
        'track', video, '--box', '10,30,50,70', '--engine', engine_copy,
        '--backend', 'tensorrt', '--build-plans',
    )  # fmt: skip
    assert result.status == 0, result.err
    assert 'on tensorrt 10.3.0 tf32, Fake GPU (sm_87)' in result.err


def test_without_plans_the_reason_is_said(run, gpu, engine_copy, video):
    result = run('track', video, '--box', '10,30,50,70', '--engine', engine_copy, '--backend',
                 'tensorrt')  # fmt: skip
    assert result.status == 2
    assert 'no plans for tensorrt 10.3.0' in result.err
    assert 'sam2_rt build' in result.err


def test_machine_without_a_gpu(run, monkeypatch, engine_copy):
    def missing(name):
        raise OSError(f'{name}: cannot open shared object file')

    monkeypatch.setattr(ctypes, 'CDLL', missing)
    result = run('build', engine_copy)
    assert result.status == 2
    assert 'expected an NVIDIA driver' in result.err
    assert len(result.err.splitlines()) == 1
