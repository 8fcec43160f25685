"""The progress line: what it says, how often, and only on a terminal."""

import io
import logging
import sys

import pytest

from sam2_rt.cli.progress import Progress, telling


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def shown(self):
        """The lines that were visible, one after the other."""
        return self.getvalue().split('\r\x1b[K')[1:]


@pytest.fixture
def clock():
    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    return Clock()


def test_what_a_line_says(clock):
    terminal = Terminal()
    progress = Progress(40, stream=terminal, clock=clock)
    clock.now += 2.0
    progress.update(10, 'mug visible 0.98')
    clock.now += 2.0
    progress.update(12, 'mug visible 0.98', position=30)
    progress.close()
    assert terminal.shown() == [
        '[#####---------------] 10/40  5.0 fps  6 s left  mug visible 0.98',
        '[###############-----] 30/40  3.0 fps  1 s left  mug visible 0.98',
        '',
    ]


def test_a_total_that_is_not_known(clock):
    terminal = Terminal()
    progress = Progress(None, stream=terminal, clock=clock)
    clock.now += 4.0
    progress.update(10)
    assert terminal.shown() == ['10 frames  2.5 fps']


def test_it_is_rewritten_ten_times_a_second_at_most(clock):
    terminal = Terminal()
    progress = Progress(1000, stream=terminal, clock=clock)
    for done in range(100):
        progress.update(done)
        clock.now += 0.025
    assert len(terminal.shown()) == 25


def test_it_never_wraps(clock, monkeypatch):
    monkeypatch.setenv('COLUMNS', '30')
    terminal = Terminal()
    Progress(10, stream=terminal, clock=clock).update(5, 'x' * 100)
    assert [len(line) for line in terminal.shown()] == [29]


def test_a_file_gets_nothing(clock):
    stream = io.StringIO()
    progress = Progress(10, stream=stream, clock=clock)
    progress.update(5)
    progress.close()
    assert stream.getvalue() == ''


@pytest.mark.parametrize('terminal', [True, False])
def test_what_is_logged_is_told_while_something_takes_its_time(monkeypatch, terminal):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, 'stderr', stream)
    logger = logging.getLogger('sam2_rt.something')
    with telling():
        logger.info('trying %s', 'one')
        logger.warning('one fails')
    logger.info('not shown')
    if terminal:
        assert stream.shown() == ['trying one', 'one fails\n', '']
    else:
        assert stream.getvalue() == 'one fails\n'
    assert logging.getLogger('sam2_rt').handlers == []
