"""What the study of attention-only models trains: arms, each a recipe that is run over several seeds.

The reference is the attention-only model of Elhage et al. 2021, made small: BOS, rows of 256, residual connections,
positions that reach queries and keys alone, few wide heads. The source of the study had it otherwise in many settings
at once. So there are two kinds of arms: the reference with one setting put to the source's ("cost_…"), and a path from
the source's setting to the reference on which one setting after the other is put right ("path_…").

In: the name of an arm, a seed, sizes and a text. Out: a `Recipe`.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from pellucid.train.recipe import Recipe, put, recipe_of

BUNDLED = "prose-2l-mixed"
"""The bundled model from which parts are taken; the reference has its shape."""
MADE = "made:3000"
"""The text that is made here, where none is named."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One thing that the source had otherwise.

    Args:
        name: In figures.
        words: What is changed, for people.
        changes: Dotted keys of the recipe, as the source had them.
        ours: What the reference has, in words.
        theirs: What the source has.
    """

    name: str
    words: str
    ours: str
    theirs: str
    changes: Mapping[str, Any]

    @property
    def told(self) -> str:
        """What is otherwise."""
        return f"{self.words}: {self.theirs} instead of {self.ours}"


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(name="bos", words="BOS", ours="in front of each row", theirs="none", changes={"data.bos": False}),
        Setting(name="length", words="row length", ours="256", theirs="20", changes={"data.length": 20}),
        Setting(
            name="residual", words="residual connections", ours="on", theirs="off", changes={"model.residual": False}
        ),
        Setting(
            name="embedding",
            words="embedding size",
            ours="192",
            theirs="128",
            changes={"model.d_model": 128},
        ),
        Setting(
            name="heads",
            words="heads of a layer",
            ours="4 of width 48",
            theirs="8 of width 16",
            changes={"model.attention.n_heads": 8, "model.attention.d_head": 16},
        ),
        Setting(
            name="learning_rate", words="learning rate", ours="3e-3", theirs="5e-5", changes={"optimiser.lr": 5e-5}
        ),
        Setting(
            name="tokenizer",
            words="tokenizer",
            ours="own BPE of 1,024",
            theirs="own BPE of 4,096",
            changes={"model.tokenizer.size": 4096},
        ),
        Setting(name="data", words="amount of text", ours="all", theirs="an eighth", changes={"data.share": 0.125}),
        Setting(
            name="positions",
            words="positions",
            ours="to queries and keys of layer 0",
            theirs="added to the embedding",
            changes={"model.positions": "Learned"},
        ),
    )
}
"""In the order in which the path puts them right."""
QUICK = ("residual", "learning_rate", "positions")
"""The settings that a first look asks about: so few steps can tell what these cost."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One kind of run.

    Args:
        name: In figures and files.
        words: What it is, for people.
        seeds: How many runs, by default; at the quick sizes.
        changes: Dotted keys of the reference's recipe.
    """

    name: str
    words: str
    seeds: tuple[int, int]
    changes: Mapping[str, Any] = field(default_factory=dict)


REFERENCE = Arm(name="2_layers", words="2 layers", seeds=(3, 2))
LAYERS = (
    Arm(name="0_layers", words="0 layers: a bigram table", seeds=(3, 2), changes={"model.n_layers": 0}),
    Arm(name="1_layers", words="1 layer", seeds=(3, 2), changes={"model.n_layers": 1}),
    REFERENCE,
    Arm(
        name="2_layers_mlp",
        words="2 layers with MLP",
        seeds=(3, 2),
        changes={"model.mlp": {"d_mlp": 768, "act": "gelu"}},
    ),
)
TAKEN_FROM = {"model.tokenizer": BUNDLED, "model.attention": {"n_heads": 4, "d_head": 48}}
TAKEN = (
    Arm(name="none_taken", words=f"the tokenizer of {BUNDLED}, all weights fresh", seeds=(1, 0), changes=TAKEN_FROM),
    Arm(
        name="embeddings_taken",
        words=f"the same, embeddings taken from {BUNDLED}",
        seeds=(1, 0),
        changes={**TAKEN_FROM, "model.take": {"embed": BUNDLED}, "model.frozen": ["embed"]},
    ),
    Arm(
        name="layer_taken",
        words="the same, layer 0 and the positions too, all of it frozen",
        seeds=(1, 0),
        changes={
            **TAKEN_FROM,
            "model.take": {"embed": BUNDLED, "blocks.0": BUNDLED, "pos_embed": BUNDLED},
            "model.frozen": ["embed", "blocks.0", "pos_embed"],
        },
    ),
)


def costs(quick: bool) -> list[Arm]:
    """The reference with one setting put to the source's."""
    return [
        Arm(
            name=f"cost_{one.name}",
            words=one.told,
            seeds=(3, 2),
            changes=one.changes,
        )
        for one in SETTINGS.values()
        if not quick or one.name in QUICK
    ]


def path() -> list[Arm]:
    """From the source's setting on; each arm puts one more setting right, until the last lacks one alone."""
    names = list(SETTINGS)
    found = []
    for n in range(len(names)):
        wrong = names[n:]
        words = "the source's setting" if not n else f"and {SETTINGS[names[n - 1]].words} put right"
        changes = {key: value for name in wrong for key, value in SETTINGS[name].changes.items()}
        found.append(Arm(name=f"path_{n}", words=words, seeds=(1, 0), changes=changes))
    return found


def source_grid() -> list[Arm]:
    """The source's whole grid, in the source's sizes, for machines with GPUs."""
    values = {
        "model.n_layers": (1, 2),
        "model.mlp": ("none", {"d_mlp": 512, "act": "gelu"}),
        "model.d_model": (128, 256),
        "model.attention.n_heads": (4, 8),
        "data.length": (20, 30, 50, 80),
        "model.tokenizer": ("gpt2", {"kind": "WordPiece", "size": 30522}, {"kind": "BPE", "size": 8192}),
        "optimiser.lr": (1e-4, 1e-3),
        "model.residual": (True, False),
        "data.share": (0.5, 1.0),
    }
    found = []
    for number, chosen in enumerate(product(*values.values())):
        changes = dict(zip(values, chosen, strict=True))
        changes["model.attention.d_head"] = changes["model.d_model"] // changes["model.attention.n_heads"]
        words = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in changes.items())
        found.append(Arm(name=f"source_{number:03d}", words=words, seeds=(1, 0), changes=changes))
    return found


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How long each run is, how many there are, and on what.

    Args:
        quick: The smaller ones, for a first look.
        full: The larger ones, and the source's whole grid beside the arms.
    """

    quick: bool = False
    full: bool = False

    @property
    def steps(self) -> int:
        """Of each run."""
        return 160 if self.quick else 20_000 if self.full else 520

    @property
    def tokens(self) -> int:
        """Of each step."""
        return 16_384 if self.full else 2048

    @property
    def arms(self) -> list[Arm]:
        """All arms, those that take longest first."""
        if self.quick:
            return [*costs(True), *LAYERS]
        return [*costs(False), *path(), *LAYERS, *TAKEN, *(source_grid() if self.full else [])]

    def seeds(self, arm: Arm) -> int:
        """Runs of an arm."""
        return arm.seeds[self.quick]

    def recipe(self, arm: Arm, seed: int, source: str) -> Recipe:
        """The recipe of one run.

        Args:
            arm: Which.
            seed: Of the run.
            source: The text.
        """
        values: dict[str, Any] = {
            "steps": self.steps,
            "batch_size": 1,
            "seed": seed,
            "log": [],
            "model": {
                "n_layers": 2,
                "d_model": 192,
                "n_ctx": 256,
                "norm": {"kind": "LayerNorm", "affine": False},
                "positions": {"kind": "Shortformer", "layers": 1},
                "init_range": 0.042,
                "embed_init_range": 1.0,
                "attention": {"n_heads": 4, "d_head": 48},
                "tokenizer": {"kind": "BPE", "size": 1024},
            },
            "data": {"kind": "Text", "source": source, "length": 256, "held_out": 0.1, "longest": 10_000},
            "optimiser": {"lr": 3e-3, "weight_decay": 0.01},
            "schedule": {"warmup": self.steps // 10, "decay": 0.5},
            "probes": {"every": max(1, self.steps // 5), "log_spaced": False, "batch": 16},
            "checkpoints": {"every": 0, "log_spaced": False},
        }
        for key, value in arm.changes.items():
            put(values, key.split("."), deepcopy(value))
        length = values["data"]["length"]
        values["batch_size"] = self.tokens // length // 8 * 8 if self.full else self.tokens // length
        values["probes"]["held_out"] = 16384 // length
        values["probes"]["seq_len"] = min(20, (length - 1) // 2)
        if not values["model"]["n_layers"]:
            values["model"]["positions"] = "none"
        return recipe_of(values)
