"""A generator of its own: repeatable, and nobody else's numbers move."""

import torch

from pellucid.base.seeds import generator


def test_the_same_seed_gives_the_same_numbers():
    first, again, other = (torch.rand(4, generator=generator(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    torch.rand(4, generator=generator(1))
    assert torch.equal(torch.rand(4), expected)


def test_the_device_may_be_a_name_or_a_device():
    assert generator(0, "cpu").device == generator(0, torch.device("cpu")).device == torch.device("cpu")
