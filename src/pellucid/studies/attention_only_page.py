"""The report of the study of attention-only models: a story with pictures, from the question to what was found.

In: what the study found. Out: a page. Nothing is computed here but means of what was measured.
"""

import numpy as np

from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.studies.attention_only_arms import LAYERS, SETTINGS, TAKEN
from pellucid.studies.over_runs import verdict
from pellucid.studies.result import Figure, StudyResult
from pellucid.viz.attention import attention_patterns
from pellucid.viz.plots import line
from pellucid.viz.showing import unshown

HEAD = 0.1
"""An attention mass above its control by which the page speaks of a head of some role."""


def attention_only_page(result: StudyResult) -> Page:
    """The report of `pellucid.studies.attention_only.attention_only`.

    Args:
        result: What the study found.
    """
    with unshown():
        page = Page("Language models small enough to read whole", lead=_lead(result))
        for part in (_blame, _layers, _bigrams, _skip_trigrams, _heads, _maps, _taken, _grid, _made):
            part(page, result)
    return page


def verdicts(result: StudyResult) -> dict[str, str]:
    """What is answered, and what stays undecided, in a sentence each."""
    figures = result.figures
    found = {}
    for name, setting in SETTINGS.items():
        cost = figures[f"cost_of_{name}"]
        if cost.value is not None:
            found[f"Was it the {setting.words}?"] = verdict(
                cost,
                above=f"Yes: {setting.theirs} instead of {setting.ours} costs {cost.value:.3f} bits per byte.",
                below=f"No: {setting.theirs} instead of {setting.ours} gains {-cost.value:.3f} bits per byte.",
                undecided=f"Undecided: {setting.theirs} instead of {setting.ours} makes no difference that is more "
                "than what seeds make.",
            )
    found["Are there induction heads in two layers?"] = _has(figures["induction_2_layers"], "induction heads")
    found["Previous-token heads?"] = _has(figures["previous_token_2_layers"], "previous-token heads")
    found["Are skip-trigrams that the weights make in the text?"] = verdict(
        figures["skip_trigram_excess"],
        above="Yes: the text has them more often than others with the same ending.",
        below="No: the text has them less often than others with the same ending.",
        undecided="Undecided: they are not clearly more often in the text than others with the same ending.",
    )
    return found


def _has(figure: Figure, what: str) -> str:
    return verdict(
        figure,
        than=HEAD,
        above=f"Yes: the best head's score is {figure.value:.2f} above its control."
        if figure.value is not None
        else "",
        below=f"No {what} yet: the best head's score is within {HEAD} of its control.",
        undecided=f"Undecided: whether the best head's score lies {HEAD} above its control is not settled.",
    )


def _lead(result: StudyResult) -> str:
    costs = _costs(result)
    bits, bigram = (result.figures[f"bits_per_byte_{name}"] for name in ("2_layers", "0_layers"))
    worst = ", ".join(f"**{SETTINGS[name].words}** ({cost.value:+.2f})" for name, cost in costs[:3])
    made = " The text was made here by rules, since none was named." if "made" in result.record.settings["data"] else ""
    return (
        f"Two attention-only layers reach {bits.value:.2f} bits per byte, a bigram table {bigram.value:.2f}. Of the "
        f"settings in which the source differed, these cost the most (bits per byte): {worst}.{made}"
    )


def _costs(result: StudyResult) -> list[tuple[str, Figure]]:
    found = [(name, result.figures[f"cost_of_{name}"]) for name in SETTINGS]
    known = [(name, figure) for name, figure in found if figure.value is not None]
    return sorted(known, key=lambda one: -(one[1].value or 0.0))


def _blame(page: Page, result: StudyResult) -> None:
    page.section("Which setting was to blame?").text(
        "The reference, a small copy of the attention-only models of Elhage et al., is trained again with one setting "
        "as the source had it. Every run takes as many steps and tokens. The cost is in bits per byte of held-out "
        "text, which does not depend on the tokenizer. It belongs to so many steps: short rows are ahead at first, and "
        "fall behind when long ones begin to use what stands far before. The in-context cost is in the same unit: how "
        "much less the model gains from what stands before (loss late in a row minus loss early in it)."
    )
    rows = []
    for name, cost in _costs(result):
        setting, icl = SETTINGS[name], result.figures[f"icl_cost_of_{name}"]
        rows.append([setting.words, setting.ours, setting.theirs, *cost.cells(), *icl.cells()])
    heads = ["setting", "reference", "source", "cost", "95 % interval", "in-context cost", "95 % interval"]
    page.table(heads, rows, "Differences of means, with Welch's interval over seeds. Above 0: the setting costs.")
    if "path" in result.measurements:
        way = result.measurements["path"]
        names = [f"seed {run}" for run in way.dataset["run"].values]
        page.figure(
            line(
                way.values.T,
                x=way.dataset["group"].values.tolist(),
                names=names,
                xaxis="put right, one after the other",
                yaxis="bits per byte",
                title="From the source's setting to the reference",
            ),
            "Each point keeps what was put right before it: what a step gains depends on what was right. A run each.",
        )
        rows = [[label, float(x)] for label, x in zip(way.dataset["group"].values, way.values.mean(0), strict=True)]
        page.table(["put right", "bits per byte"], rows, "The same in numbers.")
    questions = [name for name in verdicts(result) if name.startswith("Was it the")]
    page.text("\n".join(f"- *{name}* {verdicts(result)[name]}" for name in questions))


def _layers(page: Page, result: StudyResult) -> None:
    page.section("What does each layer bring?")
    for suffix in _suffixes(result):
        rows = []
        for arm in LAYERS:
            figures = [
                result.figures[f"{name}_{arm.name}{suffix}"] for name in ("bits_per_byte", "perplexity", "icl_score")
            ]
            rows.append([arm.words, *(cell for figure in figures for cell in figure.cells())])
        heads = ["bits per byte", "95 % interval", "perplexity per token", "95 % interval", "in-context score (nats)"]
        page.table(
            ["", *heads, "95 % interval"],
            rows,
            f"Held-out text{_of(suffix)}; means over seeds with Student's t interval. In-context score: the loss late "
            "in a row minus the loss early in it; the more negative, the better.",
        )
        for curve, words in (("bits_per_byte", "bits per byte"), ("in_context_score", "in-context score (nats)")):
            parts = [result.measurements[f"{curve}_{arm.name}{suffix}"] for arm in LAYERS]
            page.figure(
                line(
                    np.stack([part.values.mean(0) for part in parts], axis=1),
                    x=parts[0].dataset["step"].values,
                    names=[arm.words for arm in LAYERS],
                    xaxis="step",
                    yaxis=words,
                    title=f"Held out: {words}{_of(suffix)}",
                ),
                "The mean over seeds.",
            )


def _bigrams(page: Page, result: StudyResult) -> None:
    page.section("Is no layer a bigram table?").text(
        "Without layers a model is the product of embedding and unembedding, a table of what follows each token. "
        "Beside it are the bigrams as they are counted in the training text, with what was not seen filled in "
        "(Witten and Bell 1991)."
    )
    names = ["bits_per_byte_0_layers", "bits_per_byte_counted_bigrams", "bigram_divergence", "bigram_agreement"]
    words = ["bits per byte, the model", "bits per byte, the counted bigrams"]
    words += ["divergence of the model from the counts (nats)", "share of tokens with the same most probable next one"]
    rows = [[word, *result.figures[name].cells()] for word, name in zip(words, names, strict=True)]
    page.table(["", "mean", "95 % interval"], rows, "Over seeds; the counts have none.")


def _skip_trigrams(page: Page, result: StudyResult) -> None:
    page.section("Which skip-trigrams can be read off one layer?").text(
        "A head that attends from d to s, and then raises the logit of o, says: s … d → o. These are the strongest of "
        "each head of the first run, read off its weights alone, and beside each how many times likelier o follows d "
        "in the text where s stands before than where it does not. The control has another triple's s."
    )
    read = result.measurements["skip_trigrams"].dataset
    rows = [
        [f"0.{int(read['of_head'].values[i])}", _bare(label)]
        + [_number(read[name].values[i]) for name in ("value", "control")]
        + [f"{int(read[k].values[i])} of {int(read[n].values[i])}" for k, n in (("k", "n"), ("k_without", "n_without"))]
        for i, label in enumerate(read["component"].values)
    ]
    page.table(
        ["head", "s … d → o", "times likelier", "control", "o after d behind s", "o after d without s"],
        rows,
        "Counts in the training rows. A dash: d stands there only behind s, or never.",
    )
    share, control, excess = (result.figures[f"skip_trigram_{name}"] for name in ("share", "control", "excess"))
    page.table(
        ["", "mean", "95 % interval"],
        [
            ["share of them that the text makes likelier", *share.cells()],
            ["the same with another s", *control.cells()],
            ["difference", *excess.cells()],
        ],
        "Over seeds.",
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _bare(label: str) -> str:
    return label.partition(": ")[2]


def _heads(page: Page, result: StudyResult) -> None:
    seen, part = (result.figures[name] for name in ("tokens_seen", "share_of_tokens_needed"))
    page.section("Are there induction heads?").text(
        f"Each run saw {seen.value:,.0f} tokens, {part.value:.2%} of the 2.5 billion after which the models of Olsson "
        "et al. begin to form induction heads on ordinary text. So that there are none here says nothing against two "
        "layers. The bundled model `prose-2l-mixed`, which is of the same shape, was trained for longer on text in "
        "which some passages stand twice; its card tells when its heads form."
    )
    rows = []
    for arm in LAYERS[1:]:
        for role in ("induction", "previous_token"):
            figure = result.figures[f"{role}_{arm.name}"]
            rows.append([f"{arm.words}: {role.replace('_', ' ')}", *figure.cells()])
    page.table(
        ["", "score − control", "95 % interval"],
        rows,
        "Attention mass on random tokens that stand twice, of the best head, chosen on half of the prompts and "
        "measured on the others; the control is the same stripe on tokens that do not repeat, or uniform attention.",
    )
    names = [name for name in verdicts(result) if not name.startswith("Was it the")]
    page.text("\n".join(f"- *{name}* {verdicts(result)[name]}" for name in names))


def _maps(page: Page, result: StudyResult) -> None:
    page.section("Where do the heads look, and what do they write?").text(
        f'On the text "{result.record.settings["text"]}". Heads with nothing to do rest at the first token, whatever '
        "it is: BOS where there is one, else the first word, which then looks as if it mattered. That is the trap in "
        "which a picture of a model without BOS leads."
    )
    rows = [
        [words, *result.figures[f"attention_to_first_{name}"].cells()]
        for name, words in (("1_layers", "1 layer"), ("2_layers", "2 layers"), ("2_layers_mlp", "2 layers with MLP"))
    ]
    rows.append(["2 layers, trained without BOS", *result.figures["attention_to_first_without_bos"].cells()])
    page.table(
        ["", "attention to the first token − uniform", "95 % interval"],
        rows,
        "The head with the most of it, on held-out rows, second half of each.",
    )
    called = {"1_layers": "1 layer", "2_layers": "2 layers", "cost_bos": "2 layers, trained without BOS"}
    for name, pattern in result.measurements.items():
        if name.startswith("attention_"):
            model = name.removeprefix("attention_")
            _map(page, pattern, result.measurements[f"written_{model}"], called.get(model, model))


def _map(page: Page, pattern: Measurement, written: Measurement, model: str) -> None:
    tokens = pattern.dataset["token"].values.tolist()
    layers, heads = pattern.values.shape[:2]
    names = [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
    view = attention_patterns(tokens, pattern.values.reshape(-1, *pattern.values.shape[2:]), names)
    page.figure(view, f"Attention of {model}. Rows attend to columns.")
    rows = []
    for layer in range(layers):
        for head in range(heads):
            raised = written.values[layer, head]
            for pos in np.argsort(-raised)[:2]:
                top = str(written.dataset["written"].values[layer, head, pos])
                rows.append([f"{layer}.{head}", f"{pos}: {tokens[pos]!r}", top, float(raised[pos])])
    page.table(
        ["head", "at", "raises most", "by (logits)"],
        rows,
        f"What each head of {model} writes, directly into the logits: the two positions where it says most.",
    )


def _taken(page: Page, result: StudyResult) -> None:
    rows = [[arm.words, *result.figures[f"bits_per_byte_{arm.name}"].cells()] for arm in TAKEN]
    if any(result.figures[f"bits_per_byte_{arm.name}"].value is not None for arm in TAKEN):
        page.section("Does it help to take parts of a trained model?").table(
            ["", "bits per byte", "95 % interval"], rows, "Means over seeds. What is taken stays as it is."
        )


def _grid(page: Page, result: StudyResult) -> None:
    if "source_grid" in result.measurements:
        grid = result.measurements["source_grid"]
        order = np.argsort(grid.values)
        rows = [[str(grid.dataset["group"].values[i]), float(grid.values[i])] for i in order]
        page.section("The source's whole grid").table(["settings", "bits per byte"], rows, "The best first.")


def _made(page: Page, result: StudyResult) -> None:
    settings = result.record.settings
    texts = ", ".join(f"{name} (`{source}`)" for name, source in settings["data"].items())
    page.section("How it was made").text(
        f"{result.model.capitalize()}, {settings['steps']} steps each, on {texts}. Beside the reference there is one "
        "arm for each setting, a path on which one after the other is put right, and the numbers of layers; the grid "
        "is reduced so that two cores do it in half an hour: settings are varied one at a time and along one path, not "
        "in all combinations, since combinations of nine settings would be 512. `--full` runs the source's whole grid. "
        "The source does not state its learning rate; 5e-5, the usual default of fine-tuning scripts, stands for it. "
        "Its GPT-2 and BERT tokenizers are stood for by one of 4,096 tokens, as large as so little text allows."
    )
    rows = [[name, arm, n] for name, arms in settings["runs"].items() for arm, n in arms.items()]
    page.table(
        ["text", "arm", "runs"], rows, "Every run is told by its arm and its seed, and comes out the same again."
    )


def _suffixes(result: StudyResult) -> list[str]:
    return ["" if not place else f"_{name}" for place, name in enumerate(result.record.settings["data"])]


def _of(suffix: str) -> str:
    return f" of {suffix[1:]}" if suffix else ""
