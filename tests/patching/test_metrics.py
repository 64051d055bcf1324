"""What a sweep measures: each metric at one position or several, and any function of the logits."""

import pytest
import torch

from pellucid import patching
from pellucid.base.errors import ArgumentError
from pellucid.patching import KL, Accuracy, Logit, LogitDiff, LogProb, Loss, Rank
from tests.models import CONFIGS, model_of
from tests.patching.comparing import Asked, assert_equals_the_loop, double, prompts_of

pytestmark = pytest.mark.usefixtures("without_shape_checks")

AT = ["end", "early", "first", ("end", "first"), ("early", "end", "first")]
METRICS = [LogitDiff, Logit, LogProb, Rank, KL, Accuracy]
UNITS = {"LogProb": "nats", "KL": "nats", "Rank": "tokens", "Accuracy": "fraction", "Loss": "nats"}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("at", AT, ids=str)
def test_a_metric_at_any_positions_equals_the_loop(metric, at):
    i = METRICS.index(metric) + AT.index(at)
    prompts = prompts_of((6, 6), same=(1, 3), answers=1 + i % 3, seed=i)
    site, over = [("resid_pre", ("layer", "pos")), ("v", ("layer", "pos")), ("z", ("layer", "head"))][i % 3]
    found = assert_equals_the_loop(double(), prompts, Asked(site, over, metric=metric(at=at)), limit=10)
    assert found.unit == UNITS.get(metric.__name__, "logits")


@pytest.mark.parametrize("metric", [*METRICS, Loss])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_metric_on_prompts_of_different_length_equals_the_loop(metric, direction):
    prompts = prompts_of((6, 3, 5), same=(1, 2, 4), answers=2)
    asked = Asked("resid_post", ("layer", "position"), metric=metric(), direction=direction)
    assert_equals_the_loop(double("llama"), prompts, asked)


@pytest.mark.parametrize("metric", [*METRICS, Loss])
def test_a_metric_of_cells_that_are_run_plainly_equals_the_loop(metric):
    prompts = prompts_of((6, 4), same=(1, 2), answers=2)
    for asked in (
        Asked(("attn_out", "mlp_out"), ("layer",), metric=metric()),
        Asked("ln_final.normalized", "position", metric=metric()),
        Asked("z", ("layer", "head"), metric=metric(), freeze=("pattern",)),
    ):
        assert_equals_the_loop(double(), prompts, asked)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    "site, over", [("attn_out", ("layer", "pos")), ("q", ("layer", "head")), ("k", ("layer", "pos"))]
)
def test_the_loss_of_all_positions_equals_the_loop(kind, site, over):
    assert_equals_the_loop(double(kind), prompts_of((6, 6), same=(0, 2)), Asked(site, over, metric=Loss()), limit=10)


@pytest.mark.parametrize("given, metric", [(("answer", "wrong"), LogitDiff()), (("answer",), Logit()), ((), Loss())])
def test_the_metric_that_is_not_named_follows_from_what_is_told(given, metric):
    prompts, model = prompts_of(), double()
    pairs = patching.pairs(prompts.clean, prompts.corrupted, **{name: getattr(prompts, name) for name in given})
    found, named = (
        patching.sweep(model, pairs, site="z", over=("layer", "head"), metric=told, progress=False)
        for told in (None, metric)
    )
    assert (found.values == named.values).all() and found.unit == named.unit
    assert found.record == named.record


def diff(logits, pairs):
    rows = torch.arange(len(logits))
    return logits[rows, pairs.positions["end"], pairs.answer[:, 0]] - logits[rows, -1, pairs.wrong[:, 0]]


@pytest.mark.parametrize(
    "site, over", [("resid_pre", ("layer", "pos")), ("z", ("layer", "head")), ("pattern", "layer")]
)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_function_of_logits_and_pairs_gives_what_the_metric_gives(site, over, direction):
    pairs, model = prompts_of((6, 6), same=(1, 3)).pairs, double("partly rotary")
    asked = {"site": site, "over": over, "direction": direction, "progress": False}
    found, expected = (patching.sweep(model, pairs, metric=metric, **asked) for metric in (diff, LogitDiff()))
    assert found.values == pytest.approx(expected.values, abs=1e-9)
    for name in ("clean", "corrupted"):
        assert found.dataset[name].values == pytest.approx(expected.dataset[name].values, abs=1e-9)


def test_a_function_gets_all_logits_of_unpadded_prompts_and_as_many_pairs():
    seen = []

    def first_logit(logits, pairs):
        seen.append((logits.shape[1:], len(pairs) == len(logits), set(pairs.lengths.tolist())))
        return logits[:, -1, 0]

    patching.sweep(double(), prompts_of((6, 4)).pairs, site="z", over=("layer",), metric=first_logit, progress=False)
    assert set(map(str, seen)) == {str((torch.Size([n, 17]), True, {n})) for n in (4, 6)}


def test_a_function_that_changes_the_logits_it_is_given_changes_nothing_else():
    def spoiling(logits, pairs):
        found = logits[:, -1, 0].clone()
        logits.zero_()
        return found

    def reading(logits, pairs):
        return logits[:, -1, 0]

    model, pairs = double(), prompts_of((6, 6)).pairs
    found, expected = (
        patching.sweep(model, pairs, site="mlp_out", over=("layer", "pos"), metric=metric, progress=False)
        for metric in (spoiling, reading)
    )
    assert (found.values == expected.values).all()


@pytest.mark.parametrize(
    "given", [lambda logits: logits[:, -1, 0].mean(), lambda logits: logits[:, -1], lambda logits: 1.0]
)
def test_a_function_must_give_one_number_for_each_row(given):
    with pytest.raises(ArgumentError, match="one number for each"):
        patching.sweep(
            double(),
            prompts_of().pairs,
            site="z",
            over="layer",
            metric=lambda logits, pairs: given(logits),
            progress=False,
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_near_single_precision(dtype):
    half, pairs = model_of("gpt2", dtype=dtype), prompts_of((6, 6)).pairs
    single = model_of("gpt2")
    single.load_state_dict({name: x.float() for name, x in half.state_dict().items()})
    for site, over in [("resid_pre", ("layer", "pos")), ("pattern", ("layer", "head")), ("pre", ("layer", "neuron"))]:
        found, expected = (
            patching.sweep(model, pairs, site=site, over=over, metric=LogProb(), progress=False)
            for model in (half, single)
        )
        assert found.values == pytest.approx(expected.values, abs=0.1)
