"""The documentation holds: quoted code is the code, links and configurations exist, formulas and numbers are right."""

import csv
import json
import re
import textwrap
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.training_utils import EMAModel
from scipy.stats import ttest_1samp

from benchmarks import (
    cars_schedules,
    reliability,
    schedule_front,
    schedule_pilot,
    schedule_steps,
    step_bench,
    step_designs,
)
from cardiff.analysis.analyze import load_images
from cardiff.analysis.catalogue import choose_schedules
from cardiff.analysis.measures import DataMeasures, measure_data, measure_schedule, merged
from cardiff.analysis.optimum import point_of
from cardiff.analysis.ranking import Row
from cardiff.analysis.spectra import fit_gaussian, octave_arguments
from cardiff.analysis.spectral_design import designed_levels
from cardiff.analysis.tables import table_columns
from cardiff.config.schedules_by_name import alphas_cumprod_of, section_of
from cardiff.config.sections import DataConfig
from cardiff.diffusion.levels import log_snr_of
from cardiff.diffusion.loss import loss_weights, prediction_target
from cardiff.evaluation.compare.candidates import Setting
from cardiff.evaluation.reports.wording import interval, number
from cardiff.schedulers import SCHEDULES
from cardiff.training.power_average import combination
from tests.support.example_schedules import example

ROOT = Path(__file__).parent.parent
REVERSE_PROCESS = ROOT / "docs/reverse_process.md"
QUOTING = [path for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))] if path.exists()]
MARKDOWN = sorted(
    path
    for path in {*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/**/*.md")}
    if path.relative_to(ROOT).parts[0] != "runs" and not path.relative_to(ROOT).parts[0].startswith(".")
)
QUOTE = re.compile(r"<!-- quote: (\S+) -->\n```python\n(.*?)\n```$", re.DOTALL | re.MULTILINE)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Quotes, links and paths.


def quote_problem(quote: str, source: str) -> str | None:
    """None if the quote is consecutive lines of the source, up to a uniform indent; else where it first differs."""
    wanted, lines = textwrap.dedent(quote).split("\n"), source.split("\n")
    best, problem = -1, None
    for first in range(len(lines) - len(wanted) + 1):
        found = textwrap.dedent("\n".join(lines[first : first + len(wanted)])).split("\n")
        if found == wanted:
            return None
        same = sum(a == b and bool(a) for a, b in zip(wanted, found))
        if same > best:
            k = next(k for k, (a, b) in enumerate(zip(wanted, found)) if a != b)
            best, problem = same, f"at line {first + k + 1} of it\n  quoted: {wanted[k]!r}\n  is now: {found[k]!r}"
    return problem or "it is longer than the file"


def all_quotes():
    for document in QUOTING:
        text = document.read_text()
        for match in QUOTE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield pytest.param(document, line, match[1], match[2], id=f"{document.name}:{line}")


@pytest.mark.parametrize("document, line, name, quote", list(all_quotes()))
def test_quotes_are_the_code(document, line, name, quote):
    assert (ROOT / name).is_file(), f"{relative(document)}:{line} quotes {name}, which does not exist."
    problem = quote_problem(quote, (ROOT / name).read_text())
    assert problem is None, f"{relative(document)}:{line}: the quote is not in {name}; {problem}"


@pytest.mark.parametrize("document", QUOTING, ids=relative)
def test_every_quote_comment_is_read(document):
    text = document.read_text()
    assert text.count("<!-- quote:") == len(QUOTE.findall(text)), "a quote comment is not followed by a python block"


def test_quotes_exist():
    assert len(QUOTE.findall(REVERSE_PROCESS.read_text())) >= 12


def test_a_changed_quote_is_noticed():
    source = "def f():\n    if x:\n        y = 1\n\n    return y\n"
    assert quote_problem("if x:\n    y = 1\n\nreturn y", source) is None
    assert "is now: 'return y'" in quote_problem("if x:\n    y = 1\n\nreturn z", source)
    assert quote_problem("if x:\ny = 1", source) is not None
    assert quote_problem("if x:\n    return y", source) is not None


@pytest.mark.parametrize("document", MARKDOWN, ids=relative)
def test_links_and_images_exist(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(
        r"<(?:img|a)[^>]*(?:src|href)=[\"']([^\"']+)", text
    )
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    missing = [target for target in local if not (document.parent / target).exists()]
    assert not missing, f"{relative(document)} links to {missing}"


@pytest.mark.parametrize("document", QUOTING, ids=relative)
def test_tables_are_the_files_that_the_benchmarks_wrote(document):
    text = document.read_text()
    tables = re.findall(r"<!-- begin (\S+) -->\n(.*?)<!-- end -->", text, flags=re.DOTALL)
    assert len(tables) == text.count("<!-- begin ") == text.count("<!-- end -->")
    for name, table in tables:
        assert table.strip() == (ROOT / name).read_text().strip(), f"{relative(document)}: {name} has changed."


@pytest.mark.parametrize("document", MARKDOWN, ids=relative)
def test_configurations_exist(document):
    mentioned = set(re.findall(r"\bconfigs/[\w./-]+\.ya?ml", document.read_text()))
    missing = sorted(name for name in mentioned if not (ROOT / name).is_file())
    assert not missing, f"{relative(document)} mentions {missing}"


def unquoted(text: str) -> list[str]:
    """Options whose value a shell would take for a pattern: zsh runs no command with one that matches no file."""
    bare = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "'…'", text)
    return re.findall(r"--[\w.]+[ =]+[^\s`'\"[]*[\[*?][^\s`]*", bare)


@pytest.mark.parametrize("document", QUOTING, ids=relative)
def test_no_command_ends_with_a_comment(document):
    """For zsh it is no comment but arguments, unless it is told otherwise."""
    blocks = re.findall(r"^```bash\n(.*?)^```", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [line for block in blocks for line in block.splitlines() if re.search(r"\S\s+#", line)] == []


SCRIPTS = [*sorted(ROOT.glob("*.py")), *sorted(ROOT.glob("configs/*.yaml"))]


@pytest.mark.parametrize("document", [*QUOTING, *SCRIPTS], ids=relative)
def test_commands_quote_what_a_shell_takes_for_a_pattern(document):
    assert unquoted(document.read_text()) == []


def test_unquoted_patterns_are_noticed():
    assert unquoted("sample.py --guidance_interval [-1,2] --labels 0.5*a,b --x=[1] --data 'a*' --y \"[1]\"") == [
        "--guidance_interval [-1,2]",
        "--labels 0.5*a,b",
        "--x=[1]",
    ]


# The formulas of docs/reverse_process.md, in float64.


def schedule(name, **options) -> DDPMScheduler:
    """A stock scheduler in float64 with the ᾱ of one of our schedules, unclipped unless asked for."""
    scheduler = example(name, **{"clip_sample": False, **options}).to_stock()
    scheduler.alphas_cumprod, scheduler.one = scheduler.alphas_cumprod.double(), scheduler.one.double()
    return scheduler


def normal(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def posterior(alpha_t, alpha_s):
    """Coefficients of x₀ and x_t in the mean of q(x_s|x_t,x₀), and its variance, as printed (eq. 7)."""
    alpha = alpha_t / alpha_s
    beta = 1 - alpha
    of_image = alpha_s**0.5 * beta / (1 - alpha_t)
    of_sample = alpha**0.5 * (1 - alpha_s) / (1 - alpha_t)
    return of_image, of_sample, (1 - alpha_s) / (1 - alpha_t) * beta, beta


def levels(scheduler, count):
    """The pairs (t, ᾱ_t, ᾱ_s) that a run of `count` steps visits, s the next less noisy level."""
    scheduler.set_timesteps(count)
    alphas = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [1.0]
    return list(zip(scheduler.timesteps.tolist(), alphas, alphas[1:]))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("count", [50, 1000])
def test_posterior_is_the_step(name, variance_type, count):
    scheduler = schedule(name, variance_type=variance_type, prediction_type="sample")
    image, sample = normal(1, 1, 4, 4), normal(1, 1, 4, 4, seed=1)
    for t, alpha_t, alpha_s in levels(scheduler, count)[:: count // 10] + levels(scheduler, count)[-1:]:
        of_image, of_sample, small, large = posterior(alpha_t, alpha_s)
        # The same by conditioning the joint Gaussian of x_s and x_t given x₀.
        covariance = (alpha_t / alpha_s) ** 0.5 * (1 - alpha_s)
        gain = covariance / (1 - alpha_t)
        np.testing.assert_allclose(of_image, alpha_s**0.5 - gain * alpha_t**0.5, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(of_sample, gain, rtol=1e-12)
        np.testing.assert_allclose(small, (1 - alpha_s) - gain * covariance, rtol=1e-9, atol=1e-12)
        # What the scheduler does, its noise included.
        variance = small if variance_type == "fixed_small" else large
        expected = of_image * image + of_sample * sample
        expected = expected + (t > 0) * variance**0.5 * normal(1, 1, 4, 4, seed=2)
        stepped = scheduler.step(image, t, sample, generator=torch.Generator().manual_seed(2)).prev_sample
        torch.testing.assert_close(stepped, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_predictions_convert(name):
    image, noise = normal(8, 1, 4, 4), normal(8, 1, 4, 4, seed=1)
    timesteps = torch.tensor([0, 1, 10, 100, 300, 500, 800, 980])
    scheduler = schedule(name)
    a = scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    sigma = (1 - a**2).sqrt()
    sample = scheduler.add_noise(image, noise, timesteps)
    target = {
        kind: prediction_target(schedule(name, prediction_type=kind), image, noise, timesteps)
        for kind in ("sample", "epsilon", "v_prediction")
    }
    x0, eps, v = target["sample"], target["epsilon"], target["v_prediction"]
    table = [
        ((sample - a * x0) / sigma, eps),
        ((a * sample - x0) / sigma, v),
        ((sample - sigma * eps) / a, x0),
        ((eps - sigma * sample) / a, v),
        (a * sample - sigma * v, x0),
        (sigma * sample + a * v, eps),
    ]
    for converted, expected in table:
        torch.testing.assert_close(converted, expected, rtol=1e-9, atol=1e-9)

    # Errors: of one prediction x̂₀, expressed as errors of ε̂ and v̂.
    guess = x0 + normal(8, 1, 4, 4, seed=2)
    snr = (a**2 / sigma**2).flatten()

    def squared(difference):
        return difference.square().sum(dim=(1, 2, 3))

    of_x0 = squared(guess - x0)
    of_eps, of_v = squared((sample - a * guess) / sigma - eps), squared((a * sample - guess) / sigma - v)
    torch.testing.assert_close(of_eps, snr * of_x0, rtol=1e-7, atol=0)
    torch.testing.assert_close(of_v, (snr + 1) * of_x0, rtol=1e-7, atol=0)
    torch.testing.assert_close(of_v, (1 + 1 / snr) * of_eps, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_min_snr_is_one_weight_on_the_image(name):
    alphas = schedule(name).alphas_cumprod
    snr = alphas / (1 - alphas)
    for kind, factor in (("sample", 1), ("epsilon", snr), ("v_prediction", snr + 1)):
        weights = loss_weights(schedule(name, prediction_type=kind), "min_snr", 5.0)
        torch.testing.assert_close(weights.double() * factor, snr.clamp(max=5.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_bound_and_best_variance(name):
    for _, alpha_t, alpha_s in levels(schedule(name), 100)[:-1]:
        of_image, _, small, large = posterior(alpha_t, alpha_s)
        snr_t, snr_s = alpha_t / (1 - alpha_t), alpha_s / (1 - alpha_s)
        np.testing.assert_allclose(of_image**2 / (2 * small), (snr_s - snr_t) / 2, rtol=1e-9)
        # Var[x₀|x_t] is 0 for a point and 1 − ᾱ_t for N(0, I).
        np.testing.assert_allclose(small + of_image**2 * (1 - alpha_t), large, rtol=1e-9)


def test_ddim_rotates_and_dpm_solver_extrapolates():
    sample, velocity = normal(1, 1, 4, 4), normal(1, 1, 4, 4, seed=1)
    options = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    betas = schedule("cosine").config.trained_betas
    ddim = DDIMScheduler(trained_betas=betas, clip_sample=False, **options)
    ddim.alphas_cumprod = ddim.alphas_cumprod.double()
    solver = DPMSolverMultistepScheduler(trained_betas=betas, **options)
    ddim.set_timesteps(50)
    solver.set_timesteps(50)
    alphas = ddim.alphas_cumprod[ddim.timesteps]
    a, sigma, angle = alphas.sqrt(), (1 - alphas).sqrt(), torch.arccos(alphas.sqrt())
    ell = (a / sigma).log()
    x, before = sample, None
    for i, t in enumerate(ddim.timesteps[:10]):
        turn = angle[i] - angle[i + 1]
        rotated = sample * turn.cos() - velocity * turn.sin()
        torch.testing.assert_close(ddim.step(velocity, t, sample).prev_sample, rotated, rtol=1e-7, atol=1e-7)
        # DPM-Solver++ of order 2 (of order 1, which is DDIM, in its first step).
        image = a[i] * x - sigma[i] * velocity
        h = ell[i + 1] - ell[i]
        middle = image if before is None else image + h / (2 * (ell[i] - ell[i - 1])) * (image - before)
        expected = sigma[i + 1] / sigma[i] * x + sigma[i + 1] * (ell[i + 1].exp() - ell[i].exp()) * middle
        x, before = solver.step(velocity, t, x).prev_sample, image
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


# The numbers that docs/reverse_process.md prints.


def printed(*pieces: str) -> None:
    """The document contains each of these, whatever its line breaks."""
    text = " ".join(REVERSE_PROCESS.read_text().split())
    missing = [piece for piece in pieces if piece not in text]
    assert not missing, f"docs/reverse_process.md should print {missing}"


def gaussian_samples(name, count, kind, spacing="trailing", mean=0.5, variance=0.25):
    """Mean and variance of what the ideal network for N(mean, variance) samples: each step is affine in x_t."""
    m, v = 0.0, 1.0
    for t, alpha_t, alpha_s in levels(schedule(name, timestep_spacing=spacing), count):
        marginal = alpha_t * variance + 1 - alpha_t
        shrink = alpha_t**0.5 * variance / marginal  # x̂₀ = mean + shrink·(x_t − a·mean)
        of_image, of_sample, small, large = posterior(alpha_t, alpha_s)
        best = small + of_image**2 * variance * (1 - alpha_t) / marginal
        large = large * (alpha_s < 1)  # our loop ends with the mean of the last step
        noise = {"small": small, "large": large, "best": best, "ddim": 0.0}[kind] * (t > 0)
        if kind == "ddim":
            of_sample = ((1 - alpha_s) / (1 - alpha_t)) ** 0.5
            of_image = alpha_s**0.5 - of_sample * alpha_t**0.5
        offset = m - alpha_t**0.5 * mean
        m = of_image * (mean + shrink * offset) + of_sample * m
        v = (of_image * shrink + of_sample) ** 2 * v + noise
    return m, v


def test_numbers_of_variances():
    for count in (10, 50, 1000):
        row = [gaussian_samples("cosine", count, kind)[1] for kind in ("small", "large", "best", "ddim")]
        printed(f"| {count} | " + " | ".join(f"{value:.4f}" for value in row) + " |")
    leftover = [levels(schedule("cosine"), count)[-1][1] for count in (50, 25)]
    printed(f"{(1 - leftover[0]) ** 0.5:.3f} at 50 steps and {(1 - leftover[1]) ** 0.5:.3f} at 25 on the cosine")


def test_numbers_of_spacing():
    alphas = schedule("cosine").alphas_cumprod
    for count in (10, 50, 700):
        trailing, leading = (
            [t for t, _, _ in levels(schedule("cosine", timestep_spacing=spacing), count)]
            for spacing in ("trailing", "leading")
        )
        ends = [f"{steps[0]}, {steps[1]}, …, {steps[-1]}" for steps in (trailing, leading)]
        printed(f"| {count} | {ends[0]} | {ends[1]} | {alphas[leading[0]]:.4f} |")
    wrong = [gaussian_samples("cosine", 700, kind, "leading")[0] for kind in ("small", "ddim")]
    right = [gaussian_samples("cosine", 700, kind)[0] for kind in ("small", "ddim")]
    printed(f"{wrong[0]:.4f} with DDPM and {wrong[1]:.4f} with DDIM; trailing gives 0.5000 with both")
    assert [f"{value:.4f}" for value in right] == ["0.5000", "0.5000"]
    mild = [gaussian_samples("cosine", 50, kind, "leading")[0] for kind in ("small", "ddim")]
    assert mild[0] > wrong[0] and mild[1] > wrong[1]
    too_long = []
    for count in range(1, 1001):
        scheduler = DDPMScheduler(timestep_spacing="trailing")
        scheduler.set_timesteps(count)
        assert len(scheduler.timesteps) == count + int(scheduler.timesteps[-1] < 0)
        too_long += [count] if scheduler.timesteps[-1] < 0 else []
    printed(f"for {len(too_long)} step counts up to 1000 ({', '.join(map(str, too_long[:4]))}, …)")


def test_numbers_of_schedules():
    alphas = {name: schedule(name).alphas_cumprod for name in SCHEDULES}
    printed(f"{alphas['linear'][-1]:.1e}".replace("e-0", "e-"), f"{alphas['cosine'][-1]:.1e}".replace("e-0", "e-"))
    snr = alphas["linear"] / (1 - alphas["linear"])
    weight = (snr[:-1] / snr[1:] - 1) / 2
    printed(f"{weight[0]:.3f} at `t = 1`, {weight[99]:.3f} at `t = 100` and {weight[499]:.3f} at `t = 500`")
    printed(f"on {(alphas['cosine'] > 5 / 6).double().mean():.0%} of the levels of the cosine schedule")
    clean = [int((1 - alphas[name].bfloat16() == 0).sum()) for name in ("linear", "cosine", "sigmoid")]
    printed(
        f"first {clean[0]} levels of the linear schedule, {clean[1]} of the cosine and {clean[2]} of the sigmoid one"
    )
    gain = float((1 / alphas["cosine"][-1] - 1).sqrt())
    printed(f"{gain:,.0f} at the last level of the cosine schedule", rf"\sigma/a={gain:.0f}$ at the last cosine level")


def test_numbers_of_the_average():
    steps = 600
    ema = EMAModel([torch.nn.Parameter(torch.zeros(1))], decay=1.0)
    weights = np.zeros(steps)
    for k in range(steps):
        decay = ema.get_decay(k + 1)  # diffusers counts from 1
        assert decay == ((1 + k) / (10 + k) if k else 0)
        weights *= decay
        weights[k] = 1 - decay
    np.testing.assert_allclose(weights.sum(), 1)  # so the initial weights have none
    k = np.arange(1, steps, dtype=np.float64)
    shape = np.prod([k + j for j in range(2, 10)], axis=0)
    np.testing.assert_allclose(weights[1:] / weights[-1], shape / shape[-1], rtol=1e-9)
    np.testing.assert_allclose((weights * np.arange(steps)[::-1]).sum(), steps / 10, rtol=1e-9)
    printed(
        f"{weights[-steps // 5 :].sum():.0%} of its weight lies in the last fifth", f"0.9999^{{600}}={0.9999**600:.3f}"
    )
    caps = {d: next(n for n in range(10**5) if ema.get_decay(n + 1) >= d) for d in (0.99, 0.999, 0.9999)}
    printed(", ".join(f"{n:,} for {d}" for d, n in caps.items()).replace(", 89", " and 89"))


def test_the_figure_of_the_loss_is_described_as_it_is():
    found = json.loads((ROOT / "docs/reverse_process/loss.json").read_text())
    page = re.sub(r"\s+", " ", (ROOT / "docs/reverse_process.md").read_text())
    linear, null, label = (np.array(found[name]) for name in ("best linear estimate", "null class", "label"))
    at = {level: int(np.abs(np.array(found["log_snr"]) - level).argmin()) for level in (-10, 0, 4)}
    assert f"on {found['images']} test views" in page
    assert f"by a factor of {linear[at[4]] / label[at[4]]:.1f} at λ = 4" in page
    assert f"at λ = −10, it is larger, by {label[at[-10]] / linear[at[-10]] - 1:.0%}" in page
    assert 0.08 < 1 - label[at[0]] / null[at[0]] < 0.12  # a tenth


# The tables of docs/forward_process, computed again from the digits; each takes part of a row from the code itself.

FORWARD = ROOT / "docs/forward_process"


@pytest.fixture(scope="module")
def digits() -> DataMeasures:
    """The digits measured as for docs/forward_process/digits."""
    config = DataConfig(data_files=str(ROOT / "data/digits.parquet"), resolution=16, channels=1, upscale=True)
    return measure_data(*load_images(config, 50_000, 0))


def rows_of_the_digits() -> dict[str, dict[str, str]]:
    with (FORWARD / "digits/table.csv").open(newline="", encoding="utf-8") as file:
        return {row["schedule"]: row for row in csv.DictReader(file)}


def test_every_figure_of_the_digits_comes_from_the_code(digits):
    """All columns of all schedules but the distance from the front, which takes a search."""
    sections = choose_schedules("all", {**octave_arguments(digits.model), "solver": "ddpm"})
    printed_rows = rows_of_the_digits()
    for name, section in sections.items():
        row = Row(measure_schedule(name, alphas_cumprod_of(section), digits), "", 0.0)
        for column, value in table_columns(row, digits).items():
            given = printed_rows[name][column]
            if column in ("schedule", "leaks"):
                assert given == str(value), f"{name}, {column}"
            elif column not in ("origin", "distance_percent"):
                assert float(given) == pytest.approx(value, rel=1e-4, abs=1e-12), f"{name}, {column}"


def test_the_short_page_shows_the_cars_as_they_were_measured():
    """The table of docs/forward_process.md, from the committed measures; of two schedules these are computed again."""
    page, seen = (ROOT / "docs/forward_process.md").read_text(), 0
    with (FORWARD / "cars32/table.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["schedule"]: row for row in csv.DictReader(file)}
    for name, row in rows.items():
        if cells := re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", page, re.MULTILINE):
            structure, half, leak, pixels, octaves = (cell.strip() for cell in cells[0].split("|"))
            assert [structure, half] == [f"{float(row[key]):.3f}" for key in ("mean_structure", "half_life")]
            assert [pixels, octaves] == [f"{float(row[f'ddpm_50_{norm}']):.4f}" for norm in ("pixels", "octaves")]
            number, *leaks = leak.split(", ")
            assert float(number) == pytest.approx(float(row["leak_nats"]), rel=0.13) and bool(leaks) == (
                row["leaks"] == "True"
            )
            seen += 1
    assert seen == len(rows) - 1  # the optimum is in the figures alone
    config = DataConfig(data_files=str(ROOT / "data/cars32.parquet"), resolution=32)
    spectrum = fit_gaussian(load_images(config, 50_000, 0)[0]).spectrum
    described = yaml.safe_load((FORWARD / "cars32/spectral.yaml").read_text())["scheduler"]
    for name, section in {"spectral": described, "linear": section_of("linear")}.items():
        point = point_of(merged(spectrum, 0.1), log_snr_of(alphas_cumprod_of(section)), "ddpm", 50)
        for given, key in zip(
            (point.structure, point.pixels, point.octaves), ("mean_structure", "ddpm_50_pixels", "ddpm_50_octaves")
        ):
            assert given == pytest.approx(float(rows[name][key]), rel=5e-3), (name, key)


def test_the_ranking_is_by_leak_and_distance():
    rows = list(rows_of_the_digits().values())
    order = [(row["leaks"] == "True", float(row["distance_percent"])) for row in rows]
    assert order == sorted(order) and [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    assert all((float(row["leak_nats"]) > 1e-3) == (row["leaks"] == "True") for row in rows)


def test_the_printed_cells_are_those_figures():
    """The three tables of table.md against table.csv, cell by cell."""
    rows, cells = rows_of_the_digits(), {}
    for line in (FORWARD / "digits/table.md").read_text(encoding="utf-8").splitlines():
        if re.match(r"\| \d+ \|", line):
            number, name, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            cells.setdefault(name.strip("*"), []).append(rest)
            assert number == rows[name.strip("*")]["rank"]
    assert cells.keys() == rows.keys()
    for name, (ranking, errors, information) in cells.items():
        row = {key: float(value) for key, value in rows[name].items() if re.fullmatch(r"[-+.\de]+", value)}
        distance, leaks = f"+{row['distance_percent']:.0f}%", rows[name]["leaks"] == "True"
        assert ranking == [
            *(rows[name]["origin"], f"({distance})" if leaks else distance, f"{row['mean_structure']:.3f}"),
            *(f"{row['half_life']:.3f}", f"{row['idle_clean_percent']:.1f}%", f"{row['idle_noise_percent']:.1f}%"),
            *(f"{row['leak_nats']:.1e}" + " **leaks**" * leaks, f"{row['max_beta']:.3f}"),
            f"{row['last_log_snr']:.1f}",
        ]
        pairs = [f"{solver}_{steps}" for solver in ("ddpm", "ddim") for steps in (10, 50, 250, 1000)]
        assert errors == [f"{1e3 * row[p + '_pixels']:.3g} · {1e3 * row[p + '_octaves']:.3g}" for p in pairs]
        times = [row[f"{what}_half_gone"] for what in ("class", "information", "recovery")]
        assert information == [*(f"{t:.3f}" for t in (*times, row["mean_ssim"])), f"{row['path_kl_nats']:.3g}"]


def test_the_front_of_the_digits(digits):
    """Where each published schedule and our member of the family stand, and by what factor ours is ahead."""
    rows = json.loads((FORWARD / "front.json").read_text())["digits 16×16"]["rows"]
    spectrum, described = merged(digits.model.spectrum, 0.1), octave_arguments(digits.model)
    for row in rows[::5]:
        how = row["solver"], row["steps"]
        family = {"name": "spectral", **described, "solver": row["solver"], **row["family_parameters"]}
        theirs, ours = (
            point_of(spectrum, log_snr_of(alphas_cumprod_of(section)), *how)
            for section in (section_of(row["schedule"]), family)
        )
        for point, given in ((theirs, row["theirs"]), (ours, row["family"])):
            assert asdict(point) == pytest.approx(given, rel=1e-5), (row["schedule"], how)
        factor = min(theirs.pixels / ours.pixels, theirs.octaves / ours.octaves)
        assert row["family_factor"] == pytest.approx(factor, rel=1e-5)
        # No schedule that anybody found is farther ahead than the front itself.
        assert row["their_distance"] >= max(factor, row["knots_factor"]) - 1 - 0.01


@pytest.mark.parametrize(("name", "config"), step_designs.SETS.items())
def test_the_designed_levels(name, config):
    """Some cells of the table, computed again."""
    (table,) = re.findall(rf"\*\*{re.escape(name)}\*\*.*?\n\n(.*?)\n\n", read("designs.md") + "\n", re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    columns = {title: place for place, title in enumerate(rows[0])}
    shown = {row[0]: row for row in rows[2:]}
    assert shown.keys() == step_designs.DESIGNS.keys()
    spectrum = step_designs.spectrum_of(config)
    some = [
        ("our optimum in pixels", "ddim", 10),
        ("W2, last level free", "ddpm", 5),
        ("KL, last level given", "ddim", 5),
    ]
    for design, solver, steps in some:
        cell = shown[design][columns[f"{solver.upper()} {steps}"]]
        assert cell == " · ".join(step_designs.cells(spectrum, solver, design, steps)), (design, solver, steps)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("digits", "digits_16_conditional"),
        ("digits_invariant", "digits_16_conditional"),
        ("cars", "cars_32_conditional"),
    ],
)
def test_the_bench_of_steps(name, config):
    """The table is that of the results, and levels of two methods are computed again."""
    rows = json.loads((FORWARD / f"steps_of_{name}.json").read_text())["rows"]
    assert step_bench.markdown(rows) == read(f"steps_of_{name}.md")
    _, spectrum = step_bench.measured(ROOT / f"configs/{config}.yaml")
    for solver, theory in (("DDIM", "ddim"), ("DDPM", "ddpm")):
        for method, last in (("Benita et al., W2", -10.1), ("W2, last level free", None)):
            levels = designed_levels(spectrum, theory, 10, "w2", last)
            found = [r["log_snr"] for r in rows if (r["solver"], r["method"], r["steps"]) == (solver, method, 10)]
            assert len(found) >= 3
            for given in found:
                assert given == pytest.approx(levels, abs=0.02)


def test_an_interval_of_the_bench_is_students():
    own, found = np.array([10.0, 11.0, 12.0]), np.array([9.0, 10.5, 10.0])
    mean, half = step_bench.gain(found, own)
    change = 100 * (found / own - 1)
    interval = ttest_1samp(change, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high))


def test_the_benchmarks_tables_are_those_of_their_results(digits):
    """What each benchmark would write today from the results that it left; steps and pilot were trained."""
    assert schedule_front.markdown(json.loads((FORWARD / "front.json").read_text())) == read("front.md")
    rows = json.loads((FORWARD / "steps_of_cifar10.json").read_text())["rows"]  # its images are not here
    assert step_bench.markdown(rows) == read("steps_of_cifar10.md")
    rows = [json.loads(line) for line in read("cars_schedules.jsonl").splitlines()]
    assert cars_schedules.markdown(rows) == read("cars_schedules.md")
    for name in ("steps", "steps_cifar10"):
        assert schedule_steps.markdown(json.loads((FORWARD / f"{name}.json").read_text())) == read(f"{name}.md")
    entries = [json.loads(line) for line in read("pilot.jsonl").splitlines()]
    assert schedule_pilot.markdown(entries, digits.images) == read("pilot.md")


def test_the_campaign_that_is_printed_is_its_report():
    """The counts and the command of docs/reliability.md against docs/reliability/report.json; no trial failed."""
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "docs/reliability/report.json").read_text())
    assert record["failures"] == [] and reliability.table(record) in text
    assert record["command"] in text and record["machine"] in text
    described = re.findall(r"^\| (?!part)(\w+) \| [a-zA-Z]", text, re.MULTILINE)
    assert described == [part for part in reliability.PARTS if record["counts"][part]] == list(reliability.PARTS)


def read(name: str) -> str:
    return (FORWARD / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["digits", "digits_three_seeds"])
def test_the_cells_of_a_comparison_are_its_figures(name):
    """The table of docs/evaluation/…/report.md against comparison.json."""
    record = json.loads((ROOT / f"docs/evaluation/{name}/comparison.json").read_text())
    text = (ROOT / f"docs/evaluation/{name}/report.md").read_text().split("## The same noise")[0]
    _, *lines = ([c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| ")
    metrics, checked = list(record["settings"][0]["metrics"]), 0
    full = [entry for entry in record["settings"] if entry["images"] == record["counts"][-1]]
    entries = {(e["run"], str(Setting(e["solver"], e["steps"], e["guidance_scale"]))): e["metrics"] for e in full}
    for run, setting, _, *cells in lines:
        for metric, cell in zip(metrics, cells, strict=True):
            if run == "real images, held out":
                assert cell == number(record["held_out"][metric]["value"])
            elif found := entries[run, setting.strip("*")].get(metric):
                spread = f" ± {number(found['over_seeds'])}" if "over_seeds" in found else None
                assert cell == number(found["value"]) + (spread or f" ({interval(found, metric)})")
                checked += 1
            else:
                assert cell == ""
    assert len(lines) == len(entries) + 1 and checked > 20


def test_how_well_widths_are_reconstructed():
    """The table of docs/averages.md, computed again."""
    text = (ROOT / "docs/averages.md").read_text(encoding="utf-8")
    widths = [float(cell) for cell in re.search(r"snapshots of both widths \|(.*)\|", text)[1].split("|")]
    rows = [[float(cell) for cell in row.split("|")] for row in re.findall(r"^\| (\d+ \|[ 0-9.|]*) \|$", text, re.M)]
    assert [row[0] for row in rows] == [10, 20, 40, 200]
    for count, *cells in rows[:3]:
        places = [(each, step * 2000 // int(count)) for each in (0.05, 0.1) for step in range(1, int(count) + 1)]
        assert cells == [float(f"{combination(places, width, 2000)[1]:.2g}") for width in widths]
