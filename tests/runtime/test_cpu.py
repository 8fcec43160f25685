"""Processor name and usable cores, on made-up machines."""

import os
import platform

import pytest

from sam2_rt.runtime import cpu


@pytest.mark.parametrize(
    ('text', 'name'),
    [
        ('processor\t: 0\nmodel name\t: AMD EPYC\nflags : a b\n', 'AMD EPYC'),
        ('processor : 0\nModel : Jetson Orin: rev 2\n', 'Jetson Orin: rev 2'),
        ('Hardware : BCM2711\n', 'BCM2711'),
        ('processor : 0\n', platform.machine()),
        (None, platform.machine()),
    ],
    ids=['x86', 'Arm', 'old Arm', 'nameless', 'not Linux'],
)
def test_cpu_name(tmp_path, monkeypatch, text, name):
    monkeypatch.setattr(cpu, '_CPUINFO', tmp_path / 'cpuinfo')
    if text is not None:
        (tmp_path / 'cpuinfo').write_text(text)
    assert cpu.cpu_name() == name


@pytest.mark.parametrize(
    ('allowed', 'paired', 'cores'),
    [
        (8, '1\n', 4),  # two hyperthreads to a core
        (8, '0\n', 8),
        (3, None, 3),  # a kernel that does not say
        (1, '1\n', 1),  # never less than one
    ],
)
def test_usable_cores_are_physical_and_allowed(tmp_path, monkeypatch, allowed, paired, cores):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(allowed)), raising=False)
    monkeypatch.setattr(cpu, '_SMT', tmp_path / 'active')
    if paired is not None:
        (tmp_path / 'active').write_text(paired)
    assert cpu.usable_cores() == cores


def test_usable_cores_where_affinity_is_not_known(tmp_path, monkeypatch):
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 6)
    monkeypatch.setattr(cpu, '_SMT', tmp_path / 'active')
    assert cpu.usable_cores() == 6
