"""The report of a comparison: findings in words, tables and figures."""

import logging
from pathlib import Path

import numpy as np

from cardiff.distributed import on_main, this_process, wait_for_everyone
from cardiff.evaluation.compare import differences
from cardiff.evaluation.compare.candidates import Candidate, Setting, Trial, base_setting, best_setting
from cardiff.evaluation.compare.comparison import Comparison
from cardiff.evaluation.estimator import Measured
from cardiff.evaluation.options import CompareOptions
from cardiff.evaluation.reports.comparison_figures import draw_curves, draw_grids, draw_steps
from cardiff.evaluation.reports.evaluation import (
    EXTREMES,
    arrow,
    as_html,
    as_json,
    data_name,
    metric_name,
    save_text,
    summary,
)
from cardiff.evaluation.reports.figures import MANY_CLASSES
from cardiff.evaluation.reports.wording import EXPLAINED, contradictions, interval, number
from cardiff.files import remove
from cardiff.markup import escape, fenced
from cardiff.outputs import owned

logger = logging.getLogger(__name__)


def run(options: CompareOptions) -> Path:
    """Compare the runs and return the folder with the report.

    Raises:
        UserError: Options, runs, data or networks that cannot be used or compared.
    """
    options.check()
    output, state = Path(options.output), this_process()
    with owned(output, state.is_main_process):
        comparison = Comparison(options)
        comparison.run()
        real = comparison.protocol.measure_real(comparison.counts[-1])
        on_main(lambda: write_comparison(comparison, real))
        if state.is_main_process and not options.keep_images:
            remove(output / "images")
        wait_for_everyone()
    return output


def write_comparison(comparison: Comparison, real: Measured | None) -> None:
    """Write comparison.json, report.md, report.html and the figures, from the main process alone.

    Args:
        comparison: What was measured.
        real: The measurement of held-out real images, if there are any.
    """
    protocol, output = comparison.protocol, comparison.output
    rank_by = comparison.options.rank_by
    total = comparison.counts[-1]
    best = {e.name: best_setting(e, rank_by, protocol.names[rank_by], total) for e in comparison.candidates}
    record = {
        "runs": {e.name: [model.record for model in e.models] for e in comparison.candidates},
        "settings": [_entry(e, *item) for e in comparison.candidates for item in e.trials.items()],
        "first_round": [_entry(e, *item) for e in comparison.candidates for item in e.first.items()],
        "best": {name: str(setting) for name, setting in best.items()},
        "held_out": None if real is None else summary([real.estimates]),
        "held_out_images": None if real is None else real.count,
        "counts": comparison.counts,
        "sampling_seeds": comparison.seeds,
        **({"sampling": comparison.precision} if comparison.precision else {}),
        "protocol": protocol.record(),
    }
    save_text(output / "comparison.json", as_json(record) + "\n")
    text = "\n".join(_sections(comparison, best, record))
    save_text(output / "report.md", text)
    save_text(output / "report.html", as_html(text, output, "Cardiff: comparison"))
    for warning in _warnings(comparison):
        logger.warning("%s", warning)


def _entry(candidate: Candidate, setting: Setting, trials: list[Trial]) -> dict:
    """A setting's line in comparison.json."""
    return {
        "run": candidate.name,
        **vars(setting),
        "images": trials[0].count,
        "trials": len(trials),
        "evaluations": trials[0].evaluations,
        "metrics": summary([trial.estimates for trial in trials]),
        "warnings": _contradictions(trials),
    }


def _contradictions(trials: list[Trial]) -> list[str]:
    """Warnings about the figures of a setting."""
    return contradictions(
        {name: found["value"] for name, found in summary([trial.estimates for trial in trials]).items()}
    )


def _warnings(comparison: Comparison) -> list[str]:
    """Warnings about all settings, each with its run and setting."""
    return [
        f"{candidate.name} ({setting}): {sentence}"
        for candidate in comparison.candidates
        for setting, trials in candidate.trials.items()
        for sentence in _contradictions(trials)
    ]


def _sections(comparison: Comparison, best: dict[str, Setting], record: dict) -> list[str]:
    protocol, output, candidates = comparison.protocol, comparison.output, comparison.candidates
    data = protocol.reference.record["data"]
    names = " and ".join(candidate.called for candidate in candidates)
    lines = [f"# Comparison of {names}", ""]
    lines += [
        f"{comparison.counts[-1]:,} images of each setting against {data['images']:,} images of {data_name(data)}, "
        f"split {escape(data['split'])}, in the features of {escape(protocol.network.name)}. Image i of every setting "
        f"starts from the same noise; classes are as frequent as in the data. {differences.training_cost(comparison)}",
        "",
        "## Findings",
        "",
        *_findings(comparison, best),
        *(line for warning in _warnings(comparison) for line in (f"**Warning.** {escape(warning)}", "")),
        *_final_table(comparison, best, record),
        "",
    ]
    draw_curves(comparison, output / "curves.png")
    lines += ["![Every metric over the guidance scale](curves.png)", ""]
    lines += [_caption(comparison), ""]
    if draw_steps(comparison, best, output / "steps.png"):
        lines += ["![Every metric over the network evaluations an image](steps.png)", ""]
    if comparison.options.keep_images or _have_images(candidates):
        draw_grids(comparison, best, output / "grid.png")
        lines += ["## The same noise", "", "![Images from the same noise](grid.png)", ""]
    lines += _class_section(comparison, best)
    if len(comparison.counts) > 1:
        lines += ["## All settings", "", *_first_table(comparison), ""]
    lines += ["## Metrics", ""]
    lines += [f"- {metric_name(protocol, name)}: {EXPLAINED[name]}" for name in protocol.names]
    told = ("runs", "counts", "sampling_seeds", "sampling", "protocol")
    shown = {name: record[name] for name in told if name in record}
    return [*lines, "", "## Protocol", "", *fenced("json", as_json(shown)), ""]


def _findings(comparison: Comparison, best: dict[str, Setting]) -> list[str]:
    """Every run against the last one, at the common and at the best settings; then guidance and memorisation."""
    *others, last = comparison.candidates
    said = []
    for candidate in others:
        pairs = [(base_setting(candidate), base_setting(last)), (best[candidate.name], best[last.name])]
        for ours, theirs in dict.fromkeys(pairs):
            said += differences.sentences(comparison, candidate, ours, last, theirs)
    for candidate in comparison.candidates:
        for sentence in (
            differences.guidance_sentence(comparison, candidate),
            _copies(candidate, best[candidate.name]),
        ):
            said += [] if sentence is None else [sentence, ""]
    return said


def _copies(candidate: Candidate, setting: Setting) -> str | None:
    """Memorisation at the best setting."""
    found = [trial.memorisation for trial in candidate.trials[setting] if trial.memorisation is not None]
    return f"**Memorisation**, {candidate.called} ({setting}): {found[0]['sentence']}" if found else None


def _final_table(comparison: Comparison, best: dict[str, Setting], record: dict) -> list[str]:
    """Table of the settings that were measured at the full number of images."""
    protocol = comparison.protocol
    names = list(protocol.names)
    heads = ["run", "setting", "evaluations", *(f"{metric_name(protocol, n)} {arrow(protocol, n)}" for n in names)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for candidate in comparison.candidates:
        for setting, trials in candidate.trials.items():
            if trials[0].count == comparison.counts[-1]:
                label = f"**{setting}**" if setting == best[candidate.name] else str(setting)
                lines.append(f"| {' | '.join([candidate.called, label, *_cells(trials, names)])} |")
    if record["held_out"] is not None:
        cells = [f"{number(record['held_out'][n]['value'])}" if n in record["held_out"] else "" for n in names]
        lines.append(f"| real images, held out | {record['held_out_images']:,} images | | {' | '.join(cells)} |")
    most = max(len(found) for e in comparison.candidates for found in e.trials.values())
    spread = (
        f"Means and standard deviations over {most} trainings or seeds."
        if most > 1
        else "In brackets the 95% interval of each figure, for these images."
    )
    by = metric_name(protocol, comparison.options.rank_by)
    said = f"{spread} In bold the best of each run by {by}."
    measured = [trial for candidate in comparison.candidates for found in candidate.trials.values() for trial in found]
    if any(name not in trial.estimates for trial in measured for name in names):
        said += " Where a cell is empty, samples have no labels or too few of them are of one class."
    return [*lines, "", said]


def _cells(trials: list[Trial], names: list[str]) -> list[str]:
    cells = [f"{trials[0].network_evaluations:g}" if trials[0].evaluations else ""]
    for name in names:
        found = [trial.estimates[name] for trial in trials if name in trial.estimates]
        if not found:
            cells.append("")
        elif len(found) > 1:
            values = np.array([estimate.value for estimate in found])
            cells.append(f"{number(values.mean())} ± {number(values.std(ddof=1))}")
        else:
            cells.append(f"{number(found[0].value)} ({interval(found[0].to_dict(), name)})")
    return cells


def _first_table(comparison: Comparison) -> list[str]:
    """Table of all settings, at the number of images of the first round."""
    protocol, names = comparison.protocol, list(comparison.protocol.names)
    heads = ["run", "setting", "evaluations", *(f"{metric_name(protocol, n)} {arrow(protocol, n)}" for n in names)]
    lines = [f"At {comparison.counts[0]:,} images; the better half continued.", ""]
    lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for candidate in comparison.candidates:
        for setting, trials in candidate.first.items():
            lines.append(f"| {' | '.join([candidate.called, str(setting), *_cells(trials, names)])} |")
    return lines


def _caption(comparison: Comparison) -> str:
    bars = "Bars are 95% intervals of the figure for these images"
    if max(len(e.models) * len(comparison.seeds) for e in comparison.candidates) > 1:
        bars = "Bars are standard deviations over trainings or seeds"
    return f"*All settings at {comparison.counts[0]:,} images each. {bars}; a run without labels is a level line.*"


def _have_images(candidates: list[Candidate]) -> bool:
    return all(
        trial.folder.is_dir() for candidate in candidates for trials in candidate.trials.values() for trial in trials
    )


def _class_section(comparison: Comparison, best: dict[str, Setting]) -> list[str]:
    """Per-class gains of the first run over the last, each at its best."""
    ours, theirs = comparison.candidates[0], comparison.candidates[-1]
    first, second = ours.trials[best[ours.name]], theirs.trials[best[theirs.name]]
    if ours is theirs or not first[0].per_class or not second[0].per_class:
        return []
    rows = [row for row in differences.class_gains(first, second) if row["gain"] is not None]
    if not rows:
        return []
    rows.sort(key=lambda row: -row["gain"])
    heads = ["class", *(f"{what}, {e.called}" for what in ("images", "distance", "diversity") for e in (ours, theirs))]
    lines = ["## Classes", ""]
    won = sum(row["gain"] > 0 for row in rows)
    lines += [
        f"{ours.called} ({best[ours.name]}) is nearer to the real images of its class than {theirs.called} "
        f"({best[theirs.name]}) in {won} of {len(rows)} classes; the largest gain is in {escape(rows[0]['class'])}, "
        f"the smallest in {escape(rows[-1]['class'])}. Distance is the kernel distance to the real images of the "
        "class. A sample counts for the requested class or, drawn without labels, the one that it is classified as.",
        "",
    ]
    if len(first[0].per_class) > len(rows):
        lines += [
            f"The other {len(first[0].per_class) - len(rows)} classes have fewer than two samples or real images on "
            "one side.",
            "",
        ]
    if len(rows) > MANY_CLASSES:
        lines += [f"Here are the {EXTREMES} with the largest gain and the {EXTREMES} with the smallest.", ""]
        rows = [*rows[:EXTREMES], *rows[-EXTREMES:]]
    lines += [
        f"| {' | '.join([*heads, 'gain in distance'])} |",
        "|" + "---|" * (len(heads) + 1),
    ]
    for row in rows:
        cells = [escape(row["class"])]
        for what in ("images", "distance", "diversity"):
            for side in ("first", "second"):
                value = row[f"{side}_{what}"]
                cells.append("" if value is None else f"{value:g}" if what == "images" else number(value))
        lines.append(f"| {' | '.join([*cells, number(row['gain'])])} |")
    return [*lines, ""]
