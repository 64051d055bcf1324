"""The page of a training run: its loss, and what its heads learned, over the steps.

In: what a run measured. Out: a page. Nothing is computed here but means of what was measured.
"""

from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.train.recipe import Recipe
from pellucid.viz.plots import line, plot
from pellucid.viz.showing import unshown

SMOOTHED = 100
"""About so many points a loss curve is drawn with, beside that of every step."""


def training_page(recipe: Recipe, history: Measurement, probes: dict[str, Measurement]) -> Page:
    """The report of `pellucid.train.run.train`."""
    with unshown():
        page = Page(f"Training: {recipe.steps} steps", lead=_lead(recipe, history))
        _loss(page, history, probes)
        if "head_roles" in probes:
            _heads(page, probes)
        _more(page, probes)
        page.section("How it was made").text(
            "Everything that the run depended on stands in `recipe.toml` beside this page, and `pellucid train` makes "
            "it again. `metrics.jsonl` has a line for each step; `probes` holds what was measured, as Measurements."
        )
        rows = [[key, str(value)] for key, value in _flat(recipe.to_dict()).items()]
        page.table(["setting", "value"], rows, "The whole recipe, defaults included.")
    return page


def _lead(recipe: Recipe, history: Measurement) -> str:
    losses = history.values
    last = losses[-max(1, len(losses) // 20) :].mean()
    tokens = int(history.dataset["tokens"].values.sum())
    return (
        f"{recipe.steps} steps of {recipe.batch_size} rows, {tokens:,} tokens. The loss went from {losses[0]:.3f} to "
        f"**{last:.4f}** nats (mean of the last twentieth)."
    )


def _loss(page: Page, history: Measurement, probes: dict[str, Measurement]) -> None:
    width = max(1, len(history.values) // SMOOTHED)
    n = len(history.values) // width * width
    means = history.values[:n].reshape(-1, width).mean(1)
    steps = history.dataset["step"].values[:n].reshape(-1, width)[:, -1]
    page.section("The loss").figure(
        line(means, x=steps, xaxis="step", yaxis="loss (nats)", title="Training loss"),
        f"The loss of the targets that count, each point the mean of {width} steps." if width > 1 else "Each step.",
    )
    if "loss" in probes:
        late = probes["loss"]
        values = late.values[[0, len(late.values) // 2, -1]].T
        shown = [f"step {late.dataset['step'].values[i]}" for i in (0, len(late.values) // 2, -1)]
        figure = line(values, x=late.dataset["pos"].values, names=shown, xaxis="position", yaxis="loss (nats)")
        page.figure(figure, "The loss of held-out sequences by position, at the beginning, midway, and at the end.")


def _heads(page: Page, probes: dict[str, Measurement]) -> None:
    page.section("What the heads learned").text(
        "Each curve is a head: how much of its attention lies where its role says, minus its control (the same stripe "
        "on tokens that do not repeat, or uniform attention), on prompts that the training never saw."
    )
    excess = (probes["head_roles"] - probes["head_roles_control"]).mean("prompt")
    steps = excess.dataset["step"].values
    names = [f"{layer}.{head}" for layer in excess.dataset["layer"].values for head in excess.dataset["head"].values]
    for role in excess.dataset["role"].values:
        values = excess.sel(role=role).values.reshape(len(steps), -1)
        figure = line(values, x=steps, names=names, xaxis="step", yaxis="score − control", title=str(role))
        page.figure(figure, f"The role *{role}* over the training.")


def _more(page: Page, probes: dict[str, Measurement]) -> None:
    if "in_context_score" in probes and len(probes["in_context_score"].values) > 1:
        page.section("Does it use the context?").figure(
            plot(probes["in_context_score"]),
            "The loss late in held-out sequences minus the loss early in them: the more negative, the more the model "
            "gains from what it has read.",
        )
    if "position_rank" in probes and len(probes["position_rank"].values) > 1:
        page.section("The position embedding").figure(
            plot(probes["position_rank"]),
            "In how many directions the vectors of the positions reach: the exponential of the entropy of their "
            "normalised singular values.",
        )


def _flat(values: dict[str, object], name: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        full = f"{name}.{key}" if name else key
        found |= _flat(value, full) if isinstance(value, dict) and value else {full: value}
    return found
