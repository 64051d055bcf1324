"""The part of the report on contractions that puts the groups side by side: their own effects, verdicts, contrasts.

In: what the study found. Out: a section. Verdicts are read, not made.
"""

from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.studies.contractions_groups import CONTRASTS, NO_DESIGN
from pellucid.studies.contractions_pictures import group_map, rounded
from pellucid.studies.result import Figure, StudyResult

MARKS = {"shared": "=", "different": "≠", "undecided": "?"}
SKEWED = (
    "Some effects are visibly skewed: the t intervals of differences are too narrow, and *shared* is less sure than it "
    "says; *different* does not rest on them."
)


def groups(page: Page, result: StudyResult) -> None:
    """Adds the section, and says why where there is nothing to compare."""
    own = result.measurements.get("parts_by_group")
    page.section("What do groups share?")
    if own is None:
        page.text(f"Missing: {str(result.figures['parts_shared'].reason).rstrip('.')}.")
        return
    delta = float(result.record.settings["delta"])
    page.text(
        "A part is *different* if any group stands apart from the mean of the others, *shared* if each is shown to lie "
        f"within ±{delta:g} logits of it (declared beforehand), else *undecided*. All groups and parts are one family: "
        "of studies in which the groups of a frame are exchangeable, 5 % find a difference anywhere, by permutations, "
        "however skewed the effects are; a group that only spreads wider may come out different too. Which group it "
        "is, the verdict does not say: the effects of each group do, and the contrasts, which were declared beforehand "
        "and are a family too."
    )
    if any(one.record.settings.get("skewed") for one in _compared(result)):
        page.note(SKEWED, kind="warning")
    parts = [str(name) for name in own.dataset["component"].values]
    verdicts = [str(result.figures[f"groups {part}"].label) for part in parts]
    page.figure(
        group_map(
            own,
            title="The effect of each part in each group",
            labels=[f"{MARKS.get(word, '')} {part}" for word, part in zip(verdicts, parts, strict=True)],
        ),
        "Each part patched alone, in logits, on one scale; the mouse tells the intervals, each group by itself. "
        "= shared, ≠ different, ? undecided. Heads are those that matter most over all groups.",
    )
    asked = [name for name in CONTRASTS if f"{name} {parts[0]}" in result.figures]
    words = _asked(result, len(asked))
    rows = [[part, *(_cell(result.figures[f"{name} {part}"]) for name in ("groups", *asked))] for part in parts]
    page.table(
        ["part", "farthest from the others", *words],
        rows,
        "Differences in logits, with t intervals that are corrected for there being many; *different* rests on "
        "permutations, so that an interval may say otherwise. Undecided ones with the frames that would decide, by t.",
    )
    if not asked:
        page.text(f"The contrasts are missing: {NO_DESIGN}.")


def _compared(result: StudyResult) -> list[Measurement]:
    return [result.measurements[name] for name in ("groups_compared", "contrasts") if name in result.measurements]


def _asked(result: StudyResult, n: int) -> list[str]:
    return [str(name) for name in result.measurements["contrasts"].dataset["group"].values] if n else []


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return f"— {figure.reason}"
    ends = "" if figure.low is None else f" [{rounded(figure.low, 2)}, {rounded(figure.high, 2)}]"
    needed = f" ({figure.reason})" if figure.label == "undecided" else ""
    return f"{rounded(figure.value, 2)}{ends} *{figure.label}*{needed}"
