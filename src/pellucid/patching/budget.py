"""How much is worked on at once, so that a sweep stays within a bound of memory. Pure: no tensors.

A plan's items become jobs: parts that are run one after the other, and that a journal can hold.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pellucid.base.errors import ArgumentError, TooLargeError
from pellucid.model.config import Config
from pellucid.patching.needs import Need, elements
from pellucid.patching.plan import Item, PlainCells, Plan

MOST_ROWS = 2**14
"""Rows carried in one job on a CPU: beyond, nothing is gained, and less is kept when a sweep is interrupted."""
CHUNKS = 24
"""Into so many parts the limit goes; of what is held only for a moment, each tensor has one of them at the most."""
HELD_CHUNKS = 9
"""Of these are held at once, at the most."""
LARGEST_CHUNK = 2**25
SHARE = 0.5
"""Of the memory that is free, where no bound is given."""
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def as_bytes(size: int | float | str) -> int:
    """A size in bytes.

    Raises:
        ArgumentError: It is none.

    Example:
        >>> as_bytes("1.5 GB"), as_bytes(2048)
        (1500000000, 2048)
    """
    told = re.fullmatch(r"\s*([\d.]+)\s*([a-zA-Z]*)\s*", str(size))
    if told is None or told[2].upper() not in UNITS or not re.fullmatch(r"\d+(\.\d*)?|\.\d+", told[1]):
        raise ArgumentError(f"max_memory must be bytes, or text such as '2GB', got {size!r}")
    return int(float(told[1]) * UNITS[told[2].upper()])


@dataclass(frozen=True)
class Budget:
    """What may be held at once, in bytes, and what follows from it."""

    config: Config
    itemsize: int
    limit: int
    most_rows: int = MOST_ROWS

    @property
    def chunk(self) -> int:
        """For one of the tensors that are held only for a moment: neurons, keys and scores, logits."""
        return min(LARGEST_CHUNK, self.limit // CHUNKS)

    @property
    def row(self) -> int:
        """For a row that is carried: its stream, and queries, keys and values in the midst of attention."""
        attention = self.config.attention
        heads, kv_heads = (n * attention.d_head for n in (attention.n_heads, attention.kv_heads))
        return self.itemsize * (9 * self.config.d_model + 5 * heads + 6 * kv_heads)

    @property
    def mlp_rows(self) -> int:
        """Rows whose neurons are held at once."""
        widest = 1 if self.config.mlp is None else self.config.mlp.d_mlp
        return max(1, min(1024, self.chunk // (self.itemsize * widest)))

    @property
    def tokens(self) -> int:
        """Tokens that go through the whole model at once."""
        return max(1, self.chunk // self.token)

    @property
    def token(self) -> int:
        """For a token on its way through a plain run, beside what is kept."""
        config, attention = self.config, self.config.attention
        d_mlp = 0 if config.mlp is None else config.mlp.d_mlp
        return self.itemsize * (8 * config.d_model + 4 * d_mlp + 4 * attention.n_heads * attention.d_head)

    def split(self, plan: Plan, need: Need, *, logits_of: int | None) -> tuple[list[Item], list[range]]:
        """A plan's items, in pieces that fit, and the jobs: which of them run together.

        Args:
            plan: What runs.
            need: What is kept for it.
            logits_of: Positions whose logits a plain run gives; None for all.

        Raises:
            TooLargeError: One cell does not fit.
        """
        items: list[Item] = []
        jobs: list[range] = []
        held, rows = self._fixed(plan), 0
        job_prompts: set[int] = set()
        for item, kept in self._pieces(plan, need, logits_of):
            size = self._size(plan, item, logits_of)
            new = 0 if item.prompt in job_prompts else kept
            carried = 0 if isinstance(item, PlainCells) else len(item.cells) * item.carried
            full = held + size + new > self.limit or rows + carried > self.most_rows
            if not jobs or (full and len(jobs[-1])) or isinstance(item, PlainCells):
                jobs.append(range(len(items), len(items)))
                held, rows, job_prompts, new = self._fixed(plan), 0, set(), kept
            items.append(item)
            job_prompts.add(item.prompt)
            held, rows = held + size + new, rows + carried
            jobs[-1] = range(jobs[-1].start, len(items))
        return items, jobs

    def with_gradients(self, length: int, rows: int, points: Sequence[str], held: int) -> int:
        """How many prompts go forward and back together: both runs' streams and points, and one layer's graph.

        Args:
            length: Tokens of each.
            rows: Positions of each whose logits the metric reads.
            points: Full names of the activations whose gradients are taken.
            held: Elements of results for each prompt.

        Raises:
            TooLargeError: One prompt does not fit.
        """
        config, attention = self.config, self.config.attention
        streams = (2 * config.n_layers + 12) * config.d_model * length
        graph = 4 * self.token // self.itemsize * length + 10 * attention.n_heads * length**2
        kept = 3 * elements(config, points, length) + 6 * rows * config.vocab_out + held
        each = self.itemsize * (streams + graph + kept)
        if each > self.limit:
            raise TooLargeError(
                f"max_memory must hold one prompt at least, which takes {each / 1e6:.3g} MB here, got "
                f"{self.limit / 1e6:.3g} MB; raise it, or take shorter prompts"
            )
        return max(1, min(self.limit // each, self.most_rows // length))

    def _pieces(self, plan: Plan, need: Need, logits_of: int | None) -> Iterator[tuple[Item, int]]:
        """Each item in pieces that fit, with what must be kept for its prompt."""
        kept: dict[int, int] = {}
        of_prompt: dict[int, list[Item]] = {}
        for item in plan.items:
            of_prompt.setdefault(item.prompt, []).append(item)
        for prompt, together in of_prompt.items():
            needs, length = need.of(plan.grid, together), plan.grid.scene.lengths[prompt]
            kept[prompt] = sum(need.bytes(names, length, self.itemsize) for names in needs)
        for item in plan.items:
            room = self.limit - self._fixed(plan) - kept[item.prompt]
            each = self._size(plan, next(item.pieces(1)), logits_of)
            most = room // each
            if not isinstance(item, PlainCells):
                most = min(most, self.most_rows // item.carried) or min(1, most)
            if most < 1:
                needed = math.ceil(self._least(self._momentary(plan) + kept[item.prompt] + each) / 1e5) / 10
                raise TooLargeError(
                    f"max_memory must hold one cell at least, which takes {needed:.1f} MB here, "
                    f"{kept[item.prompt] / 1e6:.1f} MB of it for the unpatched runs of a prompt, got "
                    f"{self.limit / 1e6:.1f} MB; raise it, or take shorter prompts"
                )
            for piece in item.pieces(most):
                yield piece, kept[item.prompt]

    def _size(self, plan: Plan, item: Item, logits_of: int | None) -> int:
        length = plan.grid.scene.lengths[item.prompt]
        if not isinstance(item, PlainCells):
            return item.held * item.carried * self.row
        logits = (length if logits_of is None else logits_of) * self.config.vocab_out
        return len(item.cells) * (length * self.token + 4 * self.itemsize * logits)

    def _fixed(self, plan: Plan) -> int:
        """Held at any time, whatever the job."""
        return HELD_CHUNKS * self.chunk + self._momentary(plan)

    def _least(self, rest: int) -> float:
        """The limit that leaves so much beside the chunks that it makes."""
        return min(rest / (1 - HELD_CHUNKS / CHUNKS), rest + HELD_CHUNKS * LARGEST_CHUNK)

    def _momentary(self, plan: Plan) -> int:
        """Held while a prompt runs by itself, and while scores are patched."""
        longest = max(plan.grid.scene.lengths, default=0)
        square = self.itemsize * self.config.attention.n_heads * longest**2
        derived = any(axis in plan.grid.labels for axis in ("q_pos", "k_pos")) or any(
            site in ("pattern", "attn_scores") for site in plan.grid.question.sites
        )
        return self.token * longest + (6 * square if derived else 0)
