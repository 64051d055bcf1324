"""One page of every head in every role, which each column can sort; and the roles that only a task can tell.

In: a model, and what the zoo found. Out: a page, in which nothing is computed but means of what was measured.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pellucid.analysis.zoo_found import ALPHA, Found, HeadRow, check_test
from pellucid.analysis.zoo_roles import ZOO, roles_named
from pellucid.analysis.zoo_scores import Zoo, check_seed
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.base.record import Record
from pellucid.hooked_transformer import HookedTransformer
from pellucid.report.page import Page
from pellucid.studies.ioi_heads import roles
from pellucid.studies.ioi_prompts import Prompts
from pellucid.viz.showing import unshown
from pellucid.viz.table import sortable_table

TASK_ROLES = tuple(name for name, role in ZOO.items() if role.kind == "task")
"""Told from prompts in which one of two names is repeated (`pellucid.tasks.ioi`)."""


def task_roles(
    model: HookedTransformer,
    names: Sequence[str] = TASK_ROLES,
    *,
    prompts: Prompts | None = None,
    seed: int = 0,
    correction: str = "fdr",
    alpha: float = ALPHA,
) -> dict[str, Found]:
    """The roles of naming the indirect object, for every head: S-inhibition and backup by patching.

    Args:
        model: Model to read.
        names: Which of `TASK_ROLES`.
        prompts: None: those of the task, for this model.
        seed: Of the prompts.
        correction: As for `pellucid.analysis.zoo_scores.zoo`; prompts of one template count as one.
        alpha: As for `Measurement.significant`.

    Returns:
        By name; with a reason where the tokenizer lacks the names, or no head can play the role.

    Raises:
        UnknownNameError: There is no such role, or no such correction.
        ArgumentError: A role that is not told from this task; an argument that cannot be.

    Source: Wang et al. 2022, "Interpretability in the Wild".

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> "must be single tokens" in task_roles(model, ["name_mover"])["name_mover"].reason
        True
    """
    asked = roles_named(names)
    for role in asked:
        if role.kind != "task":
            raise ArgumentError(
                f"the role must be one of {', '.join(TASK_ROLES)}, got {role.name!r}; take zoo(model, [...])"
            )
    check_test(correction, alpha)
    check_seed(seed)
    if not asked:
        return {}
    try:
        prompts = Prompts.of(model, seed=seed) if prompts is None else prompts
    except TokenError as error:
        reason = (
            f"this model's tokenizer lacks the names: {str(error).partition(': ')[0]}"  # the pieces of each are long
        )
        return {role.name: Found(role=role, reason=reason) for role in asked}
    _, played = roles(model, prompts)
    found = {}
    for role in asked:
        one = played[role.name]
        made = Found.of(role, one.score, one.control, correction=correction, alpha=alpha, barred=one.barred)
        nobody = made.leader() is None
        found[role.name] = replace(made, share=one.share, reason=(one.reason or made.reason) if nobody else "")
    return found


def heads_page(model: str, zoo: Zoo) -> Page:
    """A page of every head in every role.

    Args:
        model: What it is called.
        zoo: What was found; with the roles of a task, if they were looked for.

    Example:
        >>> from pellucid.analysis.zoo_scores import zoo
        >>> made = heads_page("toy-induction", zoo(HookedTransformer.from_pretrained("toy-induction"), ["induction"]))
        >>> "Every head in every role" in made.html()
        True
    """
    with unshown():
        page = Page(f"Heads: {Path(model).name or model}", lead=_lead(zoo))
        _verdicts(page, zoo)
        _all(page, zoo)
        for one in zoo.found.values():
            _role(page, one)
        _made(page, zoo)
    return page


def _lead(zoo: Zoo) -> str:
    clear = [f"{_word(one)}: {', '.join(one.players()[:3])}" for one in zoo.found.values() if one.players()]
    return f"Clearly above their control: {'; '.join(clear)}." if clear else "No head is clearly above its control."


def _verdicts(page: Page, zoo: Zoo) -> None:
    page.section("Is there a head for each role?")
    rows: list[list[object]] = []
    for one in zoo.found.values():
        leader = one.leader()
        if leader is None:
            rows.append([_word(one), one.role.about, None, None, None, one.reason or "; ".join(one.bars())])
            continue
        told = [leader.head, f"{leader.score:.3f}", _chosen(one)]
        rows.append([_word(one), one.role.about, *told, _verdict(one, leader)])
    alphas = {f"{one.alpha:g}" for one in zoo.found.values()} or {f"{ALPHA:g}"}
    page.table(
        ["role", "such a head", "best head", "its score", "chosen on one half, measured on the other", "clear"],
        rows,
        "The best head of each role. Yes: above its control by what the role asks for, and with "
        f"p ≤ {', '.join(sorted(alphas))} after correction over the heads ({zoo.correction}; for what is told from "
        "weights, the farthest head of each draw). Untested: there are too few prompts to tell. The best of many looks "
        "better than it is: so one half of the prompts, or tokens, chooses it, and the other says what it measures, "
        "with a 95 % interval.",
    )


def _chosen(one: Found) -> str:
    """The best head's score where the choice does not flatter it."""
    best = one.best()
    if best is None:
        return one.how.partition(";")[0]
    low, high = (float(best.dataset[key].values.ravel()[0]) for key in ("low", "high"))
    interval = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ", once: no interval"
    return f"{best.labels[0]}: {best.values.ravel()[0]:.3f}{interval}"


def _verdict(one: Found, leader: HeadRow) -> str:
    players = one.players()
    return f"yes: {', '.join(players[:6])}" if players else leader.verdict


def _all(page: Page, zoo: Zoo) -> None:
    columns = {_word(one): one.score for one in zoo.found.values() if one.score is not None and one.score.values.size}
    page.section("Every head in every role")
    if not columns:
        page.text("There is nothing to show: no role has scores.")
        return
    means = {name: score.mean("prompt") if "prompt" in score.dims else score for name, score in columns.items()}
    n_layers, n_heads = next(iter(means.values())).shape
    names = [f"{layer}.{head}" for layer in range(n_layers) for head in range(n_heads)]
    page.figure(
        sortable_table(means, rows=names, rows_name="head"),
        "Every head's score in every role; a column's head sorts it. Means over prompts, or tokens, with their 95 % "
        "interval; copying and composition have none.",
    )


def _role(page: Page, one: Found) -> None:
    rows = one.rows()
    page.section(_word(one).capitalize() if _word(one) != "bos" else "BOS")
    if not rows:
        page.text(f"A head of this role {one.role.about}. Nothing can be said of it here: {one.reason}.")
        return
    unit = "" if one.score is None else one.score.unit
    told = f"A head of this role {one.role.about} ({unit}). Control: {one.role.control}; clear from {one.role.least:g} "
    parts = [f"{told}above it on.", f"Test: {one.how}.", *(f"No head can: {text}." for text in [one.reason] if text)]
    parts += [f"It is {one.role.note}."] if one.role.note else []
    page.text(" ".join(parts))
    names = [f"{row.head} ← {row.partner}" if row.partner else row.head for row in rows]
    caption = f"Every head as {_word(one)}. Clear: 1 is yes, 0 is no; nothing: untested, or it cannot."
    if one.test is not None and "low" in one.test.dataset:
        caption += " From, to: the 95 % interval of the score."
    if one.partners:
        caption += " Behind the arrow the earlier head that it composes with most."
    caption += "".join(f" Cannot: {why} ({', '.join(heads)})." for why, heads in one.bars().items())
    page.figure(sortable_table(_columns(one, rows), rows=names, rows_name="head", sort="score − control"), caption)


def _columns(one: Found, rows: Sequence[HeadRow]) -> dict[str, np.ndarray]:
    """What is told of each head."""
    clear = [np.nan if row.plays is None or row.barred else float(row.plays) for row in rows]
    columns = {
        "score": np.array([row.score for row in rows]),
        "control": np.array([row.control for row in rows]),
        "score − control": np.array([row.score - row.control for row in rows]),
        "clear": np.array(clear),
    }
    if one.test is not None and "low" in one.test.dataset:
        columns |= {key: np.array([getattr(row, of) for row in rows]) for key, of in (("from", "low"), ("to", "high"))}
    if one.test is not None:
        columns["corrected p"] = np.array([row.p for row in rows])
    if one.share is not None:
        columns[str(one.share.name)] = np.array([row.share for row in rows], dtype=float)
    return columns


def _made(page: Page, zoo: Zoo) -> None:
    """One line for each way in which scores were made."""
    lines: dict[str, list[str]] = {}
    for name, one in zoo.found.items():
        if one.score is not None:
            lines.setdefault(_told(one.score.record), []).append(name.replace("_", " "))
    if lines:
        page.section("How was this made?")
    for line, names in lines.items():
        page.text(f"{', '.join(names)}: {line}.")


def _told(record: Record) -> str:
    told = {name: value for name, value in record.settings.items() if value is not None and not isinstance(value, dict)}
    settings = ", ".join(f"{name} {value}" for name, value in told.items())
    made = f"Pellucid {record.version}; model {record.model}, processing: {', '.join(record.processing) or 'none'}"
    seed = "" if record.seed is None else f"; seed {record.seed}"
    return f"{made}; {record.dtype} on {record.device}{seed}; {settings}"


def _word(one: Found) -> str:
    return one.role.name.replace("_", " ")
