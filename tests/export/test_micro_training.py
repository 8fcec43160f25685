"""Training: a step that learns, a run that resumes, prompts that fit their masks."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')

from export.micro import unroll  # noqa: E402
from export.micro.curriculum import (  # noqa: E402
    Phase,
    curriculum,
    cycle_at,
    learning_rate,
    phase_at,
    steps_of,
)
from export.micro.losses import frame_loss  # noqa: E402
from export.micro.prompts import box_prompt, click_prompt, corrective_click  # noqa: E402
from export.micro.samples import CLIPS, PRESENT, STILLS, Samples, collate  # noqa: E402
from export.micro.train import Trainer, train  # noqa: E402
from export.micro.unroll import Teaching  # noqa: E402
from export.model.conv_trunk import ConvTrunkConfig  # noqa: E402
from export.model.mask_decoder import Candidates  # noqa: E402

CROP = {'image_size': 64, 'magnify': 2.0, 'photo_share': 0.0}


def batch_of(recipe, clips, seed=0):
    samples = iter(Samples(recipe, (seed,)))
    return collate([next(samples) for _ in range(clips)])


def trainer(folder):
    made = Trainer(folder, peak=2e-3, seed=0)
    made.resize(64)
    return made


def test_repeated_steps_on_one_batch_lower_its_loss(tmp_path):
    learner, batch = trainer(tmp_path), batch_of(replace(STILLS, **CROP), 4)
    teaching = Teaching(balance=1.0, forcing=0.0, box_share=1.0, mask_share=0.0, correct_share=0.0)
    losses = [learner.learn(batch, teaching, 2e-3)['loss'] for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize('mask_share', [0.0, 1.0], ids=['points', 'masks'])
def test_a_clip_teaches_every_part_of_the_network(tmp_path, mask_share):
    learner = trainer(tmp_path)
    before = {name: value.clone() for name, value in learner.model.named_parameters()}
    batch = batch_of(replace(CLIPS, length=4, **CROP), 2)
    learner.learn(batch, Teaching(0.5, 0.5, mask_share=mask_share), 1e-3)
    changed = {
        name.split('.')[0]
        for name, value in learner.model.named_parameters()
        if not torch.equal(value, before[name])
    }
    parts = {'image_encoder', 'memory_attention', 'memory_encoder', 'sam_mask_decoder'}
    assert parts <= changed


def judged_and_remembered(learner, batch, teaching, monkeypatch):
    """Whether gradients flow on each frame that is judged, and the memory times of each frame."""
    judged, times = [], []
    loss, condition = unroll.frame_loss, learner.model.condition_on_memory

    def frame_loss(candidates, *rest):
        judged.append(candidates.masks.requires_grad)
        return loss(candidates, *rest)

    def condition_on_memory(image_embedding, maps, map_time, pointers, pointer_time):
        times.append((map_time.tolist(), pointer_time.tolist(), torch.is_grad_enabled()))
        return condition(image_embedding, maps, map_time, pointers, pointer_time)

    monkeypatch.setattr(unroll, 'frame_loss', frame_loss)
    monkeypatch.setattr(learner.model, 'condition_on_memory', condition_on_memory)
    learner.learn(batch, teaching, 1e-3)
    return judged, times


def test_outlines_within_a_cell_of_the_mask_are_taught():
    logits = torch.full((1, 4, 8, 8), -4.0)
    logits[..., 4, 4] = 4.0
    logits[..., 4, 3] = 0.0  # the outline leans to the left
    candidates = Candidates(
        logits, torch.full((1, 4), 0.5), torch.zeros(1, 4, 8), torch.full((1,), 5.0)
    )
    losses = []
    for column in (8, 9):  # the left or the right half of the same cell
        target = torch.zeros(1, 16, 16)
        target[:, 8:10, column] = 1.0
        loss, parts = frame_loss(candidates, target, torch.tensor([PRESENT]), balance=0.0)
        losses.append((loss.item(), parts['mask'].item()))
    assert losses[0] < losses[1]
    assert losses[0][1] < losses[1][1]


def test_targets_are_finer_than_the_masks():
    batch = batch_of(replace(STILLS, **CROP), 2)
    assert batch.targets.shape[-2:] == (32, 32)  # of masks of 16 x 16
    shares = torch.nn.functional.avg_pool2d(batch.first_masks.float(), 2)
    assert torch.equal(batch.targets[:, 0], shares)


PLAIN = {'box_share': 1.0, 'mask_share': 0.0, 'correct_share': 0.0, 'again_share': 0.0}


def test_frames_that_lead_in_are_tracked_but_not_taught(tmp_path, monkeypatch):
    learner, batch = trainer(tmp_path), batch_of(replace(CLIPS, length=7, **CROP), 1)
    teaching = Teaching(0.5, 0.0, lead=3, **PLAIN)
    judged, times = judged_and_remembered(learner, batch, teaching, monkeypatch)
    assert judged == [True] * 4  # the prompted frame and the last three
    assert [gradient for _, _, gradient in times] == [False] * 3 + [True] * 3


@pytest.mark.parametrize('least', [-np.inf, 0.0])
@pytest.mark.parametrize('lead', [0, 4])
@pytest.mark.parametrize('logit', [-30.0, 30.0], ids=['hidden', 'visible'])
def test_a_clip_remembers_what_an_engine_would(tmp_path, monkeypatch, least, logit, lead):
    learner, batch = trainer(tmp_path), batch_of(replace(CLIPS, length=9, **CROP), 1)
    with torch.no_grad():
        head = learner.model.sam_mask_decoder.pred_obj_score_head.layers[-1]
        head.weight.zero_()
        head.bias.fill_(logit)
    teaching = Teaching(0.5, 0.0, lead=lead, remember_above=least, **PLAIN)
    _, times = judged_and_remembered(learner, batch, teaching, monkeypatch)
    kept = logit > least
    for now, (maps, pointers, _) in enumerate(times, start=1):
        ages = range(now - 1, 0, -1)
        assert maps[0] == [0, *(age if kept else -1 for age in ages if age <= 6)]
        assert pointers[0][1:] == [age if kept else -1 for age in ages]


def test_a_run_goes_on_where_it_stopped(tmp_path):
    batch = batch_of(replace(STILLS, **CROP), 2)
    teaching = Teaching(1.0, 0.0)
    one = trainer(tmp_path)
    one.learn(batch, teaching, 1e-3)
    one.save()
    other = Trainer(tmp_path, peak=2e-3, seed=1)
    other.resize(64)
    other.resume(one.checkpoint)
    other.seed = one.seed
    assert other.step == 1
    again = [each.learn(batch, teaching, 1e-3)['loss'] for each in (one, other)]
    assert again[0] == pytest.approx(again[1], rel=1e-5)
    assert torch.equal(one.average.state['no_mem_embed'], other.average.state['no_mem_embed'])


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    one = trainer(tmp_path)
    torch.save({'step': 1, 'model': {}, 'optimisers': [], 'average': {}}, one.checkpoint)
    with pytest.raises(ValueError, match='another version.*step, model, optimisers, average'):
        one.resume(one.checkpoint)
    assert one.step == 0


def test_every_cycle_starts_the_rate_again_with_its_own_scenes(tmp_path, monkeypatch):
    small = replace(STILLS, **CROP)
    clips = replace(CLIPS, length=4, **CROP)
    cycles = (
        (Phase('a', 3, small, 1, (1.0, 0.5)), Phase('b', 2, small, 2, (0.0, 0.0))),
        (Phase('c', 4, clips, 3, (0.0, 0.0), rate=0.3, lead=2, remember_above=0.0),),
    )
    learner, shown, lengths, least = trainer(tmp_path), [], [], []

    def learn(batch, teaching, rate):
        least.append(teaching.remember_above)
        shown.append((len(batch.frames), round(teaching.balance, 3), rate))
        lengths.append((teaching.lead, batch.frames.shape[1], batch.presence.shape[1]))
        learner.step += 1
        return {'loss': 0.0}

    monkeypatch.setattr(learner, 'learn', learn)
    train(learner, cycles)
    assert least == [-np.inf] * 5 + [0.0] * 4
    assert {lead for lead, _, _ in lengths[5:]} <= {0, 1, 2} != {0}
    assert lengths[5:] == [(lead, 2 + lead, 2 + lead) for lead, _, _ in lengths[5:]]
    assert [clips for clips, _, _ in shown] == [1] * 3 + [2] * 2 + [3] * 4
    assert [balance for _, balance, _ in shown] == [1.0, 0.833, 0.667] + [0.0] * 6
    expected = [learning_rate(learner.peak, step, 5) for step in range(5)]
    expected += [learning_rate(0.3 * learner.peak, step, 4) for step in range(4)]
    assert [rate for _, _, rate in shown] == pytest.approx(expected)
    assert learner.checkpoint.exists()


def test_the_result_is_the_averaged_weights_and_a_run_that_has_ended_changes_nothing(
    tmp_path, monkeypatch
):
    small = replace(STILLS, **CROP)
    cycles = tuple((Phase(name, 2, small, 1, (0.0, 0.0)),) for name in 'ab')
    learner = trainer(tmp_path)

    def learn(batch, teaching, rate):
        learner.step += 1
        learner.average.state['no_mem_embed'].fill_(learner.step)
        return {'loss': 0.0}

    monkeypatch.setattr(learner, 'learn', learn)
    for _ in range(2):
        train(learner, cycles)
        result = torch.load(tmp_path / 'micro.pt', weights_only=True)['model']
        assert (result['no_mem_embed'] == 4).all()
    assert learner.step == 4


def test_a_cycle_ends_with_a_share_of_the_weights_of_the_one_before(tmp_path, monkeypatch):
    small = replace(STILLS, **CROP)
    cycles = tuple(
        (Phase(name, 2, small, 1, (0.0, 0.0), merge=0.25 * (name == 'b')),) for name in 'abc'
    )
    learner, begun_with = trainer(tmp_path), []

    def learn(batch, teaching, rate):
        begun_with.append(float(learner.model.no_mem_embed.detach().mean()))
        learner.step += 1
        with torch.no_grad():
            learner.model.no_mem_embed.fill_(100.0)
        learner.average.state['no_mem_embed'].fill_(learner.step)
        return {'loss': 0.0}

    monkeypatch.setattr(learner, 'learn', learn)
    train(learner, cycles[:1])
    resumed = trainer(tmp_path)
    resumed.resume(learner.checkpoint)
    learner = resumed
    monkeypatch.setattr(learner, 'learn', learn)
    train(learner, cycles[:2])
    merged = torch.load(tmp_path / 'micro.pt', weights_only=True)['model']
    assert (merged['no_mem_embed'] == 0.25 * 2 + 0.75 * 4).all()
    train(learner, cycles)
    assert begun_with[1:] == [100.0, 100.0, 100.0, 3.5, 100.0]
    result = torch.load(tmp_path / 'micro.pt', weights_only=True)['model']
    assert (result['no_mem_embed'] == 6).all()


def test_phases_follow_each_other_and_the_rate_falls_in_every_cycle():
    cycles = curriculum(0.01)
    first, second, *_ = cycles
    assert [phase.name for phase in first] == ['stills', 'short', 'long']
    steps = np.cumsum([phase.steps for phase in first])
    assert steps_of(first) == steps[-1]
    for phase, end in zip(first, steps, strict=True):
        assert phase_at(first, end - phase.steps) == (phase, 0.0)
        assert phase_at(first, end - 1) == (phase, 1 - 1 / phase.steps)
    assert cycle_at(cycles, steps[-1] - 1) == (first, steps[-1] - 1)
    assert cycle_at(cycles, steps[-1]) == (second, 0)
    assert cycle_at(cycles, steps[-1] + 7) == (second, 7)
    rates = [learning_rate(1.0, step, 1000) for step in (0, 99, 500, 999)]
    assert rates[0] < rates[2] < rates[1] == 1.0
    assert rates[3] == pytest.approx(0.02, abs=1e-3)


def test_prompts_lie_in_their_masks():
    mask = np.zeros((64, 64), bool)
    mask[10:20, 30:50] = True
    np.testing.assert_array_equal(box_prompt(mask)[0], [[30, 10], [50, 20]])
    for seed in range(20):
        coords, labels = click_prompt(mask, np.random.default_rng(seed))
        x, y = coords[0].astype(int)
        assert mask[y, x]
        assert labels.tolist() == [1, -1]


def test_a_correction_points_at_the_larger_error():
    truth, predicted = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
    truth[2:8, 2:8] = True
    predicted[2:8, 2:4] = True
    coords, labels = corrective_click(predicted, truth, scale=4)
    assert labels.tolist() == [1, -1]
    assert 16 <= coords[0, 0] <= 32
    predicted = truth.copy()
    predicted[10:16, 10:16] = True
    assert corrective_click(predicted, truth, scale=4)[1].tolist() == [0, -1]
    assert corrective_click(truth, truth, scale=4)[1].tolist() == [-1, -1]


def test_corrections_are_in_pixels_of_the_image():
    target = torch.zeros(1, 32, 32)
    target[:, 20:28, 4:10] = 1.0
    coords, labels = unroll._corrections(torch.full((1, 16, 16), -5.0), target, image_size=64)
    assert labels.tolist() == [[1, -1]]
    x, y = coords[0, 0].tolist()
    assert 8 < x < 20
    assert 40 < y < 56


def test_folding_the_normalisation_changes_nothing():
    torch.manual_seed(0)
    trunk = ConvTrunkConfig(stem=8, widths=(8, 8, 16, 16)).build(64)
    image = torch.randn(4, 3, 64, 64)
    trunk(image)  # gives the normalisations statistics of their own
    trunk.eval()
    expected = trunk(image)
    for module in trunk.modules():
        if hasattr(module, 'freeze'):
            module.freeze()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in trunk.modules())
    for ours, theirs in zip(trunk(image), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
