"""Estimates of edges are slopes of the edges, and complete where they must be; estimates stand beside exact numbers."""

import numpy as np
import pytest
import torch

from pellucid import patching
from pellucid.base.errors import ArgumentError, UnknownNameError
from tests.models import CONFIGS, model_of
from tests.patching.test_attribution import logit_diff, saturated
from tests.patching.test_paths import everything, labels_of, pairs_of, possible
from tests.reference.paths import edge


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("over", [None, "pos"])
def test_an_estimate_is_the_slope_of_its_edge(kind, over):
    """Finite differences of the literal path patch, the sender a little on its way to the other run."""
    model = model_of(kind).double().requires_grad_(False)
    pairs, (senders, receivers) = pairs_of(n=1), everything(model)
    found = patching.attribute_paths(model, pairs, senders=senders, receivers=receivers, over=over).effect()
    labels, step, checked = [labels_of(found, axis) for axis in found.dims[1:]], 1e-5, 0
    grouped = any(".kv" in label for label in labels[1])
    for at in torch.cartesian_prod(*[torch.arange(len(x)) for x in labels]).tolist()[:: 7 if over is None else 31]:
        sender, receiver, name, *pos = [x[i] for x, i in zip(labels, at, strict=True)]
        value = float(found.values[(0, *at)])
        assert np.isnan(value) != possible(sender, receiver, name, grouped)
        if not np.isnan(value):
            how = {"pos": pos[0] if pos else None}
            ends = [
                edge(
                    *(model, pairs.corrupted, pairs.clean, lambda logits: float(logit_diff(pairs, 0)(logits))),
                    *(sender, receiver, name),
                    share=by,
                    **how,
                )
                for by in (step, -step)
            ]
            assert value == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6), (sender, receiver, name)
            checked += 1
    assert checked > 5


def test_integrated_edges_into_logits_are_complete():
    """What all senders bring to the logits is, along the inputs, the difference of the metric: to 1 %."""
    model = model_of("gpt2").double().requires_grad_(False)
    pairs = pairs_of(seed=2)
    all_of_it = {"senders": "embed + heads + mlps", "receivers": "logits"}
    found = patching.attribute_paths(model, pairs, **all_of_it, method="ig-inputs", steps=64).effect()
    whole = patching.sweep(model, pairs, site="resid_pre", over=("layer",)).effect().values[:, 0]
    assert found.record.settings["steps"] == 64
    # The last stream does not move on a straight line, so that the sum is near, not equal.
    total = found.values.sum((1, 2, 3))
    assert np.corrcoef(total, whole)[0, 1] > 0.99


class TestComparison:
    def both(self, method="atp", model=None, site="z", over=("layer", "head")):
        model, pairs = model or model_of("gpt2").double().requires_grad_(False), pairs_of()
        exact = patching.sweep(model, pairs, site=site, over=over)
        return exact, patching.attribute(model, pairs, site=site, over=over, method=method)

    def test_an_exact_sweep_agrees_with_itself(self):
        exact, estimate = self.both()
        same = patching.Comparison(exact.labels[:8], np.arange(8.0), np.arange(8.0), "logits", "atp", False)
        assert same.rank_correlation == pytest.approx(1.0)
        assert same.false_negatives(3) == [] and same.missed == []
        turned = patching.Comparison(same.labels, np.arange(8.0), np.arange(8.0)[::-1], "logits", "atp", False)
        assert turned.rank_correlation == pytest.approx(-1.0)
        assert turned.false_negatives(2) == [same.labels[7], same.labels[6]]
        assert turned.missed == [same.labels[7]]
        assert patching.compare(exact, estimate).exact == pytest.approx(exact.effect().values.mean(0).ravel())

    def test_unsigned_estimates_stand_beside_sizes(self):
        exact, estimate = self.both("atp*")
        found = patching.compare(exact, estimate)
        assert found.unsigned
        assert found.exact == pytest.approx(abs(exact.effect().values).mean(0).ravel())
        assert found.estimate == pytest.approx(estimate.values.mean(0).ravel())
        assert "size of the effect" in found.plot(renderer="json").layout.xaxis.title.text

    def test_the_page_warns_where_a_saturated_softmax_hides_cells(self, tmp_path):
        exact, estimate = self.both(model=saturated(), site="q", over=("layer", "head", "pos"))
        found = patching.compare(exact, estimate)
        assert found.missed
        found.save(tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert "Not to be trusted here" in page and found.missed[0] in page
        fine = patching.compare(*self.both())
        assert ("Not to be trusted" in fine.page().html()) == bool(fine.missed)

    def test_other_cells_are_an_error(self):
        exact, estimate = self.both()
        with pytest.raises(ArgumentError, match="the first must be exact, the second an estimate"):
            patching.compare(estimate, exact)
        with pytest.raises(ArgumentError, match="both must be of the same cells"):
            patching.compare(exact, self.both(over=("layer", "head", "pos"))[1])
        with pytest.raises(ArgumentError, match=r"k must lie in 1\.\.8"):
            patching.compare(exact, estimate).false_negatives(9)


def test_methods_of_edges_are_told():
    model, pairs = model_of("gpt2"), pairs_of()
    with pytest.raises(UnknownNameError, match=r"method must be one of atp, ig-inputs for edges, got 'atp\*'"):
        patching.attribute_paths(model, pairs, senders="heads", receivers="logits", method="atp*")
    with pytest.raises(ArgumentError, match="steps must be 1 or more, got 0"):
        patching.attribute_paths(model, pairs, senders="heads", receivers="logits", method="ig-inputs", steps=0)


def test_only_the_same_question_is_compared():
    model, pairs = model_of("gpt2"), pairs_of(n=1)
    asked = {"over": ("layer", "head")}
    heads = {"senders": "heads", "receivers": "logits"}
    for exact, estimate, what in (
        (patching.sweep(model, pairs, site="z", **asked), patching.attribute(model, pairs, site="q", **asked), "site"),
        (
            patching.paths(model, pairs, **heads, through="all"),
            patching.attribute_paths(model, pairs, **heads),
            "through",
        ),
        (
            patching.sweep(model, pairs, site="z", **asked),
            patching.attribute(model, pairs_of(n=1, seed=8), site="z", **asked),
            "model and the same prompts",
        ),
    ):
        with pytest.raises(ArgumentError, match=f"both must .*{what}"):
            patching.compare(exact, estimate)


def test_neurons_send_to_every_receiver_as_the_literal_product():
    model, pairs = model_of("gpt2").double().requires_grad_(False), pairs_of(n=2)
    found = patching.attribute_paths(model, pairs, senders="neurons + embed + heads + mlps", receivers="heads + logits")
    one_by_one = [
        patching.attribute_paths(model, pairs, senders=sender, receivers="heads + logits").effect().values[:, 0]
        for sender in labels_of(found, "sender")[::5]
    ]
    torch.testing.assert_close(
        torch.tensor(found.effect().values[:, ::5]), torch.tensor(np.stack(one_by_one, 1)), equal_nan=True
    )
