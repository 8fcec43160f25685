"""Generated clips: reproducible, true to their masks, and as difficult as they say."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from export.micro.objects import make, tinted
from export.micro.scenes import DIFFICULTIES, generate

SEEDS = range(12)


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_a_seed_gives_the_same_clip_again_and_another_seed_another(difficulty):
    first, again = (generate(5, difficulty, 3, 96, 96) for _ in range(2))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert (generate(6, difficulty, 3, 96, 96).frames != first.frames).mean() > 0.5


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_shapes_masks_and_presence_agree(difficulty):
    clip = generate(1, difficulty, 6, 72, 128)
    count = clip.masks.shape[1]
    assert clip.frames.shape == (6, 72, 128, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.masks.shape == (6, count, 72, 128)
    np.testing.assert_array_equal(clip.presence, clip.masks.any((2, 3)))
    assert clip.masks.sum(1).max() <= 1, 'a pixel belongs to one object at most'


def test_an_unknown_difficulty_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'hard'.*exit_return"):
        generate(0, 'hard')


def test_plain_objects_stay_in_view():
    for seed in SEEDS:
        assert generate(seed, 'plain', 8, 96, 96).presence.all()


def test_exit_means_hidden_for_a_while_and_back_before_the_end():
    for seed in SEEDS:
        seen = generate(seed, 'exit_return', 24, 96, 96).presence[:, 0]
        assert seen[0]
        assert not seen.all()
        assert seen[-1]


def test_what_leaves_or_is_covered_may_stay_away():
    for seed in range(10):
        seen = generate(seed, 'exit_return', 24, 96, 96, lasting=1.0).presence[:, 0]
        assert not seen[-12:].any()
    back = [
        generate(seed, 'occlusion', 24, 96, 96, lasting=lasting).presence[-1, 0]
        for lasting in (0.0, 1.0)
        for seed in range(10)
    ]
    assert sum(back[:10]) > 1.5 * sum(back[10:])


@pytest.mark.parametrize('difficulty', ['occlusion', 'exit_return'])
def test_decoys_join_a_hidden_target_without_counting_as_it(difficulty):
    for seed in range(5):
        alone = generate(seed, difficulty, 4, 96, 96)
        again = generate(seed, difficulty, 4, 96, 96, decoys=0.0)
        among = generate(seed, difficulty, 4, 96, 96, decoys=1.0)
        assert np.array_equal(alone.frames, again.frames)
        assert not np.array_equal(alone.frames, among.frames)
        assert among.masks.shape == alone.masks.shape
        assert among.masks.sum() < 2 * alone.masks.sum()


def test_relit_targets_change_their_colours_and_nothing_of_their_outline():
    def drift(clip):
        """How far the target's colour gets from what it was at first, next to the rest's."""
        inside, outside = (
            np.stack([
                frame[mask].mean(0) + 1 for frame, mask in zip(clip.frames, masks, strict=True)
            ])
            for masks in (clip.masks[:, 0], ~clip.masks[:, 0])
        )  # fmt: skip
        colour = np.log(inside / outside)
        return np.abs(colour - colour[0]).max()

    changes = []
    for seed in SEEDS:
        alone = generate(seed, 'plain', 12, 96, 96)
        relit = generate(seed, 'plain', 12, 96, 96, relit=1.0)
        np.testing.assert_array_equal(alone.masks, relit.masks)
        changes.append((drift(alone), drift(relit)))
    before, after = np.median(changes, axis=0)
    assert after > 1.5 * before
    never = generate(3, 'plain', 12, 96, 96, relit=0.0)
    np.testing.assert_array_equal(never.frames, generate(3, 'plain', 12, 96, 96).frames)


@pytest.mark.parametrize('name', ['lasting', 'decoys', 'relit'])
def test_what_a_recipe_asks_for_is_in_its_samples(name):
    samples = pytest.importorskip(
        'export.micro.samples', reason='needs PyTorch: make test-workshop'
    )
    hiding = (0.0, 0.5, 0.5, 0.0, 0.0)
    recipe = replace(samples.CLIPS, image_size=64, length=8, mix=hiding, photo_share=0.0)
    without, with_it = (
        [frames for frames, *_ in islice(samples.Samples(one, (3,)), 12)]
        for one in (recipe, replace(recipe, **{name: 1.0}))
    )
    assert any(not np.array_equal(a, b) for a, b in zip(without, with_it, strict=True))


def test_a_tinted_thing_keeps_its_shape_and_takes_the_colours_of_another():
    def mean(thing):
        sprite = max(thing.parts, key=lambda part: part.sprite[..., 3].sum()).sprite
        return np.average(sprite[..., :3], axis=(0, 1), weights=sprite[..., 3])

    for seed in range(10):
        rng = np.random.default_rng(seed)
        one, other = make(rng, 24, 0.0), make(rng, 24, 0.0)
        dyed = tinted(rng, one, other)
        apart = [np.abs(mean(thing) - mean(other)).sum() for thing in (one, dyed)]
        assert apart[1] < 0.75 * apart[0] + 2
        for part, same in zip(dyed.parts, one.parts, strict=True):
            assert np.array_equal(part.sprite[..., 3], same.sprite[..., 3])


def test_occlusion_covers_wholly_in_many_clips_and_in_part_in_others():
    hidden, reduced = 0, 0
    for seed in SEEDS:
        clip = generate(seed, 'occlusion', 24, 96, 96)
        area = clip.masks[:, 0].sum((1, 2))
        hidden += area.min() == 0
        reduced += area.min() < 0.75 * area[0]
    assert 4 <= hidden < len(SEEDS)
    assert reduced >= 9


def test_distractors_leave_one_target_and_several_makes_more():
    assert generate(0, 'distractors', 2, 96, 96).masks.shape[1] == 1
    counts = {generate(seed, 'several', 2, 96, 96).masks.shape[1] for seed in SEEDS}
    assert counts == {3, 4, 5}


def test_objects_move_and_a_higher_pace_moves_them_more():
    def travel(pace):
        total = 0.0
        for seed in SEEDS:
            masks = generate(seed, 'several', 6, 96, 96, pace=pace).masks
            total += np.mean(masks[0] != masks[-1])
        return total

    assert travel(2.0) > 1.5 * travel(0.25) > 0


def test_small_and_large_objects_both_occur():
    areas = [generate(seed, 'plain', 1, 128, 128).masks.mean() for seed in range(30)]
    assert min(areas) < 0.01
    assert max(areas) > 0.06
