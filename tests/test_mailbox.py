"""LatestFrame: newest wins, drops are counted, waiting ends when it should."""

import threading

from sam2_rt.mailbox import LatestFrame


def test_newest_item_wins_and_the_others_are_counted():
    mailbox = LatestFrame()
    for item in ('a', 'b', 'c'):
        mailbox.put(item)
    assert mailbox.take(0) == 'c'
    assert (mailbox.received, mailbox.dropped) == (3, 2)
    assert mailbox.take(0) is None


def test_a_taken_item_is_not_a_drop():
    mailbox = LatestFrame()
    for item in range(5):
        mailbox.put(item)
        assert mailbox.waiting
        assert mailbox.take(0) == item
        assert not mailbox.waiting
    assert (mailbox.received, mailbox.dropped) == (5, 0)


def test_clear_counts_what_it_throws_away():
    mailbox = LatestFrame()
    mailbox.clear()
    assert mailbox.dropped == 0
    mailbox.put('a')
    mailbox.clear()
    assert mailbox.dropped == 1
    assert mailbox.take(0) is None


def test_unless_goes_before_the_item_and_leaves_it():
    mailbox = LatestFrame()
    mailbox.put('a')
    assert mailbox.take(0, unless=lambda: True) is None
    assert mailbox.take(0, unless=lambda: False) == 'a'


def test_a_waiting_take_gets_the_item_of_another_thread():
    mailbox = LatestFrame()
    taken = []
    thread = threading.Thread(target=lambda: taken.append(mailbox.take(10)))
    thread.start()
    mailbox.put('a')
    thread.join(10)
    assert taken == ['a']


def test_notify_ends_a_take_that_waits_for_ever():
    mailbox = LatestFrame()
    interrupted = threading.Event()
    taken = []
    thread = threading.Thread(
        target=lambda: taken.append(mailbox.take(unless=interrupted.is_set)), daemon=True
    )
    thread.start()
    interrupted.set()
    mailbox.notify()
    thread.join(10)
    assert taken == [None]
