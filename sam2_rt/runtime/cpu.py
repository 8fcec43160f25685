"""What the processor is and how much of it this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUINFO = Path('/proc/cpuinfo')
_SMT = Path('/sys/devices/system/cpu/smt/active')


def cpu_name() -> str:
    """Model name of the processor, e.g. 'AMD EPYC'; the architecture where nothing says more."""
    names = ('model name', 'Model', 'Hardware')  # x86, then what Arm kernels and boards write
    try:
        lines = _CPUINFO.read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(':') for x in lines)}
    return next((fields[name] for name in names if fields.get(name)), platform.machine())


def usable_cores() -> int:
    """Physical cores this process may run on, at least 1.

    Backends left to themselves count the machine's cores, not those that a container or taskset
    allows, and pin a thread to each: on a robot that shares its processor, that is too many.
    """
    try:
        logical = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        logical = os.cpu_count() or 1
    try:
        paired = _SMT.read_text(encoding='ascii').strip() == '1'
    except OSError:
        paired = False
    return max(1, logical // 2 if paired else logical)
