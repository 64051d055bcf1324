"""Exact causal experiments in bulk: patch every layer, position, head or neuron, and measure what changes.

The functions are imported at once, not when they are first used: two of them are named as files of this folder are.
"""

from pellucid.patching.ablation import ablate
from pellucid.patching.attribution import attribute
from pellucid.patching.comparison import Comparison, compare
from pellucid.patching.path_attribution import attribute_paths
from pellucid.patching.paths import paths
from pellucid.patching.selections import Selection, embed, heads, logits, mlps, neurons
from pellucid.patching.sweep import pairs, plan, sweep
from pellucid.tasks.metrics import KL, Accuracy, Logit, LogitDiff, LogProb, Loss, ProbDiff, Rank
from pellucid.tasks.pairs import Pairs

__all__ = [
    "KL",
    "Accuracy",
    "Comparison",
    "LogProb",
    "Logit",
    "LogitDiff",
    "Loss",
    "Pairs",
    "ProbDiff",
    "Rank",
    "Selection",
    "ablate",
    "attribute",
    "attribute_paths",
    "compare",
    "embed",
    "heads",
    "logits",
    "mlps",
    "neurons",
    "pairs",
    "paths",
    "plan",
    "sweep",
]
