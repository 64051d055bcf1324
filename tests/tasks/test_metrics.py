"""Metrics beside their definitions, written out for one prompt and one row at a time."""

import math

import pytest
import torch

from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.tasks.metrics import KL, METRICS, Accuracy, Logit, LogitDiff, LogProb, Loss, Rank, default_metric
from pellucid.tasks.pairs import Pairs

D_VOCAB = 11
PAIRS = Pairs.from_tokens(
    [[1, 2, 3, 4], [5, 6, 7]],
    [[1, 9, 3, 4], [5, 6, 8]],
    answer=[[3, 4], [5]],
    wrong=[[1], [2, 6, 7]],
    positions={"odd": [1, 2], "early": 0},
)


def logits_of(dtype=torch.float64, seed=0) -> torch.Tensor:
    return torch.randn(2, 4, D_VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def of_row(name: str, x: list[float], reference: list[float], right, wrong, following: int | None) -> float:
    """What one row of logits says."""
    log_z, theirs = (math.log(sum(map(math.exp, values))) for values in (x, reference))

    def mean(ids):
        return sum(x[i] for i in ids) / len(ids)

    return {
        "LogitDiff": lambda: mean(right) - mean(wrong),
        "Logit": lambda: mean(right),
        "ProbDiff": lambda: sum(math.exp(x[i] - log_z) for i in right) - sum(math.exp(x[i] - log_z) for i in wrong),
        "LogProb": lambda: mean(right) - log_z,
        "Rank": lambda: sum(value > max(x[i] for i in right) for value in x),
        "Accuracy": lambda: float(x.index(max(x)) in right),
        "KL": lambda: sum(math.exp(b - theirs) * (b - theirs - a + log_z) for a, b in zip(x, reference, strict=True)),
        "Loss": lambda: log_z - x[following],
    }[name]()


def written_out(metric, logits, reference, prompt) -> float:
    right, wrong = [[3, 4], [5]][prompt], [[1], [2, 6, 7]][prompt]
    clean, places = [[1, 2, 3, 4], [5, 6, 7]][prompt], {"odd": [1, 2], "early": [0, 0], "end": [3, 2]}
    names = (metric.at,) if isinstance(metric.at, str) else metric.at
    rows = [places[name][prompt] for name in names] or range(len(clean) - 1)
    found = []
    for row in rows:
        following = clean[row + 1] if row + 1 < len(clean) else None
        both = (logits[prompt, row].tolist(), reference[prompt, row].tolist())
        found.append(of_row(metric.name, *both, right, wrong, following))
    return sum(found) / len(found)


@pytest.mark.parametrize("at", ["end", "odd", ("early", "odd"), ("end", "odd", "early")])
@pytest.mark.parametrize("kind", METRICS.values(), ids=METRICS)
def test_a_metric_is_its_definition(kind, at):
    metric = kind(at="early") if kind is Loss else kind(at=at)
    logits, reference = logits_of(), logits_of(seed=1)
    found = metric(logits, PAIRS, reference)
    expected = [written_out(metric, logits, reference, prompt) for prompt in range(2)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_the_loss_is_over_all_tokens_but_the_first():
    logits = logits_of()
    expected = [written_out(Loss(), logits, logits, prompt) for prompt in range(2)]
    torch.testing.assert_close(Loss()(logits, PAIRS), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", METRICS.values(), ids=METRICS)
def test_half_precision_is_measured_in_float32_and_no_number_is_no_number(kind):
    logits = logits_of(torch.bfloat16)
    found = kind()(logits, PAIRS, logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kind()(logits.double(), PAIRS, logits.double()).float())
    if kind in (LogitDiff, Logit):
        return
    broken = logits_of()
    broken[1] = torch.nan
    assert kind()(broken, PAIRS, logits_of()).isnan().tolist() == [False, True]


def test_what_the_clean_run_predicts_with_no_probability_counts_nothing():
    reference = torch.tensor([[[0.0, -torch.inf, 1.0]]])
    pairs = Pairs.from_tokens([[1]], [[2]])
    assert KL()(torch.zeros(1, 1, 3), pairs, reference).isfinite().all()
    assert KL()(reference, pairs, reference).item() == pytest.approx(0, abs=1e-6)


def test_equal_logits_are_not_passed_over_in_a_rank():
    pairs = Pairs.from_tokens([[1]], [[1]], answer=2)
    assert Rank()(torch.tensor([[[3.0, 1.0, 1.0]]]), pairs).item() == 1
    assert Accuracy()(torch.tensor([[[0.0, 1.0, 2.0]]]), pairs).item() == 1


def test_metrics_are_values():
    assert LogitDiff() == LogitDiff() != LogitDiff(at="odd")
    assert len({LogProb(), LogProb(), LogProb(at=("odd", "end"))}) == 2
    assert repr(Logit(at="odd")) == "Logit(at='odd')"


def test_what_is_measured_follows_from_the_answers():
    assert default_metric(PAIRS) == LogitDiff()
    assert default_metric(Pairs.from_tokens([[1]], [[2]], answer=3)) == Logit()
    assert default_metric(Pairs.from_tokens([[1, 2]], [[2, 2]])) == Loss()


@pytest.mark.parametrize(
    ("metric", "pairs", "error", "message"),
    [
        (LogitDiff(), Pairs.from_tokens([[1]], [[2]], answer=3), ArgumentError, "LogitDiff needs pairs with wrong"),
        (Rank(), Pairs.from_tokens([[1]], [[2]]), ArgumentError, "Rank needs pairs with answer"),
        (Logit(at="od"), PAIRS, UnknownNameError, "at must name positions of the pairs, got 'od'; nearest: odd"),
        (Loss(), Pairs.from_tokens([[1]], [[2]]), ArgumentError, "Loss needs a token after each position"),
        (Loss(at="end"), PAIRS, ArgumentError, "Loss needs a token after each position"),
        (KL(), PAIRS, ArgumentError, "KL compares with the clean run; give its logits"),
    ],
)
def test_what_cannot_be_measured_is_refused(metric, pairs, error, message):
    with pytest.raises(error, match=message):
        metric(logits_of()[: len(pairs), : pairs.clean.shape[1]], pairs)
