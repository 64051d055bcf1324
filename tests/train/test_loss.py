import pytest
import torch
import torch.nn.functional as F

from pellucid.train import loss
from pellucid.train.loss import summed_loss
from pellucid.train.sequences import IGNORED


def inputs(*, rows=40, d_model=6, d_vocab=11, bias=True, dtype=torch.float64):
    draws = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=draws, dtype=dtype).requires_grad_()

    targets = torch.randint(0, d_vocab, (4, rows // 4), generator=draws)
    targets[torch.rand(targets.shape, generator=draws) < 0.3] = IGNORED
    return drawn(4, rows // 4, d_model), drawn(d_model, d_vocab), drawn(d_vocab) if bias else None, targets


def literally(x, W_U, b_U, targets):
    """Each target's own logits, one at a time."""
    total = x.new_zeros(())
    for row, target in zip(x.flatten(0, 1), targets.flatten().tolist(), strict=True):
        if target != IGNORED:
            logits = row @ W_U if b_U is None else row @ W_U + b_U
            total = total - logits.log_softmax(0)[target]
    return total


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("many", [1, 2**40])
def test_the_sum_and_its_gradients_are_those_of_each_target_alone(monkeypatch, many, bias):
    monkeypatch.setattr(loss, "MANY", many)
    monkeypatch.setattr(loss, "CHUNK", 1)
    monkeypatch.setattr(loss, "FEWEST", 7)
    given = inputs(bias=bias)
    wanted = [part for part in given[:3] if part is not None]
    ours, theirs = summed_loss(*given), literally(*given)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(3 * ours, wanted), torch.autograd.grad(3 * theirs, wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_in_chunks_nothing_is_kept_where_no_gradient_is_wanted(monkeypatch):
    monkeypatch.setattr(loss, "MANY", 1)
    x, W_U, b_U, targets = inputs()
    with torch.no_grad():
        found = summed_loss(x, W_U, b_U, targets)
    assert not found.requires_grad
    torch.testing.assert_close(found, literally(x, W_U, b_U, targets))


def test_weights_that_are_frozen_get_no_gradient(monkeypatch):
    monkeypatch.setattr(loss, "MANY", 1)
    x, W_U, b_U, targets = inputs()
    W_U.requires_grad_(False)
    b_U.requires_grad_(False)
    summed_loss(x, W_U, b_U, targets).backward()
    assert W_U.grad is None
    (expected,) = torch.autograd.grad(literally(x, W_U, b_U, targets), [x])
    torch.testing.assert_close(x.grad, expected)


def test_chunks_are_right_in_half_precision(monkeypatch):
    monkeypatch.setattr(loss, "MANY", 1)
    x, W_U, b_U, targets = inputs(dtype=torch.bfloat16)
    logits = F.linear(x, W_U.T, b_U).float().flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(summed_loss(x, W_U, b_U, targets), expected, rtol=1e-4, atol=1e-3)
