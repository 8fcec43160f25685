"""The bank against the published rule, written down here the slow and obvious way."""

from dataclasses import replace

import numpy as np
import pytest

from sam2_rt.memory import EMPTY, MemoryBank
from tests.fakes import FakeRunner


def entry(bank_runner, frame_index, *, finite=True, score=1.0):
    """Graph outputs for one object whose every number says which frame it is from."""
    spec = bank_runner.manifest.memory
    side = bank_runner.manifest.image_size // 16
    return {
        'new_memory_features': np.full((1, spec.memory_dim, side, side), frame_index, np.float32),
        'object_pointer': np.full((1, spec.hidden_dim), frame_index, np.float32),
        'memory_norm': np.asarray([1.0 if finite else np.nan], np.float32),
        'object_score_logits': np.asarray([score], np.float32),
    }


def seen(bank, row, now):
    """What the network is given: {(frame, time)} of the maps, and of the pointers."""
    inputs = bank.inputs(slice(row, row + 1), now)
    assert inputs['memory_time'].dtype == inputs['pointer_time'].dtype == np.int32
    maps = {
        (int(inputs['memory_features'][0, slot, 0, 0, 0]), int(time))
        for slot, time in enumerate(inputs['memory_time'][0])
        if time != EMPTY
    }
    pointers = {
        (int(inputs['object_pointers'][0, slot, 0]), int(time))
        for slot, time in enumerate(inputs['pointer_time'][0])
        if time != EMPTY
    }
    return maps, pointers


def expected(prompted, tracked, now, slots):
    """SAM 2's selection over everything ever seen, with the bank's rule for prompted frames."""
    if slots == 1:
        tracked, prompted = tracked | set(prompted[1:]), prompted[:1]
    else:
        prompted = prompted[:1] + prompted[1:][-(slots - 1) :]
    maps = {(frame, 0) for frame in prompted}
    maps |= {(now - ago, ago) for ago in range(1, 7) if now - ago in tracked}
    pointers = {(frame, now - frame) for frame in prompted}
    pointers |= {(now - ago, ago) for ago in range(1, 16) if now - ago in tracked}
    return maps, pointers


@pytest.mark.parametrize('slots', [1, 2, 3])
@pytest.mark.parametrize('seed', range(5))
def test_holds_what_the_rule_says_whatever_the_prompts(slots, seed):
    runner = FakeRunner(conditioning_slots=slots)
    bank = MemoryBank(runner, 2)
    random = np.random.default_rng(seed)
    prompted, tracked = [], set()
    for now in range(120):
        maps, pointers = seen(bank, 1, now)
        assert (maps, pointers) == expected(prompted, tracked, now, slots)
        if now == 0 or random.random() < 0.08:
            bank.write(1, now, entry(runner, now), 0, conditioning=True)
            prompted.append(now)
        elif random.random() < 0.9:  # now and then a frame leaves no entry
            bank.write(1, now, entry(runner, now), 0, conditioning=False)
            tracked.add(now)
    assert seen(bank, 0, 120) == (set(), set())  # the other row was never touched


def test_a_prompt_on_a_tracked_frame_replaces_what_was_tracked_there():
    runner = FakeRunner()
    bank = MemoryBank(runner, 1)
    bank.write(0, 0, entry(runner, 0), 0, conditioning=True)
    for now in (1, 2):
        bank.write(0, now, entry(runner, now), 0, conditioning=False)
    assert seen(bank, 0, 2)[0] == {(0, 0), (1, 1)}  # frame 2 does not remember itself
    bank.write(0, 2, entry(runner, 2), 0, conditioning=True)
    assert seen(bank, 0, 3) == ({(0, 0), (2, 0), (1, 2)}, {(0, 3), (2, 1), (1, 2)})


def test_a_correction_finds_the_memory_its_frame_was_tracked_with():
    runner = FakeRunner()
    bank = MemoryBank(runner, 1)
    bank.write(0, 0, entry(runner, 0), 0, conditioning=True)
    for now in range(1, 30):
        tracked_with = seen(bank, 0, now)
        bank.write(0, now, entry(runner, now), 0, conditioning=False)
        assert seen(bank, 0, now) == tracked_with
    assert len(tracked_with[0]) == 1 + 6
    assert len(tracked_with[1]) == 1 + 15


def test_a_second_prompt_on_the_first_frame_stays_the_first_for_ever():
    runner = FakeRunner()
    bank = MemoryBank(runner, 1)
    for _ in range(2):
        bank.write(0, 0, entry(runner, 0), 0, conditioning=True)
    for now in (20, 30, 40):
        bank.write(0, now, entry(runner, now), 0, conditioning=True)
    assert bank.first_prompt(0) == 0
    assert seen(bank, 0, 50)[0] == {(0, 0), (40, 0)}


def test_an_entry_that_is_not_finite_changes_nothing():
    runner = FakeRunner()
    bank = MemoryBank(runner, 1)
    assert bank.write(0, 0, entry(runner, 0), 0, conditioning=True)
    assert bank.write(0, 1, entry(runner, 1), 0, conditioning=False)
    before = seen(bank, 0, 5)
    assert not bank.write(0, 2, entry(runner, 2, finite=False), 0, conditioning=False)
    assert not bank.write(0, 0, entry(runner, 0, finite=False), 0, conditioning=True)
    assert seen(bank, 0, 5) == before


@pytest.mark.parametrize('least', [None, 0.0, 1.5])
def test_remembers_the_tracked_frames_that_the_engine_asks_for(least):
    runner = FakeRunner()
    runner.manifest = replace(
        runner.manifest, memory=replace(runner.manifest.memory, remember_above=least)
    )
    bank = MemoryBank(runner, 1)
    scores = np.random.default_rng(0).normal(0, 2, 60).tolist()
    scores[30:50] = [-3.0] * 20  # hidden for longer than anything recent lasts
    scores[10] = np.nan
    kept = set()
    for now, score in enumerate(scores):
        maps, pointers = seen(bank, 0, now)
        if now:
            assert (maps, pointers) == expected([0], kept, now, 2)
        assert bank.write(0, now, entry(runner, now, score=score), 0, conditioning=now == 0)
        if now and (least is None or score > least):
            kept.add(now)
    if least is not None:
        assert 0 < len(kept) < 40


def test_a_frame_that_is_tracked_again_without_the_object_is_forgotten():
    runner = FakeRunner()
    runner.manifest = replace(
        runner.manifest, memory=replace(runner.manifest.memory, remember_above=0.0)
    )
    bank = MemoryBank(runner, 1)
    bank.write(0, 0, entry(runner, 0), 0, conditioning=True)
    bank.write(0, 1, entry(runner, 1), 0, conditioning=False)
    bank.write(0, 1, entry(runner, 1, score=-5.0), 0, conditioning=False)
    assert seen(bank, 0, 2) == ({(0, 0)}, {(0, 2)})


def test_a_prompted_frame_is_remembered_whatever_its_score():
    runner = FakeRunner()
    runner.manifest = replace(
        runner.manifest, memory=replace(runner.manifest.memory, remember_above=0.0)
    )
    bank = MemoryBank(runner, 1)
    bank.write(0, 0, entry(runner, 0, score=-5.0), 0, conditioning=True)
    assert seen(bank, 0, 1)[0] == {(0, 0)}


def test_forgets_from_a_frame_on_but_never_the_first_prompt():
    runner = FakeRunner()
    bank = MemoryBank(runner, 1)
    bank.write(0, 3, entry(runner, 3), 0, conditioning=True)
    for now in (4, 5, 6):
        bank.write(0, now, entry(runner, now), 0, conditioning=False)
    bank.forget_from(0, 5)
    assert seen(bank, 0, 7)[0] == {(3, 0), (4, 3)}
    bank.forget_from(0, 0)
    assert seen(bank, 0, 7)[0] == {(3, 0)}


def test_rows_are_copied_whole_and_cleared():
    runner = FakeRunner()
    bank, other = MemoryBank(runner, 2), MemoryBank(runner, 1)
    bank.write(0, 0, entry(runner, 0), 0, conditioning=True)
    bank.write(0, 1, entry(runner, 1), 0, conditioning=False)
    other.copy_row(0, bank, 0)
    bank.clear(0)
    assert seen(other, 0, 2) == ({(0, 0), (1, 1)}, {(0, 2), (1, 1)})
    assert seen(bank, 0, 2) == (set(), set())


def test_size_does_not_depend_on_the_stream():
    runner = FakeRunner()
    bank = MemoryBank(runner, 4)
    spec = runner.manifest.memory
    side = runner.manifest.image_size // 16
    per_object = (spec.memory_slots + 1) * spec.memory_dim * side * side  # and one that waits
    per_object += (spec.pointer_slots + 1) * spec.hidden_dim
    assert bank.nbytes == 4 * 4 * per_object
    address = bank.inputs(slice(0, 1), 0)['memory_features'].ctypes.data
    for now in range(5000):
        bank.write(0, now, entry(runner, now), 0, conditioning=now % 50 == 0)
    assert bank.inputs(slice(0, 1), 5000)['memory_features'].ctypes.data == address
