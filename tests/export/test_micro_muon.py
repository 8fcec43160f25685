"""Muon: orthogonal steps, the same however weights lie in memory, and it learns."""

import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')

from torch import nn  # noqa: E402

from export.micro.muon import Muon, hidden_matrices, orthogonalise  # noqa: E402
from export.model.variants import build  # noqa: E402


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('shape', [(3, 32, 32), (2, 16, 144), (2, 96, 24)])
def test_singular_values_become_about_one_and_directions_stay(shape):
    matrices = random(*shape)
    u, before, v = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalise(matrices)
    after = torch.linalg.svdvals(result)
    large = before > 0.05 * before.amax(dim=1, keepdim=True)
    assert after[large].min() > 0.6
    assert after.max() < 1.3
    torch.testing.assert_close(  # the same singular vectors: off the diagonal nothing is left
        u.mT @ result @ v.mT,
        torch.diag_embed((u.mT @ result @ v.mT).diagonal(dim1=1, dim2=2)),
        atol=1e-3,
        rtol=0,
    )


def test_a_step_is_the_orthogonal_gradient_at_the_rate_of_adamw():
    weight = nn.Parameter(torch.zeros(20, 64))
    weight.grad = random(20, 64)
    expected = -0.1 * 0.2 * 64**0.5 * orthogonalise(weight.grad[None])[0]
    Muon([weight], lr=0.1).step()
    torch.testing.assert_close(weight.detach(), expected)
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.2)


def test_weights_decay_but_not_those_without_a_gradient():
    used, unused = (nn.Parameter(torch.ones(16, 16)) for _ in range(2))
    used.grad = torch.zeros(16, 16)
    Muon([used, unused], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(used.detach(), torch.full((16, 16), 0.95))
    assert torch.equal(unused, torch.ones(16, 16))


def test_a_convolution_is_a_matrix_however_it_lies_in_memory():
    start, gradients = random(16, 4, 3, 3), [random(16, 4, 3, 3, seed=s) for s in (1, 2)]

    def after_two_steps(weight):
        weight = nn.Parameter(weight)
        optimiser = Muon([weight], lr=0.1)
        for gradient in gradients:
            weight.grad = torch.empty_like(weight).copy_(gradient.view(weight.shape))
            optimiser.step()
        return weight.detach()

    as_matrix = after_two_steps(start.flatten(1).clone())
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = after_two_steps(start.clone(memory_format=layout))
        assert weight.is_contiguous(memory_format=layout)
        torch.testing.assert_close(weight.flatten(1), as_matrix)


def test_it_solves_an_ill_conditioned_regression():
    inputs = random(256, 32) * torch.logspace(0, -2, 32)
    goal = inputs @ random(32, 16, seed=1)
    layer = nn.Linear(32, 16, bias=False)
    nn.init.zeros_(layer.weight)
    optimiser = Muon(layer.parameters(), lr=0.3)
    for step in range(300):
        optimiser.param_groups[0]['lr'] = 0.3 * (1 - step / 300)
        loss = (layer(inputs) - goal).square().mean()
        layer.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 1e-3 * goal.square().mean()


def test_nearly_all_of_micro_is_hidden_matrices():
    model = build('micro', 256)
    matrices = hidden_matrices(model)
    assert len(set(matrices)) == len(matrices)
    assert all(weight.ndim >= 2 for weight in matrices)
    theirs = sum(weight.numel() for weight in matrices)
    assert theirs > 0.95 * sum(weight.numel() for weight in model.parameters())
    assert model.no_mem_embed not in set(matrices)
