"""From the stream behind the last block to the metric of each cell.

A metric that looks at some tokens' logits reads only their columns of `W_U`; one that needs all logits gets them in
chunks of rows, which are never kept. What no row of a cell has changed is taken from the unpatched run.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.hooked_transformer import HookedTransformer
from pellucid.model.norms import widened
from pellucid.patching.runs import PromptRun
from pellucid.patching.walk import At, Group
from pellucid.tasks.metrics import RowMetric, TokenMetric
from pellucid.tasks.pairs import Pairs


class Readout:
    """Makes the metric of cells from their last stream.

    Args:
        model: Whose unembedding reads it.
        metric: A metric of rows.
        pairs: The prompts.
        last: The stream behind the last block of the clean runs, for metrics that compare with them; by prompt.
        at_once: Logits that are held at once, for metrics that need all of them.
    """

    def __init__(
        self,
        model: HookedTransformer,
        metric: RowMetric,
        pairs: Pairs,
        last: Mapping[int, Tensor] | None = None,
        *,
        at_once: int,
    ) -> None:
        self.model, self.metric, self.last, self.at_once = model, metric, last, at_once
        self.rows, self.targets = metric.rows(pairs), metric.targets(pairs)
        self.found: list[tuple[Int[Tensor, " cell"], Float[Tensor, " cell"]]] = []
        self._unpatched: dict[int, Tensor] = {}

    def unpatched(self, run: PromptRun) -> Float[Tensor, " row"]:
        """The metric of each of its rows in a prompt's unpatched run."""
        if run.index not in self._unpatched:
            self._unpatched[run.index] = self._of_rows(run)
        return self._unpatched[run.index]

    def of_run(self, run: PromptRun) -> float:
        """The metric of a run that is not patched."""
        return float(self._of_rows(run).mean())

    def seen(self, at: At, groups: Sequence[Group]) -> None:
        """Takes what a walk has behind the last block."""
        for group in groups if at[0] == self.model.config.n_layers else ():
            self.finish(group)

    def finish(self, group: Group, *, scale: Float[Tensor, "row 1"] | None = None) -> None:
        """Takes the last stream of some cells; with a scale, that of the norm is held there, at the group's rows."""
        run = group.run
        rows = self._rows(run.index)
        changed = [at for at, row in enumerate(rows) if row in set(group.rows)]
        places = {row: at for at, row in enumerate(group.rows)}
        x = group.x[:, [places[rows[at]] for at in changed]]
        scores = self.unpatched(run).expand(len(group.cells), -1).clone()
        held = None if scale is None else scale[[places[rows[at]] for at in changed]]
        scores[:, changed] = self._scores(run.index, x, changed, held)
        self.found.append((group.cells, scores.mean(1)))

    def _of_rows(self, run: PromptRun) -> Float[Tensor, " row"]:
        rows = self._rows(run.index)
        return self._scores(run.index, last_stream(run)[rows][None], range(len(rows)))[0]

    def _rows(self, prompt: int) -> list[int]:
        return [row for row in self.rows[prompt].tolist() if row >= 0]

    def _scores(
        self,
        prompt: int,
        x: Float[Tensor, "cell row d_model"],
        at: Sequence[int],
        scale: Float[Tensor, "row 1"] | None = None,
    ) -> Float[Tensor, "cell row"]:
        """The metric of some of a prompt's rows, told by their place among the metric's."""
        normed = self.model.ln_final(x) if scale is None else self.model.ln_final.held(x, scale)
        targets = self.targets[prompt, list(at)].to(x.device)
        if isinstance(self.metric, TokenMetric) and not self.metric.needs_log_z:
            picked = self._picked(normed, targets)
            scores = self.metric.combine(picked.flatten(0, 1), targets.repeat(len(x), 1), None)
            return scores.view(len(x), -1)
        flat, found = normed.flatten(0, 1), []
        reference = self._reference(prompt, at)
        size = max(1, self.at_once // self.model.config.vocab_out)
        once = self.model.unembed(reference) if reference is not None and len(reference) <= size else None
        for places in torch.arange(len(flat), device=flat.device).split(size):
            rows = places % len(at)
            beside = None
            if reference is not None:
                beside = self.model.unembed(reference[rows]) if once is None else once[rows]
            found.append(self.metric.score(self.model.unembed(flat[places]), targets[rows], beside))
        return torch.cat(found).view(len(x), -1)

    def _picked(
        self, normed: Float[Tensor, "cell row d_model"], targets: Int[Tensor, "row n"]
    ) -> Float[Tensor, "cell row n"]:
        """The logits of some tokens alone."""
        unembed, ids = self.model.unembed, targets.clamp(min=0)
        columns = unembed.W_U.T[ids]
        logits = torch.einsum("crm,rnm->crn", normed, columns)
        return widened(logits if unembed.b_U is None else logits + unembed.b_U[ids])

    def _reference(self, prompt: int, at: Sequence[int]) -> Float[Tensor, "row d_model"] | None:
        """The clean run behind the last norm, at these rows, for a metric that compares with it."""
        if not self.metric.needs_reference or self.last is None:
            return None
        rows = self._rows(prompt)
        return self.model.ln_final(self.last[prompt][[rows[i] for i in at]])


def last_stream(run: PromptRun) -> Float[Tensor, "pos d_model"]:
    """The unpatched stream behind the last block."""
    return run.old("resid_post", run.model.config.n_layers - 1)
