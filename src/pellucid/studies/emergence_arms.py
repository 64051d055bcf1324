"""What the study of emergence trains: arms, each a recipe that is run over several seeds.

An arm differs from the first in what its words say, so that a guess can be tested by it.

In: the name of an arm, a seed, and sizes. Out: a `Recipe`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pellucid.train.recipe import Recipe, recipe_of

D_VOCAB, N_CTX = 64, 64
SHORTEST, LONGEST = 8, 24
"""Periods that are trained, in tokens."""
FIXED = 16
"""The period of the arms that know only one."""
OFFSET = 8
"""The most random tokens before the first period, in the arm with random offsets."""
NEVER_TRAINED = (5, 28, 31)
"""Periods that no arm with random periods sees."""
SOURCE, BLANKS = 16, 16
"""Tokens that the encoder–decoder writes, and the blanks among which they stand."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One kind of run.

    Args:
        name: In figures and files.
        words: What it is, for people.
        seeds: How many runs, by default; at the quick sizes.
        model: Fields of the model that differ from the first arm's.
        data: Fields of the data that do.
        optimiser: Fields of the optimiser that do.
    """

    name: str
    words: str
    seeds: tuple[int, int]
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    optimiser: Mapping[str, Any] = field(default_factory=dict)

    @property
    def translates(self) -> bool:
        """Whether it is an encoder–decoder."""
        return self.data.get("kind") == "TranslatedSequences"

    def recipe(self, seed: int, sizes: "Sizes") -> Recipe:
        """The recipe of one run."""
        model = {
            "n_layers": 2,
            "d_model": 32,
            "d_vocab": D_VOCAB,
            "n_ctx": N_CTX,
            "attention": {"n_heads": 1, "d_head": 32},
            **self.model,
        }
        periodic = {"length": N_CTX, "shortest": SHORTEST, "longest": LONGEST}
        data = {"kind": "PeriodicSequences", "d_vocab": D_VOCAB, **({} if self.translates else periodic), **self.data}
        return recipe_of(
            {
                "steps": sizes.steps,
                "batch_size": 32,
                "seed": seed,
                "log": [],
                "model": model,
                "data": data,
                "optimiser": {"lr": sizes.lr, **self.optimiser},
                "schedule": {"warmup": 50},
                "probes": {"every": 25, "log_spaced": False, "batch": 8, "held_out": 0, "seq_len": NEVER_TRAINED[1]},
                "checkpoints": {"every": 25, "log_spaced": False},
            }
        )


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How long each run is, and how many there are.

    Args:
        quick: The smaller ones, for a first look.
    """

    quick: bool = False

    @property
    def steps(self) -> int:
        """Of each run."""
        return 550 if self.quick else 1000

    @property
    def lr(self) -> float:
        """The highest learning rate."""
        return 8e-3 if self.quick else 5e-3

    def seeds(self, arm: Arm) -> int:
        """Runs of an arm."""
        return arm.seeds[self.quick]


ONE_HEAD = Arm(name="one_head", words="2 layers × 1 head, random periods", seeds=(8, 3))
FOUR_HEADS = Arm(
    name="four_heads",
    words="2 layers × 4 heads, random periods",
    seeds=(8, 2),
    model={"attention": {"n_heads": 4, "d_head": 16}},
)
FIXED_DATA = {"shortest": FIXED, "longest": FIXED}
FIXED_ONE_LAYER = Arm(
    name="fixed_one_layer",
    words=f"1 layer × 1 head, the one period {FIXED}",
    seeds=(4, 1),
    model={"n_layers": 1},
    data=FIXED_DATA,
)
FIXED_TWO_LAYERS = Arm(
    name="fixed_two_layers", words=f"2 layers × 1 head, the one period {FIXED}", seeds=(4, 1), data=FIXED_DATA
)
SHORT_PERIODS = Arm(
    name="short_periods",
    words=f"as the first, periods {SHORTEST}–{LONGEST * 2 // 3}",
    seeds=(4, 2),
    data={"longest": LONGEST * 2 // 3},
)
RANDOM_OFFSET = Arm(
    name="random_offset",
    words=f"as the first, the repetition begins after 0–{OFFSET} random tokens",
    seeds=(4, 2),
    data={"offset": OFFSET},
)
ROTARY = Arm(name="rotary", words="as the first, rotary positions", seeds=(4, 2), model={"positions": "Rotary"})
DECAYS = {"decay_weak": 0.1, "decay_strong": 1.0}
DECAY_WEAK, DECAY_STRONG = (
    Arm(
        name=name,
        words=f"as the first, weight decay {decay:g} of the position embedding",
        seeds=(4, 1 + (name == "decay_strong")),
        optimiser={"weight_decay": decay, "decayed": "positions"},
    )
    for name, decay in DECAYS.items()
)
TRANSLATION = {"kind": "TranslatedSequences", "length": SOURCE}
ENCODED = Arm(
    name="encoder_decoder",
    words="encoder–decoder, 2 + 2 layers × 1 head: the same tokens are read and written",
    seeds=(4, 1),
    model={"architecture": "encoder-decoder"},
    data=TRANSLATION,
)
ENCODED_BLANKS = Arm(
    name="encoder_decoder_blanks",
    words=f"the same with spatial noise: {BLANKS} blanks among the tokens that are read",
    seeds=(4, 1),
    model={"architecture": "encoder-decoder"},
    data={**TRANSLATION, "blanks": BLANKS},
)
ARMS = {
    arm.name: arm
    for arm in (
        ONE_HEAD,
        FOUR_HEADS,
        FIXED_ONE_LAYER,
        FIXED_TWO_LAYERS,
        SHORT_PERIODS,
        RANDOM_OFFSET,
        ROTARY,
        DECAY_WEAK,
        DECAY_STRONG,
        ENCODED,
        ENCODED_BLANKS,
    )
}
"""In the order in which the story is told."""
