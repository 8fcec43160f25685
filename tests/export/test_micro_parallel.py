"""Training in several processes: the gradients are averaged, and every process steps alike."""

import functools
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')

from torch import nn  # noqa: E402

from export.micro.parallel import average_gradients, launch  # noqa: E402


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))
    layers.sometimes = nn.Parameter(torch.ones(2, 2))
    layers.never = nn.Parameter(torch.ones(2, 2))
    return layers.to(memory_format=torch.channels_last)


def loss_on(layers, rank):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
    return layers(images.to(memory_format=torch.channels_last)).square().mean()


def learn(folder, rank):
    """A step of one process, as the trainer makes it; rank 1 alone has a use for `sometimes`."""
    layers = network()
    optimiser = torch.optim.AdamW(layers.parameters(), lr=0.1, fused=True)
    loss = loss_on(layers, rank)
    (loss + layers.sometimes.sum() if rank == 1 else loss).backward()
    average_gradients(layers)
    optimiser.step()
    torch.save(layers.state_dict(), folder / f'{rank}.pt')


def fail(rank):
    if rank == 1:
        raise FloatingPointError('the loss of rank 1 is nan')
    average_gradients(network())


def test_two_processes_step_as_one_with_both_of_their_batches(tmp_path):
    launch(2, functools.partial(learn, tmp_path))
    first, second = (torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in (0, 1))

    # The plain optimiser does not care how a gradient lies in memory; the fused one does.
    layers = network()
    optimiser = torch.optim.AdamW(layers.parameters(), lr=0.1, fused=False)
    total = loss_on(layers, 0) + loss_on(layers, 1) + layers.sometimes.sum()
    (total / 2).backward()
    optimiser.step()

    for name, expected in layers.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, msg=lambda text, n=name: f'{n}: {text}')
    # No gradient, not a gradient of zeros, which would let the weight decay go on.
    assert torch.equal(first['never'], torch.ones(2, 2))


def test_one_process_is_this_one():
    threads, ranks = torch.get_num_threads(), []
    try:
        launch(1, ranks.append)
    finally:
        torch.set_num_threads(threads)
    assert ranks == [0]


def test_a_process_that_fails_ends_the_run_with_its_error():
    with pytest.raises(Exception, match='the loss of rank 1 is nan'):
        launch(2, fail)


def wait_for_ever(folder, rank):
    (folder / f'{rank}.pid').write_text(str(os.getpid()))
    while True:
        time.sleep(0.1)


def test_no_process_outlives_a_killed_run(tmp_path):
    # As a shell starts a job in the background: interrupts are ignored.
    program = f"""
import functools, pathlib, signal
from export.micro.parallel import launch
from tests.export.test_micro_parallel import wait_for_ever
if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    launch(2, functools.partial(wait_for_ever, pathlib.Path({str(tmp_path)!r})))
"""
    script = tmp_path / 'run.py'
    script.write_text(program)
    root = Path(__file__).parents[2]
    environment = os.environ | {'PYTHONPATH': str(root)}
    run = subprocess.Popen([sys.executable, str(script)], env=environment)
    workers = [tmp_path / f'{rank}.pid' for rank in (0, 1)]
    wait_until(lambda: all(path.exists() and path.read_text() for path in workers))
    processes = [psutil.Process(int(path.read_text())) for path in workers]
    run.kill()
    run.wait()
    try:
        wait_until(lambda: not any(alive(process) for process in processes))
    finally:
        for process in processes:
            if alive(process):
                process.kill()


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f'not true after {seconds} s'
        time.sleep(0.1)
