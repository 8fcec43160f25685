"""Training on several processor cores: a process each, gradients averaged after every step.

A network this narrow has too little work in an operation to share it between threads (two threads
are slower than one), but two processes do twice the work.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

_INTERRUPTED = 130


def launch(processes: int, work: Callable[[int], None]) -> None:
    """Runs `work(rank)` in that many processes of one thread each; a single one is this process.

    Args:
        processes: At least 1.
        work: Can be pickled.
    """
    if processes == 1:
        _one_thread()
        work(0)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / 'meeting'
        mp.spawn(_join, (processes, meeting.as_uri(), work), nprocs=processes)


def _join(rank: int, processes: int, meeting: str, work: Callable[[int], None]) -> None:
    # Also what a process is sent when its parent dies; a job in the background would ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _one_thread()
    dist.init_process_group('gloo', init_method=meeting, rank=rank, world_size=processes)
    try:
        work(rank)
    except KeyboardInterrupt:
        os._exit(_INTERRUPTED)  # the peers wait in a sum that will never come
    dist.destroy_process_group()


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def average_gradients(model: nn.Module) -> None:
    """Replaces every gradient by its mean over the processes; does nothing where there is one.

    A parameter that no process used keeps no gradient, so that the optimiser leaves it alone. It
    is done in place: a fused optimiser reads a gradient as if it lay in memory as its parameter
    does, which autograd sees to and a new tensor would not.
    """
    if not dist.is_initialized():
        return
    parameters = list(model.parameters())
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int)
    dist.all_reduce(used)
    gradients = []
    for parameter, times in zip(parameters, used.tolist(), strict=True):
        if times:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
