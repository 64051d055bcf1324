"""Sweeps side by side give what they give one after the other."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from pellucid import Zero, patching
from pellucid.patching import KL, Loss
from tests.models import model_of
from tests.patching.comparing import prompts_of

pytestmark = pytest.mark.usefixtures("without_shape_checks")


def asks():
    one, other = prompts_of((6, 6), seed=1).pairs, prompts_of((7, 5, 6), seed=2).pairs
    return [
        lambda model: patching.sweep(model, one, site="resid_pre", over=("layer", "pos"), progress=False),
        lambda model: patching.sweep(model, other, site="pattern", over=("layer", "head"), metric=KL(), progress=False),
        lambda model: patching.sweep(model, other, site=("z", "mlp_out"), over="layer", metric=Loss(), progress=False),
        lambda model: patching.sweep(model, one, site="q", over=("layer", "head"), freeze="pattern", progress=False),
        lambda model: patching.ablate(model, one, site="post", over=("layer", "neuron"), by=Zero(), progress=False),
    ]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_sweeps_of_one_model_in_threads_equal_those_one_after_the_other(kind):
    model, questions = model_of(kind), asks()
    expected = [question(model) for question in questions]
    together = Barrier(len(questions))

    def run(question):
        together.wait()
        return [question(model) for _ in range(3)]

    with ThreadPoolExecutor(len(questions)) as threads:
        found = list(threads.map(run, questions))
    for each, once in zip(found, expected, strict=True):
        for again in each:
            assert (again.values == once.values).all()
            assert (again.dataset["clean"].values == once.dataset["clean"].values).all()
            assert again.record == once.record
    assert not model.board


def test_hooks_of_one_thread_s_block_do_not_reach_a_sweep_in_another():
    model, question = model_of("gpt2"), asks()[0]
    expected = question(model)
    with (
        ThreadPoolExecutor(1) as threads,
        model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda x, hook: 0 * x)]),
    ):
        there = threads.submit(question, model).result()
        here = question(model)
    assert there.values == pytest.approx(expected.values, abs=1e-5)
    assert here.values != pytest.approx(expected.values, abs=1e-3)
