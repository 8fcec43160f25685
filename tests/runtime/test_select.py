"""open_runner: which backend is chosen, remembered and refused, on made-up backends."""

import json
import logging
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from sam2_rt.errors import BackendError, ConfigError, EngineError
from sam2_rt.runtime import select
from sam2_rt.runtime.cpu import usable_cores
from sam2_rt.runtime.manifest import FILE_NAME
from sam2_rt.runtime.ort import OrtRunner
from sam2_rt.runtime.select import open_runner

pytest.importorskip('onnxruntime', reason='pip install onnxruntime')


class Machine:
    """A machine with made-up backends, all of which run the tiny engine really.

    Attributes:
        now: its clock, which only running a graph moves on.
        opened: 'backend precision' of every runner opened so far.
        threads: what the latest of them was told.
    """

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.opened = []
        self.threads = None
        self._module = ModuleType('made_up_backends')
        self._table = {}
        monkeypatch.setitem(sys.modules, 'made_up_backends', self._module)
        monkeypatch.setattr(select, 'BACKENDS', self._table)

    def add(self, name, cost=1.0, *, shift=0.0, version='1', precisions=('fp32',), broken=''):
        """A backend that takes `cost` seconds per graph and adds `shift` to track's logits.

        `cost` and `shift` may be given by precision; `broken` is the error of opening it.
        """
        machine = self

        class MadeUp(OrtRunner):
            backend = name

            def __init__(self, manifest, precision, threads):
                machine.opened.append(f'{name} {precision}')
                machine.threads = threads
                if broken:
                    raise BackendError(broken)
                super().__init__(manifest, 'fp32', threads)
                self._asked = precision

            @property
            def info(self):
                return replace(super().info, precision=self._asked)

            @classmethod
            def precisions(cls, manifest):
                return precisions

            @classmethod
            def version(cls):
                return version

            def _run(self, graph, inputs):
                machine.now += cost[self._asked] if isinstance(cost, dict) else cost
                outputs = super()._run(graph, inputs)
                if graph == 'track':
                    by = shift[self._asked] if isinstance(shift, dict) else shift
                    outputs['low_res_masks'] += by
                return outputs

        setattr(self._module, name, MadeUp)
        self._table[name] = ('made_up_backends', name)

    def open(self, folder, **options):
        self.opened.clear()
        with open_runner(folder, clock=lambda: self.now, **options) as runner:
            return f'{runner.info.backend} {runner.info.precision}'


@pytest.fixture
def machine(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return Machine(monkeypatch)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger='sam2_rt')
    return lambda: caplog.messages[-1]


WRONG = 1e4
"""A shift that makes every cell part of every mask."""


def test_the_fastest_is_chosen(machine, tiny_engine, log):
    machine.add('slow', 0.3)
    machine.add('quick', 0.1)
    machine.add('middling', 0.2)
    assert machine.open(tiny_engine) == 'quick fp32'
    assert log() == (
        f'engine {tiny_engine}: runs on quick fp32 ('
        'quick fp32 200.0 ms per frame with mask IoU 1.000; '
        'middling fp32 400.0 ms per frame with mask IoU 1.000; '
        'slow fp32 600.0 ms per frame with mask IoU 1.000)'
    )


def test_fast_but_wrong_is_refused_and_said(machine, tiny_engine, log):
    machine.add('wrong', 0.01, shift=WRONG)
    machine.add('right', 0.5)
    assert machine.open(tiny_engine) == 'right fp32'
    assert 'wrong fp32 refused: mask IoU 0.' in log()
    assert 'with the reference, 0.99 is required' in log()


def test_every_precision_is_a_candidate(machine, tiny_engine):
    cost = {'fp32': 0.4, 'bf16': 0.1, 'fp16': 0.05}
    machine.add('cpu', cost, precisions=tuple(cost), shift={'fp32': 0, 'bf16': 0, 'fp16': WRONG})
    assert machine.open(tiny_engine) == 'cpu bf16'


def test_a_named_precision_is_kept(machine, tiny_engine):
    machine.add('cpu', {'fp32': 0.4, 'bf16': 0.1}, precisions=('fp32', 'bf16'))
    machine.add('gpu', 0.05, precisions=('fp16',))
    assert machine.open(tiny_engine, precision='fp32') == 'cpu fp32'


def test_a_named_backend_is_kept_and_its_precisions_compared(machine, tiny_engine):
    machine.add('cpu', {'fp32': 0.4, 'bf16': 0.1}, precisions=('fp32', 'bf16'))
    machine.add('gpu', 0.01)
    assert machine.open(tiny_engine, backend='cpu') == 'cpu bf16'


def test_where_nothing_is_left_open_nothing_is_measured(machine, engine_copy):
    machine.add('cpu', precisions=('fp32', 'bf16'), shift=WRONG)
    assert machine.open(engine_copy, backend='cpu', precision='bf16') == 'cpu bf16'
    assert machine.now == 0.0


@pytest.mark.parametrize('backend', ['auto', 'cpu'])
def test_threads_reach_the_backend(machine, tiny_engine, backend):
    machine.add('cpu')
    machine.open(tiny_engine, backend=backend, threads=1)
    assert machine.threads == 1


def test_a_backend_that_fails_does_not_keep_the_others_from_running(machine, tiny_engine, log):
    machine.add('broken', 0.01, broken='out of memory')
    machine.add('nan', 0.02, shift=float('nan'))
    machine.add('whole', 0.5)
    assert machine.open(tiny_engine) == 'whole fp32'
    assert 'broken fp32 refused: out of memory' in log()
    assert 'nan fp32 refused: ' in log()


def test_if_nothing_passes_every_reason_is_listed(machine, tiny_engine):
    machine.add('wrong', shift=WRONG)
    machine.add('broken', broken='out of memory')
    select.BACKENDS['absent'] = ('no_such_module', 'Runner')
    with pytest.raises(BackendError) as caught:
        machine.open(tiny_engine)
    _, *lines, advice = str(caught.value).splitlines()
    assert lines[0].startswith('  wrong fp32: mask IoU 0.')
    assert lines[1] == '  broken fp32: out of memory'
    assert lines[2].startswith("  absent: absent cannot be imported: No module named 'no_such")
    assert 'install one of these' in advice


def test_a_precision_nobody_has(machine, tiny_engine):
    machine.add('cpu', precisions=('fp32', 'bf16'))
    with pytest.raises(BackendError, match='cpu: calculates in fp32, bf16 here, not in fp16'):
        machine.open(tiny_engine, precision='fp16')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'backend': 'abacus'}, "backend: expected one of auto, cpu, got 'abacus'"),
        ({'precision': 'int3'}, "precision: expected one of auto, fp32, bf16, fp16, got 'int3'"),
        ({'threads': 0}, 'threads: expected at least 1, got 0'),
    ],
)
def test_options_that_mean_nothing(machine, tiny_engine, options, message):
    machine.add('cpu')
    with pytest.raises(ConfigError, match=message):
        machine.open(tiny_engine, **options)


@pytest.mark.parametrize('backend', ['auto', 'cpu'])
def test_a_damaged_folder_is_found_before_anything_runs(machine, engine_copy, backend):
    machine.add('cpu')
    (engine_copy / 'track.onnx').write_bytes(b'half')
    with pytest.raises(EngineError, match=r'track\.onnx: expected SHA-256'):
        machine.open(engine_copy, backend=backend)
    assert machine.opened == []


# -- the cache -----------------------------------------------------------------------------------


@pytest.fixture
def measured(machine, engine_copy):
    """A machine on which `quick` was found to be the fastest once, and the engine's folder."""
    machine.add('slow', 0.3)
    machine.add('quick', 0.1)
    assert machine.open(engine_copy) == 'quick fp32'
    assert machine.opened == ['slow fp32', 'quick fp32', 'quick fp32']
    machine.now = 0.0
    return machine, engine_copy


def test_the_second_start_does_not_measure(measured, log):
    machine, folder = measured
    assert machine.open(folder) == 'quick fp32'
    assert machine.opened == ['quick fp32']
    assert machine.now == 0.0
    assert 'runs on quick fp32' in log()
    assert '(measured before; kept in ' in log()


def test_what_is_kept_says_what_it_depends_on(measured, tmp_path):
    (file,) = (tmp_path / 'cache' / 'sam2_rt').iterdir()
    kept = json.loads(file.read_text())
    assert (kept['backend'], kept['precision']) == ('quick', 'fp32')
    assert kept['candidates'] == {'slow fp32': '1', 'quick fp32': '1'}
    assert kept['cpu']


def test_remeasure_does_not_trust_it(measured):
    machine, folder = measured
    machine.add('quick', 0.9)
    assert machine.open(folder) == 'quick fp32'
    assert machine.open(folder, remeasure=True) == 'slow fp32'
    assert machine.open(folder) == 'slow fp32'  # and what was found is kept


def another_version(machine, folder):
    machine.add('slow', version='2')


def another_backend(machine, folder):
    machine.add('third', 0.5)


def another_engine(machine, folder):
    path = folder / FILE_NAME
    path.write_text(path.read_text().replace('"tiny"', '"tiny2"'))


@pytest.mark.parametrize('change', [another_version, another_backend, another_engine])
def test_it_is_measured_again_when_what_matters_changes(measured, change):
    machine, folder = measured
    change(machine, folder)
    assert machine.open(folder) == 'quick fp32'
    assert len(machine.opened) > 1


def test_it_is_measured_again_for_other_threads_processors_and_gpus(measured, monkeypatch):
    machine, folder = measured
    machine.open(folder, threads=usable_cores() + 1)
    assert len(machine.opened) > 1
    for name in ('cpu_name', 'gpu_name'):
        monkeypatch.setattr(select, name, lambda: 'another one')
        machine.open(folder)
        assert len(machine.opened) > 1
        machine.open(folder)
        assert len(machine.opened) == 1


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'{"backend": "quick"',
        b'[]',
        b'\xff\xfe',
        b'{"backend": "quick", "precision": "fp32"}',
        b'{"backend": "abacus", "precision": "fp32", "reason": ""}',
        b'{"backend": "quick", "precision": "int3", "reason": ""}',
    ],
)
def test_a_cache_that_makes_no_sense_is_ignored(measured, tmp_path, content):
    machine, folder = measured
    (file,) = (tmp_path / 'cache' / 'sam2_rt').iterdir()
    file.write_bytes(content)
    assert machine.open(folder) == 'quick fp32'
    assert len(machine.opened) == 3
    assert machine.open(folder) == 'quick fp32'  # written anew
    assert len(machine.opened) == 1


def test_a_cache_that_cannot_be_written_is_no_error(machine, tiny_engine, tmp_path, log):
    (tmp_path / 'cache').write_text('a file where the folder should be')
    machine.add('cpu')
    assert machine.open(tiny_engine) == 'cpu fp32'
    assert 'the measured choice cannot be kept' in log()


def test_a_choice_that_fails_by_now_is_measured_again(measured, caplog):
    machine, folder = measured
    machine.add('quick', 0.1, broken='out of memory')
    assert machine.open(folder) == 'slow fp32'
    assert 'quick fp32 was chosen before, but fails now: out of memory' in caplog.text


# -- the real thing ------------------------------------------------------------------------------


def test_this_machine_runs_the_tiny_engine(tiny_engine, tmp_path, monkeypatch, log):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    with open_runner(tiny_engine) as runner:
        assert runner.info.backend in select.BACKENDS
    assert f'runs on {runner.info.backend} {runner.info.precision} (' in log()
    assert 'tensorrt' in log()  # chosen, or why not
