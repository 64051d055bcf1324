"""Positions: learned vectors, rotary angles, none."""

import math

import pytest
import torch

from pellucid import Learned, Rotary, Shortformer
from pellucid.base.errors import ConfigError
from pellucid.model.positional import PosEmbed, RotaryTable, rotate
from tests.models import config_of, model_of, tokens_of


def test_rotation_turns_each_pair_by_an_angle_that_grows_with_the_position():
    table = RotaryTable(4, Rotary(base=100.0))
    x = torch.zeros(1, 3, 1, 4)
    x[..., 0] = 1.0
    turned = rotate(x, *table.between(0, 3, x))
    for p in range(3):
        torch.testing.assert_close(turned[0, p, 0], torch.tensor([math.cos(p), 0.0, math.sin(p), 0.0]))
    x = x.roll(1, -1)
    turned = rotate(x, *table.between(0, 3, x))
    for p in range(3):
        torch.testing.assert_close(turned[0, p, 0], torch.tensor([0.0, math.cos(p / 10), 0.0, math.sin(p / 10)]))


def test_what_queries_see_of_keys_depends_on_the_distance_alone():
    table = RotaryTable(6, Rotary())
    q, k = torch.randn(2, 1, 1, 1, 6, dtype=torch.float64)
    products = []
    for p in (0, 5, 90):
        turned_q, turned_k = rotate(q, *table.between(p + 3, p + 4, q)), rotate(k, *table.between(p, p + 1, k))
        products.append(float((turned_q * turned_k).sum()))
    assert products == pytest.approx([products[0]] * 3, abs=1e-12)


def test_dimensions_past_dim_stay():
    table, x = RotaryTable(6, Rotary(dim=2)), torch.randn(1, 4, 3, 6)
    turned = rotate(x, *table.between(0, 4, x))
    assert torch.equal(turned[..., 2:], x[..., 2:])
    assert not torch.equal(turned[:, 1:, :, :2], x[:, 1:, :, :2])
    assert torch.equal(turned[:, 0], x[:, 0])


def test_any_positions_are_turned_as_neighbouring_ones_are():
    table, x = RotaryTable(6, Rotary()), torch.randn(2, 3, 1, 6)
    positions = torch.tensor([[2, 3, 4], [0, 7, 7]])
    turned = rotate(x, *table.at(positions, 8, x))
    for row in range(2):
        for i, p in enumerate(positions[row].tolist()):
            alone = rotate(x[row : row + 1, i : i + 1], *table.between(p, p + 1, x))
            assert torch.equal(turned[row : row + 1, i : i + 1], alone)


@pytest.mark.parametrize(
    "dtype, table_dtype",
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_tables_are_in_float32_or_wider(dtype, table_dtype):
    table, x = RotaryTable(6, Rotary()), torch.randn(1, 5, 1, 6).to(dtype)
    cos, sin = table.between(0, 5, x)
    assert cos.dtype == sin.dtype == table_dtype
    assert rotate(x, cos, sin).dtype == dtype


def test_tables_grow_and_follow_the_dtype():
    table, x = RotaryTable(6, Rotary()), torch.ones(1)
    short = table.between(0, 3, x)[0].clone()
    assert torch.equal(table.between(0, 40, x)[0][:, :3], short)
    assert table.between(0, 3, x.double())[0].dtype == torch.float64
    assert torch.equal(table.between(0, 3, x)[0], short)


def test_tables_are_no_part_of_the_state():
    model = model_of("llama")
    model(tokens_of("llama"))
    assert not list(model.buffers())
    assert not [name for name in model.state_dict() if "rot" in name]


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_that_ran_without_gradients_first_can_be_trained_after(kind, first):
    model, tokens = model_of(kind), tokens_of(kind)
    with first():
        expected = model(tokens).clone()
    logits = model(tokens)
    logits.sum().backward()
    assert torch.equal(logits.detach(), expected)
    assert model.blocks[0].attn.W_Q.grad.isfinite().all()


@pytest.mark.parametrize("positions", [Learned(), Rotary(), Rotary(dim=2), Shortformer(), Shortformer(layers=1)])
def test_explicit_positions_are_those_that_counting_gives(positions):
    model, tokens = model_of(config_of(positions=positions)), tokens_of()
    counted = torch.arange(7)
    torch.testing.assert_close(model(tokens, positions=counted[None]), model(tokens), rtol=0, atol=1e-5)
    torch.testing.assert_close(model(tokens, positions=counted.expand(2, 7)), model(tokens), rtol=0, atol=1e-5)


def test_only_distances_matter_to_rotary_positions_and_places_to_learned_ones():
    tokens, later = tokens_of(), torch.arange(5, 12)[None]
    rotary, learned = model_of("llama", dtype=torch.float64), model_of("gpt2", dtype=torch.float64)
    torch.testing.assert_close(rotary(tokens, positions=later), rotary(tokens))
    assert not torch.allclose(learned(tokens, positions=later), learned(tokens))
    swapped = torch.tensor([[1, 0, 2, 3, 4, 5, 6]])
    assert not torch.allclose(rotary(tokens, positions=swapped), rotary(tokens))


def test_a_model_without_positions_takes_any_order_of_the_past_alike():
    model = model_of("bare", dtype=torch.float64)
    tokens = tokens_of("bare")
    swapped = tokens[:, [2, 0, 1, 3, 4, 5, 6]]
    model = model_of(model.config.change(n_layers=1, residual=True), dtype=torch.float64)
    torch.testing.assert_close(model(tokens)[:, 3:], model(swapped)[:, 3:])


def test_learned_vectors_are_those_of_the_matrix():
    part = PosEmbed(5, 3)
    torch.nn.init.normal_(part.W_pos)
    assert torch.equal(part.between(1, 4)[0], part.W_pos[1:4])
    assert torch.equal(part(torch.tensor([[4, 0]]))[0], part.W_pos[[4, 0]])


@pytest.mark.parametrize("dim", [3, 8, -2, 0])
def test_a_rotation_that_cannot_be_is_refused(dim):
    with pytest.raises(ConfigError, match=f"Rotary dim must be even and at most d_head=6, got {dim}; set"):
        config_of(positions=Rotary(dim=dim))
