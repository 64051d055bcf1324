"""What can be asked of a sweep: for each site the sensible sets of axes, and questions for hypothesis to draw."""

import torch
from hypothesis import strategies as st

from pellucid import HookedTransformer, patching
from tests.models import configs, model_of
from tests.patching.comparing import Asked, Prompts, prompts_of
from tests.reference import sweep as loop

ROWS = [("layer",), ("layer", "pos"), ("layer", "position")]
HEADS = [*ROWS, ("layer", "head"), ("layer", "head", "pos"), ("position", "head", "layer")]
KEYS = [tuple("kv_head" if axis == "head" else axis for axis in over) for over in HEADS]
NEURONS = [("layer", "neuron"), ("layer", "pos"), ("neuron", "layer", "pos"), ("layer", "position", "neuron")]
SQUARES = [
    *[("layer", "head"), ("layer", "q_pos"), ("layer", "k_pos"), ("layer", "q_pos", "k_pos")],
    *[("layer", "head", "q_pos"), ("k_pos", "layer", "head"), ("layer", "head", "q_pos", "k_pos")],
]
OVER = {
    **{site: [("pos",), ("position",)] for site in ("embed", "pos_embed", "ln_final.normalized", "ln_final.scale")},
    **{site: [*ROWS, ("pos",)] for site in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_in")},
    **dict.fromkeys(("ln1.normalized", "ln2.normalized", "ln1.scale", "ln2.scale"), ROWS),
    **dict.fromkeys(("q", "rot_q", "z", "result", "attn_in", "q_input"), HEADS),
    **dict.fromkeys(("k", "rot_k", "v", "k_input", "v_input"), KEYS),
    **dict.fromkeys(("attn_scores", "pattern"), SQUARES),
    **dict.fromkeys(("pre", "pre_linear", "post"), NEURONS),
}
"""For each site the sensible sets of axes."""

DIRECTIONS = ["denoise", "noise"]
METRICS = ["LogitDiff", "Logit", "LogProb", "Rank", "KL", "Accuracy", "Loss"]
AT = ["end", "first", "early", ("first", "end"), ("end", "early", "first")]


@st.composite
def drawn_questions(draw: st.DrawFn) -> dict:
    """What a question is made of, in plain values: the shape checks draw random numbers, and strategies must not."""
    n, one = draw(st.integers(1, 3)), draw(st.integers(2, 6))
    several = st.lists(st.integers(2, 6), min_size=n, max_size=n)
    return {
        "config": draw(configs()),
        "site": draw(st.integers(0, len(OVER) - 1)),
        "over": draw(st.integers(0, 9)),
        "order": draw(st.permutations(range(4))),
        "lengths": [one] * n,
        "uneven": draw(several),
        "same": draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)),
        "answers": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 99)),
        "metric": draw(st.sampled_from(METRICS)),
        "at": draw(st.sampled_from(AT)),
        "freeze": draw(st.sampled_from([(), (), (), ("pattern",), ("ln_scale",)])),
        "direction": draw(st.sampled_from(DIRECTIONS)),
    }


def question_of(drawn: dict) -> tuple[HookedTransformer, Prompts, Asked]:
    """A model, prompts, and what is asked of a sweep."""
    config = drawn["config"]
    model = model_of(config, dtype=torch.float64, seed=drawn["seed"])
    sites = [site for site in OVER if loop.points(model, site)]
    site = sites[drawn["site"] % len(sites)]
    over = OVER[site][drawn["over"] % len(OVER[site])]
    over = tuple(over[i] for i in drawn["order"] if i < len(over) and (config.n_layers or over[i] != "layer"))
    lengths = drawn["lengths"] if {"pos", "q_pos", "k_pos"} & set(over) else drawn["uneven"]
    prompts = prompts_of(lengths, same=drawn["same"], answers=drawn["answers"], seed=drawn["seed"])
    kind = getattr(patching, drawn["metric"])
    metric = kind() if drawn["metric"] == "Loss" else kind(at=drawn["at"])
    freeze = () if config.norm is None and "ln_scale" in drawn["freeze"] else drawn["freeze"]
    return model, prompts, Asked(site, over, metric=metric, direction=drawn["direction"], freeze=freeze)
