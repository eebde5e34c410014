import pytest
import torch

from fastregion.training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    result = orthogonalized(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    # The same singular vectors: U V^T of the matrix is near.
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    cosine = (result * (left @ right)).sum() / (result.norm() * (left @ right).norm())
    assert cosine > 0.97


def test_a_step_has_the_promised_size_and_decay() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 32))
    before = weight.detach().clone()
    weight.grad = torch.randn(64, 32)
    Muon([weight], lr=0.1).step()
    change = (weight.detach() - before).square().mean().sqrt()
    assert change == pytest.approx(0.2 * 0.1, rel=0.2)
    decayed = torch.nn.Parameter(before.clone())
    decayed.grad = weight.grad
    Muon([decayed], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(decayed.detach(), weight.detach() - 0.05 * before)


def test_it_solves_a_least_squares_problem() -> None:
    torch.manual_seed(0)
    inputs, wanted = torch.randn(100, 6), torch.randn(6, 4)
    weight = torch.nn.Parameter(torch.zeros(6, 4))
    optimizer = Muon([weight], lr=0.2)
    losses = []
    for _ in range(120):
        loss = (inputs @ (weight - wanted)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]
