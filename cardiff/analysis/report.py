"""The report of a comparison: tables, figures, and every schedule in words."""

from collections.abc import Sequence

from cardiff.analysis.explain import explain
from cardiff.analysis.figures.draw import FIGURES
from cardiff.analysis.measures import DataMeasures
from cardiff.analysis.options import AnalysisOptions
from cardiff.analysis.ranking import Row
from cardiff.markup import escape


def report(rows: Sequence[Row], data: DataMeasures, options: AnalysisOptions, table: str) -> str:
    """The text of report.md.

    Args:
        rows: The schedules, in the order of the table.
        data: The data set.
        options: Solver and sampling steps of the errors.
        table: The caption and the tables as Markdown.
    """
    ours = [row.measures for row in rows if row.origin == "ours"]
    theirs = [row.measures for row in rows if row.origin != "ours"]
    text = f"# Noise schedules on this data set\n\n{table}\n## Figures\n\n"
    text += "\n\n".join(f"![{caption}]({name})\n\n{caption}" for name, caption in FIGURES.items())
    text += "\n\n## Every schedule in words\n"
    for rank, row in enumerate(rows, 1):
        words = explain(
            row.measures,
            data,
            solver=options.solver,
            steps=options.steps,
            distance=row.distance,
            others=theirs if row.origin == "ours" else ours,
            ours=row.origin == "ours",
        )
        text += f"\n**{rank}. {escape(row.measures.name)}** ({row.origin}). {words}\n"
    return text + (
        "\n## Files\n\n"
        "- `spectral.yaml`, `optimal.yaml`: scheduler sections for training, given as a second `--config`.\n"
        "- `local_error.yaml`, if a model was given: the steps that suit it, for `sample.py --timesteps_from`.\n"
        "- `fitted_SOLVER_n.yaml`, with --fit_timesteps: the same fitted to the model, for n steps of that solver.\n"
        "- `table.csv`: the tables in full precision, one row per schedule.\n"
        "- `measures.npz`: the curves; `names` (S,) and, with one row per schedule, `log_snr`, `alphas_cumprod`, "
        "`betas`, `structure`, `information_bound`, `information`, `class_information`, `recovery`, `ssim` (S, T), "
        "`octaves` (S, T, K) from the image's mean upwards and `path_kl` (S, T − 1). Information and path KL are "
        "in nats.\n"
    )
