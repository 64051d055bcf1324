import pytest
import torch

from pellucid.maths.spectrum import effective_rank


def test_it_counts_equal_directions():
    W = torch.zeros(7, 5)
    W[:3, :3] = 2 * torch.eye(3)
    assert effective_rank(W).item() == pytest.approx(3)
    assert effective_rank(torch.ones(4, 9)).item() == pytest.approx(1)


def test_it_is_the_exponential_of_the_entropy_by_hand():
    W = torch.diag(torch.tensor([3.0, 1.0]))
    expected = torch.exp(-torch.tensor([0.75, 0.25]) @ torch.tensor([0.75, 0.25]).log())
    assert effective_rank(W).item() == pytest.approx(expected.item())


def test_zeros_reach_nowhere_and_batches_are_each_their_own():
    W = torch.stack([torch.zeros(2, 2), torch.eye(2)])
    assert effective_rank(W).tolist() == pytest.approx([0, 2])
