"""A sweep that was interrupted goes on from its journal, and gives bit for bit what it gives without a break."""

import pytest
import torch

from pellucid import HookedTransformer, Noise, Zero, patching
from pellucid.patching import KL, Loss
from tests.models import model_of
from tests.patching.comparing import prompts_of

pytestmark = pytest.mark.usefixtures("without_shape_checks")

PAIRS = prompts_of((5, 5, 5), same=(0, 1, 2)).pairs
QUESTIONS = {
    "walked": {"site": "post", "over": ("layer", "pos", "neuron")},
    "plainly": {"site": ("z", "mlp_out"), "over": ("layer", "pos")},
    "held": {"site": "z", "over": ("layer", "head", "pos"), "freeze": ("ln_scale", "pattern")},
    "noisy": {"site": "z", "over": ("layer", "head", "pos"), "corrupt": Noise("embed", std=0.5), "metric": KL()},
}


class BrokenOffError(Exception):
    """What ends a run before its time."""


def bound_of(ask, model) -> int:
    """A bound that splits the work in several jobs."""
    bound = 100_000
    while True:
        bound = bound * 6 // 5
        try:
            plan = patching.plan(model, PAIRS, **ask, max_memory=bound)
        except MemoryError:
            continue
        assert plan.jobs is not None and plan.jobs > 2, "there is nothing to interrupt"
        return bound


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_interrupted_sweep_goes_on_where_it_was(question, tmp_path, monkeypatch):
    dtype = torch.float64 if question == "noisy" else torch.float32
    model, ask = model_of("gpt2", dtype=dtype), QUESTIONS[question]
    ask = ask | {"max_memory": bound_of(ask, model), "progress": False}
    expected = patching.sweep(model, PAIRS, **ask)
    forward, calls = HookedTransformer.forward, []

    def counted(self, *args, **options):
        calls.append(1)
        if len(calls) > after:
            raise BrokenOffError
        return forward(self, *args, **options)

    monkeypatch.setattr(HookedTransformer, "forward", counted)
    after = 10**9
    patching.sweep(model, PAIRS, **ask)
    whole = len(calls)
    for stop in (whole // 2, 1):
        calls.clear()
        after = stop
        with pytest.raises(BrokenOffError):
            patching.sweep(model, PAIRS, **ask, journal=tmp_path)
    calls.clear()
    after = 10**9
    found = patching.sweep(model, PAIRS, **ask, journal=tmp_path)
    assert 0 < len(calls) < whole, "what was done is not done again"
    assert_same(found, expected)
    calls.clear()
    assert_same(patching.sweep(model, PAIRS, **ask, journal=tmp_path), expected)
    assert not calls, "all is there"


def assert_same(found, expected):
    for name, values in expected.dataset.data_vars.items():
        assert (found.dataset[name].values == values.values).all(), name
    assert found.record == expected.record and found.dims == expected.dims


def test_a_sweep_goes_on_in_the_parts_in_which_it_began_whatever_bound_is_given_later(tmp_path):
    model = model_of("gpt2")
    ask = QUESTIONS["walked"] | {"progress": False}
    small = bound_of(QUESTIONS["walked"], model)
    first = patching.sweep(model, PAIRS, **ask, max_memory=small, journal=tmp_path)
    parts = sorted(path.name for path in tmp_path.rglob("*.safetensors"))
    again = patching.sweep(model, PAIRS, **ask, max_memory="1GB", journal=tmp_path)
    assert_same(again, first)
    assert sorted(path.name for path in tmp_path.rglob("*.safetensors")) == parts and len(parts) > 2


def test_a_part_that_was_half_written_is_made_again(tmp_path):
    model = model_of("gpt2")
    ask = QUESTIONS["walked"] | {"progress": False, "max_memory": bound_of(QUESTIONS["walked"], model)}
    expected = patching.sweep(model, PAIRS, **ask, journal=tmp_path)
    some = sorted(tmp_path.rglob("*.safetensors"))
    some[0].unlink()
    assert_same(patching.sweep(model, PAIRS, **ask, journal=tmp_path), expected)


def test_ablations_have_journals_too(tmp_path):
    model = model_of("gpt2")
    ask = {"site": "z", "over": ("layer", "head", "pos"), "by": Zero(), "metric": Loss(), "progress": False}
    expected = patching.ablate(model, PAIRS, **ask)
    for _ in range(2):
        assert_same(patching.ablate(model, PAIRS, **ask, journal=tmp_path), expected)


def test_a_folder_that_is_not_there_yet_is_made(tmp_path):
    ask = {"site": "z", "over": "layer", "progress": False}
    patching.sweep(model_of("gpt2"), PAIRS, **ask, journal=str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()
