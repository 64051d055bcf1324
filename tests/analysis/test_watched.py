"""What is watched: its names, and that its values do not depend on how the weights were processed."""

import random

import pytest
import torch

from pellucid import LayerNorm, RMSNorm
from pellucid.analysis import HeadOutput, Neuron, StreamDirection, top_contexts
from pellucid.analysis.watched import Watch, fingerprint, watched
from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.pretrained.processing import Processing, process
from tests.models import CONFIGS, config_of, model_of, unchecked

VECTOR = torch.linspace(-1, 2, 10, dtype=torch.float64)


def test_names_are_told_back():
    model = model_of()
    several = ["L1N3", (0, 5), "1.2", HeadOutput(1, 2, VECTOR), HeadOutput(1, 2, -VECTOR, "Paris")]
    found = watched(model, [*several, StreamDirection(1, VECTOR, "mine")])
    assert [one.label for one in found] == ["L1N3", "L0N5", "1.2", "1.2 along direction", "1.2 along Paris", "mine"]
    assert watched(model, (1, 3)) == watched(model, "L1N3") == [Neuron(1, 3)]


def test_one_head_is_watched_along_two_directions_and_by_its_length():
    model = model_of(dtype=torch.float64)
    what = [HeadOutput(1, 0, VECTOR, "up"), HeadOutput(1, 0, -VECTOR, "down"), "1.0"]
    found = top_contexts(model, [[1, 2, 3, 4]], what=what, k=4)
    up, down = ([one.value for one in found.of(f"1.0 along {name}")] for name in ("up", "down"))
    assert up == pytest.approx([-x for x in reversed(down)]) and len(found.of("1.0")) == 4


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("L2N0", ArgumentError, "layer must lie in 0..1, got 2"),
        ((0, 14), ArgumentError, "neuron must lie in 0..13, got 14"),
        ("0.4", ArgumentError, "head must lie in 0..3, got 4"),
        ("mlp3", UnknownNameError, "a name must be like 'L8N2744', a neuron, or '5.1', a head, got 'mlp3'"),
        ([], ArgumentError, "must be one thing or more, each of another name, got \\[\\]"),
        (["L0N1", (0, 1)], ArgumentError, "each of another name, got \\['L0N1', 'L0N1'\\]; directions take a name="),
        ([HeadOutput(1, 0, VECTOR), HeadOutput(1, 0, -VECTOR)], ArgumentError, "got \\['1.0 along direction', "),
        ([3.5], ArgumentError, "must be Neuron, HeadOutput, StreamDirection or a name, got 3.5"),
        (StreamDirection(3, VECTOR), ArgumentError, "layer must lie in 0..2"),
        (StreamDirection(1, torch.ones(9)), ArgumentError, "a direction must be \\[10\\], got \\[9\\]"),
        (HeadOutput(0, 1, torch.ones(9)), ArgumentError, "a direction must be \\[10\\], got \\[9\\]"),
        (HeadOutput(0, 1, 0 * VECTOR), ArgumentError, "must be finite and longer than 0, .* got length 0, without"),
        (StreamDirection(1, VECTOR / 0), ArgumentError, "must be finite and longer than 0, .* got length inf"),
        (StreamDirection(1, torch.full((10,), 0.3)), ArgumentError, "got length 0.949, without its mean"),
    ],
)
def test_what_cannot_be_watched_is_said(what, error, message):
    with pytest.raises(error, match=message):
        watched(model_of(), what)


def test_a_direction_that_is_a_list_is_refused():
    with unchecked():
        for thing in (StreamDirection(1, [1.0] * 10), HeadOutput(0, 1, along=[1.0] * 10)):
            with pytest.raises(ArgumentError, match="a direction must be a tensor \\[10\\], got list"):
                watched(model_of(), thing)


STEPS = ("fold_ln", "center_writing_weights", "fold_value_biases")


@pytest.mark.parametrize("steps", [*((step,) for step in STEPS), (*STEPS, "center_unembed")])
@pytest.mark.parametrize("kind", [*CONFIGS, LayerNorm(), RMSNorm()])
def test_processing_changes_no_value(kind, steps):
    model = model_of(kind if isinstance(kind, str) else config_of(norm=kind), dtype=torch.float64)
    things = ["0.1", "1.2", HeadOutput(1, 2, VECTOR), HeadOutput(0, 3, VECTOR, "other"), StreamDirection(1, VECTOR)]
    things += [StreamDirection(-1, VECTOR, "last")] + ([] if model.config.mlp is None else ["L1N3"])
    draw = random.Random(0)
    documents = [[draw.randrange(17) for _ in range(9)] for _ in range(5)]
    before = top_contexts(model, documents, what=things, k=6, negative=True)
    process(model, Processing(**{step: step in steps for step in vars(Processing())}))
    after = top_contexts(model, documents, what=things, k=6, negative=True)
    for was, now in ((before.most, after.most), (before.least, after.least)):
        for one, other in zip(was, now, strict=True):
            assert [x.value for x in one] == pytest.approx([x.value for x in other], abs=1e-8)
            assert [(x.document, x.position) for x in one] == [(x.document, x.position) for x in other]


def test_zero_means_something_of_neurons_and_lengths():
    model = model_of()
    things = watched(model, ["L1N3", "1.2", HeadOutput(1, 2, VECTOR), StreamDirection(1, VECTOR, "mine")])
    assert Watch(model, things).from_zero.tolist() == [True, True, False, False]


def test_a_fingerprint_knows_the_direction_and_the_weights():
    model = model_of()
    things = [HeadOutput(1, 2, VECTOR)]
    found = fingerprint(model, things)
    assert found == fingerprint(model_of(), [HeadOutput(1, 2, VECTOR.clone())]) and len(found) == 16
    assert found != fingerprint(model_of(seed=1), things)
    others = (HeadOutput(1, 1, VECTOR), HeadOutput(1, 2, -VECTOR), HeadOutput(1, 2), HeadOutput(1, 2, VECTOR, "b"))
    assert all(found != fingerprint(model, [one]) for one in others)
