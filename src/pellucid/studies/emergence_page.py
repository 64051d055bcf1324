"""The report of the study of emergence: a story with pictures, from the question to what was found.

In: what the study found. Out: a page. Nothing is computed here but means of what was measured.
"""

from collections.abc import Sequence

import numpy as np

from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.studies.emergence_arms import ARMS, DECAYS, LONGEST, NEVER_TRAINED, OFFSET, ONE_HEAD, Arm
from pellucid.studies.over_runs import verdict
from pellucid.studies.result import StudyResult
from pellucid.viz.attention import attention_patterns
from pellucid.viz.plots import line, plot
from pellucid.viz.showing import unshown


def emergence_page(result: StudyResult) -> Page:
    """The report of `pellucid.studies.emergence.emergence`.

    Args:
        result: What the study found.
    """
    with unshown():
        page = Page("How induction heads form", lead=_lead(result))
        for part in (_forming, _moments, _fixed, _breaking_off, _positions, _translation, _made):
            part(page, result)
    return page


def verdicts(result: StudyResult) -> dict[str, str]:
    """What is answered, and what stays undecided, in a sentence each."""
    figures = result.figures
    return {
        "Do the diagonals break off?": verdict(
            figures["share_that_break_off"],
            than=0.5,
            above=f"Yes, in {figures['share_that_break_off'].label} runs with a previous-token head: most do.",
            below=f"No, in {figures['share_that_break_off'].label} runs with a previous-token head: few do.",
            undecided="Undecided: whether most do is not settled by these runs.",
        ),
        "Is it since late positions need no coding?": verdict(
            figures["break_off_moved_by_random_offset"],
            above=f"Yes: where the repetition begins up to {OFFSET} tokens later, so that later positions do need it, "
            "the diagonal breaks off later.",
            below="No: with random offsets it breaks off earlier.",
            undecided="Undecided: these runs do not settle whether random offsets move the place where it breaks off.",
        ),
        "Does it break off earlier where all periods are shorter?": verdict(
            figures["break_off_moved_by_short_periods"],
            above="No: it breaks off later.",
            below=f"Yes: with periods up to {LONGEST * 2 // 3} it breaks off earlier.",
            undecided="Undecided: these runs do not settle whether shorter periods move the place.",
        ),
        "Do rotary positions keep the diagonal?": verdict(
            figures["last_third_raised_by_rotary"],
            above="Yes: with rotary positions the score in the last third is higher.",
            below="No: it is lower.",
            undecided="Undecided: the interval of the difference holds 0, or there is none.",
        ),
        "Does weight decay lower the effective rank of the position embedding?": verdict(
            figures["effective_rank_moved_by_decay_strong"],
            above="No: it rises.",
            below="Yes: with strong decay of the position embedding alone it reaches in fewer directions.",
            undecided="Undecided: the interval of the difference holds 0, or there is none.",
        ),
        "Does weight decay make the diagonals break off?": verdict(
            figures["last_third_moved_by_decay_strong"],
            above="No: with strong decay the last third's score is higher.",
            below="In part: with strong decay the last third's score is lower.",
            undecided="Undecided: with strong decay and without, the last third's score is alike within the interval.",
        ),
    }


def _lead(result: StudyResult) -> str:
    one, four = (result.figures[f"share_with_induction{suffix}"] for suffix in ("", "_four_heads"))
    step = result.figures["phase_step_median"]
    width = result.figures["phase_width_median"]
    when = ""
    if step.value is not None and width.value is not None:
        when = f" The head forms at step {step.value:.0f}, within some {width.value:.0f} steps (medians)."
    return (
        "Two layers were trained from scratch on random tokens that repeat with a random period. With one head a layer "
        f"**{one.label}** runs ended with an induction head, with four heads **{four.label}**.{when}"
    )


def _forming(page: Page, result: StudyResult) -> None:
    periods = ", ".join(map(str, NEVER_TRAINED))
    page.section("Do they appear, and when?").text(
        "A run is said to have an induction head if its stripe is clearly above the control (the same stripe on tokens "
        f"that do not repeat), at periods that were never trained ({periods}) and for a later beginning, and falls "
        "below half when the previous-token heads under it write nothing. It has a previous-token head if, "
        "over the positions where induction needs one, the attention one back is 0.3 or more above uniform. The phase "
        "change is at the step where the induction head reaches half of its final score; its width, the steps in which "
        "it would get there from nothing at its steepest."
    )
    names = ["share_with_induction", "share_with_previous_token", "phase_step_median", "phase_width_median"]
    names += ["induction_score", "induction_control", "induction_without_previous_token", "loss_at_end"]
    words = ["share with an induction head", "share with a previous-token head", "phase: step, median"]
    words += ["phase: width, median", "induction score", "its control", "the same without previous-token heads"]
    words += ["training loss at the end"]
    rows = []
    for word, name in zip(words, names, strict=True):
        one, four = (result.figures[f"{name}{suffix}"] for suffix in ("", "_four_heads"))
        rows.append([word, *one.cells(), *four.cells(), one.unit])
    page.table(
        ["", "1 head", "95 % interval", "4 heads", "95 % interval", "unit"],
        rows,
        "Shares with Wilson's interval, medians with that of order statistics, means with Student's t, over runs.",
    )
    for arm in ("one_head", "four_heads"):
        _seeds(page, result.measurements[f"found_{arm}"], ARMS[arm])
        for name, words in (("induction", "induction score − control"), ("previous", "previous token − uniform")):
            _curves(page, result.measurements[f"{name}_{arm}"], f"{words}, {ARMS[arm].words}", words)
        _curves(page, result.measurements[f"loss_{arm}"], f"Training loss, {ARMS[arm].words}", "loss (nats)")


def _seeds(page: Page, found: Measurement, arm: Arm) -> None:
    told = found.dataset
    names = ["phase_step", "phase_width", "score", "control", "without", "previous_score", "loss_at_end"]
    rows = [
        [
            f"seed {seed}",
            *("yes" if has[i] else "no" for has in (found.values, told["previous_found"].values)),
            *(_number(told[name].values[i]) for name in names),
        ]
        for i, seed in enumerate(told["run"].values)
    ]
    heads = [
        "induction head",
        "previous-token head",
        "step",
        "width",
        "score",
        "control",
        "without",
        "previous",
        "loss",
    ]
    page.table(
        ["", *heads],
        rows,
        f"Each run, {arm.words}: has it the heads; at which step the induction head forms, and within how many; its "
        "score, its control, and its score without previous-token heads; the score of the previous-token head; the "
        "training loss at the end.",
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _curves(page: Page, measured: Measurement, title: str, yaxis: str) -> None:
    names = [f"seed {seed}" for seed in measured.dataset["run"].values]
    figure = line(
        measured.values.T, x=measured.dataset["step"].values, names=names, xaxis="step", yaxis=yaxis, title=title
    )
    page.figure(figure, f"{title}: each line is a run with another seed, the best head of its end.")


def _moments(page: Page, result: StudyResult) -> None:
    patterns = result.measurements["patterns"]
    tokens = [f" {token}" for token in patterns.dataset["token"].values]
    page.section("What does it look like?").text(
        "The attention of both layers' heads in the first run, on one sequence of period 16, at "
        f"{len(patterns.values)} moments: before, while and after the head forms. In the end layer 0 draws a line "
        "right below the diagonal, and layer 1 a stripe from each token to what followed it in the copies before."
    )
    for step, values in zip(patterns.dataset["step"].values, patterns.values, strict=True):
        names = [f"{layer}.{head}" for layer in range(values.shape[0]) for head in range(values.shape[1])]
        view = attention_patterns(tokens, values.reshape(-1, *values.shape[2:]), names)
        page.figure(view, f"Attention at step {step}. Rows attend to columns.")


def _fixed(page: Page, result: StudyResult) -> None:
    page.section("Why not one fixed period?").text(
        "With one period a model can look back by so many positions, whatever stands there: one layer is enough. At "
        "other periods it then knows nothing, and its stripe is as strong where nothing repeats."
    )
    rows = []
    for arm in ("fixed_one_layer", "fixed_two_layers"):
        for name, words in (
            ("accuracy", "accuracy at its own period"),
            ("accuracy_elsewhere", "accuracy at other periods"),
            ("score", "induction score at its own period"),
            ("control", "the same stripe where nothing repeats"),
        ):
            figure = result.figures[f"{arm}_{name}"]
            rows.append([f"{ARMS[arm].words}: {words}", *figure.cells(), figure.unit])
    figure = result.figures["random_period_accuracy_elsewhere"]
    rows.append([f"{ONE_HEAD.words}: accuracy at other periods", *figure.cells(), figure.unit])
    page.table(["", "mean", "95 % interval", "unit"], rows, "Means over runs.")


def _breaking_off(page: Page, result: StudyResult) -> None:
    page.section("Do the diagonals break off after a third?").text(
        f"The guess: positions late in the sequence never need coding, since the first copy ends by position "
        f"{LONGEST}, and only there does a token have to be told by which one it followed. Then the previous-token "
        "head's diagonal must end where first copies end: earlier with shorter periods, later where the repetition may "
        "begin later."
    )
    arms = ["one_head", "four_heads", "short_periods", "random_offset", "rotary"]
    rows = []
    for arm in arms:
        suffix = "" if arm == "one_head" else f"_{arm}"
        parts = [result.figures[f"{name}{suffix}"] for name in ("score_first_third", "score_last_third")]
        often, off = (result.figures[f"{name}{suffix}"] for name in ("share_that_break_off", "break_off_position"))
        rows.append([ARMS[arm].words, *parts[0].cells(), *parts[1].cells(), often.label, *off.cells()])
    heads = ["first third", "95 % interval", "last third", "95 % interval", "breaks off", "at position"]
    page.table(
        ["", *heads, "95 % interval"],
        rows,
        "The previous-token head's score (attention one back − uniform) in the first and the last third of the "
        "positions; in how many runs with such a head the step down that fits the scores best falls below half, and "
        "where that step lies.",
    )
    values = np.stack([result.measurements[f"previous_by_pos_{arm}"].values.mean(0) for arm in arms], axis=1)
    places = result.measurements["previous_by_pos_one_head"].dataset["pos"].values
    names = [ARMS[arm].words for arm in arms]
    page.figure(
        line(values, x=places, names=names, xaxis="position", yaxis="one back − uniform", title="Score by position"),
        f"The mean over runs. The longest first copy ends at position {LONGEST}, with random offsets at "
        f"{LONGEST + OFFSET}, with short periods at {LONGEST * 2 // 3}.",
    )
    _answers(page, result, list(verdicts(result))[:4])


def _positions(page: Page, result: StudyResult) -> None:
    page.section("What does the position embedding look like?").text(
        "Its effective rank is the exponential of the entropy of its normalised singular values: in how many "
        "directions the vectors of positions reach. Weight decay acts on this matrix alone, in two arms."
    )
    names = ["one_head", *DECAYS, "random_offset"]
    rows = []
    for name in names:
        suffix = "" if name == "one_head" else f"_{name}"
        parts = (f"effective_rank_position{suffix}", f"norm_first_third{suffix}", f"norm_last_third{suffix}")
        rows.append([ARMS[name].words, *(cell for part in parts for cell in result.figures[part].cells())])
    heads = ["effective rank", "95 % interval", "norm, first third", "95 % interval", "norm, last third"]
    page.table(["", *heads, "95 % interval"], rows, "Means over runs.")
    for title, key, axis in (
        ("Singular values", "singular_values", "component"),
        ("Norm by position", "norm_by_pos", "pos"),
    ):
        values = np.stack([result.measurements[f"{key}_{name}"].values.mean(0) for name in names], axis=1)
        words = [ARMS[name].words for name in names]
        page.figure(line(values, names=words, xaxis=axis, yaxis=title, title=title), f"{title}, the mean over runs.")
    for name in ("one_head", "decay_strong"):
        page.figure(
            plot(result.measurements[f"gram_{name}"], title=f"Gram matrix, {ARMS[name].words}"),
            "Products of the vectors of any two positions, the mean over runs: what two positions have in common.",
        )
    _answers(page, result, list(verdicts(result))[4:])


def _translation(page: Page, result: StudyResult) -> None:
    page.section("Does an encoder–decoder need an induction head?").text(
        "The same task as a translation: an encoder reads the tokens, a decoder writes them again. With spatial noise "
        "blanks stand among them at random places, so that a token's place in the answer does not tell its place in "
        "the source. Attention is silenced kind by kind, in every layer, to see what the task needs."
    )
    rows = []
    for name, words in (
        ("accuracy", "accuracy"),
        ("answer_mass", "cross-attention to the place of the token to be written (best head)"),
        ("last_mass", "cross-attention to the place of the token written last (best head)"),
        ("uniform", "uniform attention"),
        ("accuracy_without_decoder_attention", "accuracy without the decoder's own attention"),
        ("accuracy_without_encoder_attention", "accuracy without the encoder's attention"),
        ("accuracy_without_cross_attention", "accuracy without cross-attention"),
    ):
        plain, noisy = (result.figures[f"{arm}_{name}"] for arm in ("encoder_decoder", "encoder_decoder_blanks"))
        rows.append([words, *plain.cells(), *noisy.cells()])
    page.table(["", "no noise", "95 % interval", "spatial noise", "95 % interval"], rows, "Means over runs.")
    page.text(" ".join(needs(result)))
    for arm in ("encoder_decoder", "encoder_decoder_blanks"):
        measured = result.measurements[f"cross_pattern_{arm}"]
        for layer in measured.dataset["layer"].values:
            page.figure(
                plot(measured.sel(layer=layer, head=0), title=f"Cross-attention, layer {layer}, {ARMS[arm].words}"),
                "Rows: tokens that the decoder writes; columns: places in the source. The first run's first sequence.",
            )


def needs(result: StudyResult) -> list[str]:
    """Whether the encoder–decoder's decoder needs attention of its own, without which it has no induction head."""
    found = []
    for arm, words in (("encoder_decoder", "Without noise"), ("encoder_decoder_blanks", "With spatial noise")):
        whole, without = (result.figures[f"{arm}_{name}"].value for name in ("accuracy", f"accuracy_{_SELF}"))
        if whole is None or without is None or whole < 0.5:
            found.append(f"{words} it does not solve the task, so that nothing can be said of what it needs.")
        elif without > 0.9 * whole:
            found.append(f"{words} it does as well without the decoder's own attention: no induction head is needed.")
        else:
            found.append(
                f"{words} it needs the decoder's own attention: accuracy falls from {whole:.2f} to {without:.2f}."
            )
    return found


_SELF = "without_decoder_attention"


def _made(page: Page, result: StudyResult) -> None:
    settings = result.record.settings
    page.section("How it was made").text(
        f"{result.model.capitalize()}, {settings['steps']} steps each. Every run is told by the name of its arm and "
        "its seed, and comes out the same again on the same kind of machine. The recipes stand in `result.json`."
    )
    rows = [[_named(arm), arm.words, settings["runs"][arm.name]] for arm in ARMS.values()]
    page.table(["arm", "what it is", "runs"], rows, "Each arm differs from the first as its words say.")


def _answers(page: Page, result: StudyResult, questions: Sequence[str]) -> None:
    found = verdicts(result)
    page.text("\n".join(f"- *{question}* {found[question]}" for question in questions))


def _named(arm: Arm) -> str:
    return arm.name.replace("_", " ")
