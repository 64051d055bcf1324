"""From senders and receivers to the crossings that answer: which edges there are, and which need no run. Pure.

An edge belongs to a prompt, a sender, a receiver and the input by which it receives; where positions are told apart, to
the position at which the sender is patched, too. A crossing holds edges that are worked out together: of one prompt,
one input of one layer, some senders below it and some of its heads.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from pellucid.patching.grid import Grid, Question, Scene
from pellucid.patching.plan import BEHIND, SAME, UNSEEN, Joining, Plan
from pellucid.patching.selections import INPUTS, Component
from pellucid.patching.sites import Place


class PathGrid(Grid):
    """The edges: one cell for each prompt, sender, receiver and input, and each position where these are told apart.

    Args:
        scene: Model and prompts.
        senders: Who sends.
        receivers: Who receives, and by which inputs.
        through: What happens between them.
        over: `pos`, or `position` by name; None: the sender is patched at all positions at once.
    """

    def __init__(
        self,
        scene: Scene,
        senders: Sequence[Component],
        receivers: Mapping[Component, tuple[str, ...]],
        through: str = "edge",
        over: str | None = None,
    ) -> None:
        super().__init__(Question(sites=("paths",), over=() if over is None else (over,)), scene)
        self.senders, self.receivers, self.through, self.over = senders, receivers, through, over
        inputs = {name for found in receivers.values() for name in found}
        self.labels = {
            "sender": tuple(sender.label for sender in senders),
            "receiver": tuple(receiver.label for receiver in receivers),
            "input": tuple(name for name in INPUTS if name in inputs),
            **self.labels,
        }

    @cached_property
    def impossible(self) -> Bool[np.ndarray, " cell"]:
        """True, of the cells laid out flat, where there is no such edge."""
        possible = np.zeros(self.shape[1:4], bool)
        for at, (receiver, inputs) in enumerate(self.receivers.items()):
            below = [reaches(sender, receiver) for sender in self.senders]
            for name in inputs:
                possible[below, at, self.labels["input"].index(name)] = True
        lifted = possible.reshape(1, *possible.shape, *[1] * (len(self.shape) - 4))
        return ~np.broadcast_to(lifted, self.shape).ravel()

    def places(self, prompt: int) -> list[int | None]:
        """At which positions the senders of a prompt are patched; None: at all."""
        if self.over is None:
            return [None]
        if self.over == "pos":
            return list(range(len(self.labels["pos"])))
        return [places[prompt] for places in self.scene.positions.values()]


@dataclass(frozen=True, eq=False)
class Crossing(Joining):
    """Edges of one prompt into one input of one layer."""

    prompt: int
    layer: int
    """Of the receivers; the number of layers for the logits."""
    input: str
    senders: Int[np.ndarray, " sender"]
    """Their numbers among all."""
    ids: Int[np.ndarray, " head"]
    """The heads that receive; 0 for an MLP and the logits."""
    pos: int | None
    """Where the senders are patched; None: at all positions."""
    read: tuple[int, ...]
    """The positions at which what the receivers read has changed."""
    rows: tuple[int, ...]
    """Those of the stream where the edges join the walk."""
    carried: int
    """Positions that each edge carries through the layers above."""
    cells: Int[np.ndarray, " cell"]
    """Where the results belong, in the grid laid out flat: by sender, then by head."""

    @property
    def reads(self) -> tuple[int, Place]:
        """Where in the model the receivers read the stream."""
        return self.layer, "between" if self.input == "mlp" else "before"

    @property
    def joins(self) -> tuple[int, Place]:
        """Where what they make of it joins the walk."""
        return (self.layer + 1, "before") if self.input == "mlp" else (self.layer, "between")

    @property
    def held(self) -> int:
        """What the senders changed is held beside the edges, at two places."""
        return len(self.cells) + 4 * len(self.senders)

    def pieces(self, most: int) -> Iterator["Crossing"]:
        """The same edges in parts of so many at the most, by sender, and by head where that must be."""
        heads = len(self.ids)
        cells = self.cells.reshape(-1, heads)
        by_sender, by_head = max(1, most // heads), min(heads, most)
        for first in range(0, len(self.senders), by_sender):
            for head in range(0, heads, by_head):
                one, other = slice(first, first + by_sender), slice(head, head + by_head)
                yield replace(self, senders=self.senders[one], ids=self.ids[other], cells=cells[one, other].ravel())


def stage(sender: Component) -> int:
    """How high in the model a sender writes: 0 the embedding, then attention and MLP of each layer in turn."""
    return 0 if sender.kind == "embed" else 2 * sender.layer + (1 if sender.kind == "head" else 2)


def reaches(sender: Component, receiver: Component) -> bool:
    """Whether a sender writes below where a receiver reads."""
    return stage(sender) <= 2 * receiver.layer + (receiver.kind == "mlp")


def make_path_plan(grid: PathGrid) -> Plan:
    """The crossings of a grid."""
    known: Counter[str] = Counter()
    crossings: list[Crossing] = []
    flat = np.arange(int(np.prod(grid.shape))).reshape(*grid.shape[:4], -1)
    for (layer, name), together in _inputs(grid).items():
        receivers = [receiver for _, receiver in together]
        senders = np.array([at for at, s in enumerate(grid.senders) if reaches(s, receivers[0])], dtype=np.int64)
        if not len(senders):
            continue
        of = grid.labels["input"].index(name)
        for prompt in range(grid.shape[0]):
            for at, pos in enumerate(grid.places(prompt)):
                cells = flat[prompt, :, :, of, at][np.ix_(senders, np.array([where for where, _ in together]))].ravel()
                ids = np.array([receiver.index for receiver in receivers])
                found = _crossing(grid, prompt, layer, name, pos, senders, ids, cells)
                if isinstance(found, str):
                    known[found] += len(cells)
                else:
                    crossings.append(found)
    crossings.sort(key=lambda crossing: (crossing.prompt, crossing.layer))
    return Plan(grid, tuple(crossings), (), dict(known))


def _inputs(grid: PathGrid) -> dict[tuple[int, str], list[tuple[int, Component]]]:
    """The receivers of each input of each layer, with their places among all."""
    found: dict[tuple[int, str], list[tuple[int, Component]]] = {}
    for at, (receiver, inputs) in enumerate(grid.receivers.items()):
        for name in inputs:
            found.setdefault((receiver.layer, name), []).append((at, receiver))
    return found


def _crossing(
    grid: PathGrid,
    prompt: int,
    layer: int,
    name: str,
    pos: int | None,
    senders: Int[np.ndarray, " sender"],
    ids: Int[np.ndarray, " head"],
    cells: Int[np.ndarray, " cell"],
) -> Crossing | str:
    """Some edges, or the reason why they are known."""
    scene = grid.scene
    start = scene.first[prompt] if pos is None else pos
    wanted = [p for p in scene.wanted[prompt] if p >= start]
    if start < scene.first[prompt] or start >= scene.lengths[prompt]:
        return SAME
    if not wanted:
        return BEHIND
    after = tuple(range(start, wanted[-1] + 1))
    read = after if pos is None or grid.through == "all" else (pos,)
    rows = after if name in ("k", "v") else read  # keys and values reach every later query
    if layer >= scene.n_layers - 1:
        rows = tuple(p for p in rows if p in wanted)
        read = read if name in ("k", "v") else rows
    if not rows:
        return UNSEEN
    return Crossing(prompt, layer, name, senders, ids, pos, read, rows, wanted[-1] + 1 - start, cells)
