"""What guidance samples, where every prediction is exact: the tables and figures of docs/guidance.md.

python benchmarks/guidance_theory.py --output docs/guidance

The data are normals whose denoiser and classifier are known in closed form (cardiff/analysis/ideal.py), so that
whatever comes out is due to guidance and to the solver's steps alone, not to a network. Everything runs through the
pipeline on the cosine schedule, with v-prediction, trailing spacing, no clipping and seed 0.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.analysis.figures.style import DPI, WIDTH, finish
from cardiff.analysis.ideal import IdealClassifier, IdealUNet, class_priors
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.plotting import BLUE, GREEN, ORANGE
from cardiff.plotting import LIGHT_GREY as GREY
from cardiff.sampling.solvers import make_solver
from cardiff.schedulers import CosineScheduler

SCALES = (1.0, 2.0, 4.0, 8.0)
STEPS, COUNT = 100, 5000  # of the runs in the plane
CLASS = 0  # the class that is asked for


# The data


@dataclass(frozen=True)
class Mixture:
    """Normals N(m_k, s_k²·I) of several classes, and the pixels in which the pipeline sees them."""

    means: np.ndarray
    """m_k; (K, D)."""
    variances: np.ndarray
    """s_k²; (K,)."""
    components: np.ndarray
    """Class of each; (K,)."""
    weights: np.ndarray
    """Probability of each, over all classes; (K,)."""
    patterns: np.ndarray
    """Orthonormal pictures of which a point's coordinates are the amounts; (D, pixels)."""

    @property
    def priors(self) -> np.ndarray:
        return class_priors(self.components, self.weights)

    def log_joint(self, points: np.ndarray) -> np.ndarray:
        """log π_k·N(x; m_k, s_k²·I) of points (N, D); (N, K)."""
        squares = cdist(points, self.means, "sqeuclidean")
        normaliser = np.log(2 * np.pi * self.variances) * points.shape[1] / 2
        return np.log(self.weights) - normaliser - squares / (2 * self.variances)

    def log_density(self, points: np.ndarray, label: int | None = None) -> np.ndarray:
        """log p(x), or log p(x|c); (N,)."""
        joint = self.log_joint(points)
        if label is None:
            return logsumexp(joint, axis=1)
        own = self.components == label
        return logsumexp(joint[:, own], axis=1) - np.log(self.weights[own].sum())

    def log_tilted(self, points: np.ndarray, w: float) -> np.ndarray:
        """log p(x)^(1−w)·p(x|c)^w, up to a constant; (N,)."""
        return (1 - w) * self.log_density(points) + w * self.log_density(points, CLASS)

    def sample(self, count: int, label: int, seed: int) -> np.ndarray:
        """Exact samples of a class; (count, D)."""
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(self.means), size=count, p=self.priors[label])
        noise = rng.standard_normal((count, self.means.shape[1]))
        return self.means[chosen] + np.sqrt(self.variances[chosen])[:, None] * noise

    def sample_tilted(self, w: float, count: int, seed: int, edge: float = 1.6, cells: int = 800) -> np.ndarray:
        """Samples of the tilted distribution in the plane: cells of a fine grid, evenly within a cell; (count, 2)."""
        width = 2 * edge / cells
        centres = (np.arange(cells) + 0.5) * width - edge
        grid = np.stack(np.meshgrid(centres, centres), axis=2).reshape(-1, 2)
        log_mass = np.concatenate([self.log_tilted(part, w) for part in np.array_split(grid, 64)])
        mass = np.exp(log_mass - log_mass.max())
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(grid), size=count, p=mass / mass.sum())
        return grid[chosen] + width * (rng.random((count, 2)) - 0.5)


def line() -> Mixture:
    """Two classes on a line, of two normals each; the first class's right one overlaps with the second class."""
    return Mixture(
        means=np.array([[-0.6], [0.1], [0.4], [0.9]]),
        variances=np.full(4, 0.15**2),
        components=np.array([0, 0, 1, 1]),
        weights=np.full(4, 0.25),
        patterns=np.ones((1, 1)),
    )


def plane() -> Mixture:
    """Three classes in the plane: trees of small normals that grow from a common root.

    A tree has a trunk, two branches, and on each an inner and a fainter outer twig, whose tip is near another tree.

    The plane lies in pictures of three pixels, as those of mean zero: their standard deviation is √½ of the length of
    the point, so that what rescaling measures does not depend on the direction. The third direction, the mean of the
    pixels, is an independent normal that says nothing of the class, since all components have the same variance.
    """
    points, weights = [], []

    def grow(start, degrees, length, count, weight):
        """A limb of equal components; returns its end."""
        direction = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        points.extend(start + length * share * direction for share in np.arange(1, count + 1) / count)
        weights.extend([weight / count] * count)
        return start + length * direction

    fork = grow(np.array([-0.04, 0.0]), 0, 0.38, 6, 0.24)
    for side in (1, -1):
        tip = grow(fork, side * 48, 0.32, 5, 0.18)
        grow(tip, side * 12, 0.28, 5, 0.12)
        grow(tip, side * 100, 0.36, 6, 0.08)
    turns = np.radians([90, 210, 330])
    turned = [np.array(points) @ [[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]] for a in turns]
    return Mixture(
        means=np.concatenate(turned),
        variances=np.full(3 * len(points), 0.05**2),
        components=np.repeat(np.arange(3), len(points)),
        weights=np.tile(weights, 3) / 3,
        patterns=np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]]),
    )


# Sampling


def exact_pipeline(means, variances, priors, solver: str) -> ClassConditionalPipeline:
    """The pipeline around an exact denoiser of normals around pictures, means (K, C, H, W), in float64."""
    trained = CosineScheduler(clip_sample=False, prediction_type="v_prediction").to_stock()
    scheduler = make_solver(trained, solver)
    trained.alphas_cumprod = scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    pipeline = ClassConditionalPipeline(IdealUNet(means, variances, trained, priors), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_of(mixture: Mixture, solver: str = "ddim", priors: np.ndarray | None = None) -> ClassConditionalPipeline:
    """The pipeline of a mixture's exact denoiser; with other priors than its own, one that knows other labels."""
    means = (mixture.means @ mixture.patterns)[:, None, None]  # (K, 1, 1, pixels)
    return exact_pipeline(means, mixture.variances, mixture.priors if priors is None else priors, solver)


def classifier_guided(mixture: Mixture, solver: str = "ddim") -> tuple[ClassConditionalPipeline, IdealClassifier]:
    """A pipeline that knows no labels, and the classifier to guide it with."""
    knowing = pipeline_of(mixture, solver)
    classifier = IdealClassifier(knowing.unet)
    classifier.id2label = knowing.id2label
    return pipeline_of(mixture, solver, mixture.priors[-1:]), classifier


def latents(pipeline, labels, **arguments) -> tuple[torch.Tensor, dict[str, int]]:
    """x_0 before it is cut to [-1, 1], (B, C, H, W), and how often each network was evaluated for an image."""
    seen = {}
    result = pipeline(
        labels,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        callback_on_step_end=lambda _pipeline, _i, _t, tensors: seen.update(tensors),
        **arguments,
    )
    return seen["latents"], {name: max(counts) for name, counts in result.evaluations.items()}


def draw(mixture: Mixture, pipeline, w=1.0, steps: int = STEPS, count: int = COUNT, **arguments):
    """Guided samples as points of the mixture, (count, D), and their evaluations."""
    images, evaluations = latents(pipeline, [CLASS] * count, guidance_scale=w, num_inference_steps=steps, **arguments)
    return images.flatten(1).numpy() @ mixture.patterns.T, evaluations


# 1. One dimension


def limits(w: float) -> dict[str, float]:
    """Variances where N(0, 2) without a label and N(0, 1) with one are guided (2408.09000), as steps grow finer."""
    return {
        "tilted": 2 / (w + 1),
        "ddim": 2.0 ** (1 - w),
        "ddpm": (2 - 2 ** (2 - 2 * w)) / (2 * w - 1),
    }


def gaussian_variances(solver: str, steps: int, scales: Sequence[float] = SCALES, side: int = 256) -> list[float]:
    """The variance of the pipeline's samples of the same: side² pixels for each scale."""
    means = np.zeros((2, 1, side, side))
    pipeline = exact_pipeline(means, [1.0, 2.0], np.eye(2), solver)
    images, _ = latents(pipeline, [0] * len(scales), guidance_scale=list(scales), num_inference_steps=steps)
    return images.flatten(1).var(1).tolist()


def ddim_map(pipeline, starts: np.ndarray, w: float, steps: int) -> np.ndarray:
    """Where guided DDIM takes points of a line, given instead of drawn; (N,)."""
    x, scheduler = torch.from_numpy(starts).view(-1, 1, 1, 1), pipeline.scheduler
    pipeline.set_timesteps(steps)
    weak_ids, strong_ids = (torch.full((len(starts),), i) for i in (pipeline.null_class, CLASS))
    for t in scheduler.timesteps:
        weak, strong = (pipeline.unet(x, t, ids).sample for ids in (weak_ids, strong_ids))
        x = scheduler.step(weak + w * (strong - weak), t, x).prev_sample
    return x.flatten().numpy()


def ddim_density(mixture: Mixture, w: float, steps: int = 1000, points: int = 4001) -> tuple[np.ndarray, np.ndarray]:
    """Points on the line and the density of guided DDIM there.

    Its map from noise to data is monotone in one dimension, so the density is that of the noise over its slope.
    """
    starts = np.linspace(-6, 6, points)
    ends = ddim_map(pipeline_of(mixture), starts, w, steps)
    return ends, norm.pdf(starts) / np.gradient(ends, starts)


def ddpm_density(mixture: Mixture, w: float, grid: np.ndarray, steps: int = 1000, count: int = 60000) -> np.ndarray:
    """Density of guided DDPM on an even grid, from samples, smoothed by a normal of standard deviation 0.02."""
    points, _ = draw(mixture, pipeline_of(mixture, "ddpm"), w, steps, count)
    width = grid[1] - grid[0]
    heights, _ = np.histogram(points[:, 0], bins=len(grid), range=(grid[0] - width / 2, grid[-1] + width / 2))
    reach = np.arange(-round(0.08 / width), round(0.08 / width) + 1) * width
    kernel = norm.pdf(reach, scale=0.02)
    return np.convolve(heights / (count * width), kernel / kernel.sum(), mode="same")


def densities_on_the_line(mixture: Mixture, w: float, grid: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Points and densities there, of the tilted distribution and of both samplers."""
    tilted = np.exp(mixture.log_tilted(grid[:, None], w))
    return {
        "tilted": (grid, tilted / np.trapezoid(tilted, grid)),
        "ddim": ddim_density(mixture, w),
        "ddpm": (grid, ddpm_density(mixture, w, grid)),
    }


def mass_above(cut: float, points: np.ndarray, density: np.ndarray) -> float:
    return float(np.trapezoid(density[points >= cut], points[points >= cut]))


# 2. The plane


@dataclass(frozen=True)
class Judge:
    """Measures of samples that need no estimate: the distribution is known."""

    mixture: Mixture

    @cached_property
    def _truth(self) -> np.ndarray:
        return self.mixture.sample(200_000, CLASS, seed=1)

    @cached_property
    def floor(self) -> float:
        """The log-density below which 1% of the class lies."""
        return float(np.quantile(self.mixture.log_density(self._truth, CLASS), 0.01))

    @cached_property
    def _shares(self) -> np.ndarray:
        return self._component_shares(self._truth)

    def _component_shares(self, points: np.ndarray) -> np.ndarray:
        """How many points are most probably of each of the class's components; (K_c,)."""
        own = self.mixture.components == CLASS
        nearest = self.mixture.log_joint(points)[:, own].argmax(1)
        return np.bincount(nearest, minlength=own.sum()) / len(points)

    def measure(self, points: np.ndarray) -> dict[str, float]:
        """wrong: share of samples that belong more probably to other classes than to the one asked for.
        outside: share where the class has less density than on 99% of its own mass.
        coverage: Σ_k min(share of component k among the samples, in the class), 1 where all shares are right.
        """
        prior = np.log(self.mixture.weights[self.mixture.components == CLASS].sum())
        density = self.mixture.log_density(points, CLASS)
        log_posterior = density + prior - self.mixture.log_density(points)
        return {
            "wrong": float((log_posterior < np.log(0.5)).mean()),
            "log_posterior": float(log_posterior.mean()),
            "outside": float((density < self.floor).mean()),
            "coverage": float(np.minimum(self._component_shares(points), self._shares).sum()),
        }


def scan_intervals(mixture: Mixture, judge: Judge, w: float, edges: Sequence[float]) -> list[dict]:
    """Guidance in every interval of log-SNR between two of the edges."""
    pipeline, rows = pipeline_of(mixture), []
    for i, low in enumerate(edges):
        for high in edges[i + 1 :]:
            points, cost = draw(mixture, pipeline, w, guidance_interval=(low, high))
            rows.append({"interval": (low, high), **judge.measure(points), "evaluations": cost})
    return rows


def best_interval(rows: list[dict], wrong: float) -> tuple[float, float]:
    """The interval of most coverage among those with no larger share of samples in the wrong class."""
    return max((row for row in rows if row["wrong"] <= wrong), key=lambda row: row["coverage"])["interval"]


def normal_scale(variance: float, strong: float, weak: float) -> float:
    """w at which autoguided DDIM gives a normal its variance back from networks that believe in larger ones.

    Guided DDIM turns variances v₁ and v₂ into v₁^w·v₂^(1−w).
    """
    return float(np.log(weak / variance) / np.log(weak / strong))


def kinds(mixture: Mixture, w: float, interval: tuple[float, float]) -> dict[str, Callable]:
    """Every kind of guidance by name, as functions that draw samples in the plane."""
    exact, (unlabelled, classifier) = pipeline_of(mixture), classifier_guided(mixture)
    variance = mixture.variances[0]
    # A network that sees the data blurred, to twice their variance, and a worse one.
    good, bad = (replace(mixture, variances=mixture.variances * factor) for factor in (2, 3))
    blurred, bad_unet = pipeline_of(good), pipeline_of(bad).unet
    restoring = normal_scale(variance, 2 * variance, 3 * variance)
    run = partial(draw, mixture)
    return {
        "none, w = 1": partial(run, exact),
        f"classifier-free, w = {w:g}": partial(run, exact, w),
        f"classifier, s = {w:g}": partial(run, unlabelled, classifier=classifier, classifier_scale=w),
        f"interval, w = {w:g}": partial(run, exact, w, guidance_interval=interval),
        f"rescaled, w = {w:g}, φ = 0.7": partial(run, exact, w, guidance_rescale=0.7),
        "CFG++, w = 0.1": partial(run, exact, 0.1, cfg_plus_plus=True),
        f"autoguidance, w = {w:g}": partial(run, exact, w, guidance_unet=bad_unet),
        "blurred, w = 1": partial(run, blurred),
        f"blurred, classifier-free, w = {w:g}": partial(run, blurred, w),
        f"blurred, autoguidance, w = {restoring:.1f}": partial(run, blurred, restoring, guidance_unet=bad_unet),
    }


def equivalent_scales(levels: np.ndarray, strength: float) -> np.ndarray:
    """w of classifier-free guidance with DDIM that does what CFG++ of a strength does, at the log-SNRs of its steps.

    strength/(1 − τ_s/τ_t), where τ = σ/a falls from τ_t to τ_s in the step, and to 0 in the last.
    """
    noise = np.append(np.exp(-levels / 2), 0.0)
    return strength / (1 - noise[1:] / noise[:-1])


def classifier_differences(mixture: Mixture, w: float, counts: Sequence[int], count: int = 1000) -> dict[int, float]:
    """How far DDPM guided by the exact classifier ends from DDPM guided classifier-free, from the same noise: the root
    mean square distance, by number of steps."""
    free, (alone, classifier) = pipeline_of(mixture, "ddpm"), classifier_guided(mixture, "ddpm")
    found = {}
    for steps in counts:
        first, _ = draw(mixture, free, w, steps, count)
        second, _ = draw(mixture, alone, 1.0, steps, count, classifier=classifier, classifier_scale=w)
        found[steps] = float(np.sqrt(((first - second) ** 2).sum(1).mean()))
    return found


# 3. Where guidance acts


def differences(mixture: Mixture, count: int = 4000, stride: int = 10) -> dict[str, np.ndarray]:
    """Root mean squares over x_t ~ p(x_t|c) of what the label changes, over the log-SNR.

    velocity: ‖v_c − v_∅‖, the change of dx_t/dφ along DDIM's arc; noise: ‖ε_c − ε_∅‖ = a·‖v_c − v_∅‖;
    nat: ‖v_c − v_∅‖·aσ/2, the change of dx_t per nat of log-SNR, since dλ/dφ = −2/(aσ);
    evenness: squared mean over mean square of ‖v_c − v_∅‖, 1 where every sample is changed alike.
    """
    pipeline = pipeline_of(mixture)
    clean = torch.from_numpy(mixture.sample(count, CLASS, seed=0) @ mixture.patterns).view(count, 1, 1, -1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=clean.dtype)
    ids = [torch.full((count,), i) for i in (pipeline.null_class, CLASS)]
    rows = []
    for t in range(0, 1000, stride):
        signal = pipeline.scheduler.alphas_cumprod[t]
        a, sigma = signal.sqrt(), (1 - signal).sqrt()
        weak, strong = (pipeline.unet(a * clean + sigma * noise, t, i).sample for i in ids)
        change = (strong - weak).flatten(1).norm(dim=1)
        velocity, evenness = change.square().mean().sqrt(), change.mean() ** 2 / change.square().mean()
        level = torch.log(signal / (1 - signal))
        rows.append([float(v) for v in (level, velocity, a * velocity, a * sigma / 2 * velocity, evenness)])
    return dict(zip(("log_snr", "velocity", "noise", "nat", "evenness"), np.array(rows).T))


def bands(mixture: Mixture, judge: Judge, w: float, edges: Sequence[float]) -> list[dict]:
    """Guidance in one band of log-SNR at a time."""
    pipeline, rows = pipeline_of(mixture), []
    for low, high in zip(edges, edges[1:]):
        points, _ = draw(mixture, pipeline, w, guidance_interval=(low, high))
        rows.append({"band": (low, high), **judge.measure(points)})
    return rows


# Figures


def save(figure: Figure, path: Path) -> None:
    """A PNG of 128 colours, which these pictures do not miss."""
    figure.savefig(path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)


def draw_line(mixture: Mixture, densities: dict[float, dict], path: Path) -> None:
    """Densities of the guided samples beside the tilted distribution, one panel per scale."""
    figure = Figure(figsize=(WIDTH, 6.4), dpi=DPI, layout="constrained")
    grid = np.linspace(-1.5, 1.5, 601)
    own, everything = (np.exp(mixture.log_density(grid[:, None], label)) for label in (CLASS, None))
    for axis, (w, found) in zip(figure.subplots(2, 2, sharex=True).flat, densities.items()):
        axis.fill_between(grid, own, color="#cfe6f5", lw=0, label="with the label, p(x|c)")
        axis.plot(grid, everything, color=GREY, lw=1.2, label="without a label, p(x)")
        axis.plot(*found["tilted"], color="black", lw=1.6, ls="--", label="tilted, p(x)$^{1-w}$ p(x|c)$^w$")
        axis.plot(*found["ddim"], color=BLUE, lw=2, label="guided DDIM")
        axis.plot(*found["ddpm"], color=ORANGE, lw=1.6, label="guided DDPM")
        axis.set(xlim=(-1.3, 1.3), ylim=(0, None), yticks=[])
        axis.set_title(f"w = {w:g}", fontsize=11)
        finish(axis)
    lines = axis.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=5, fontsize=9.5, frameon=False)
    save(figure, path)


def regions(axis, mixture: Mixture) -> None:
    """Where 99% of each class lies: the one asked for in blue, the others in grey."""
    ticks = np.linspace(-1.05, 1.05, 300)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=2)
    for label in sorted(set(mixture.components), key=lambda c: c == CLASS):
        floor = np.quantile(mixture.log_density(mixture.sample(20_000, label, seed=1), label), 0.01)
        height = mixture.log_density(grid.reshape(-1, 2), label).reshape(grid.shape[:2])
        colour = "#bcdcf2" if label == CLASS else "#e4e4e4"
        axis.contourf(ticks, ticks, height, levels=[floor, np.inf], colors=[colour], antialiased=True)


def draw_panels(mixture: Mixture, panels: dict[str, tuple[np.ndarray, dict]], columns: int, path: Path) -> None:
    """Samples in the plane, a panel for each name, with their measures underneath."""
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, 0.1 + rows * (WIDTH / columns + 0.48)), dpi=DPI, layout="constrained")
    for axis, (name, (points, found)) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels.items()):
        regions(axis, mixture)
        axis.scatter(*points[:1200].T, s=1.6, color=ORANGE, lw=0)
        axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[], yticks=[])
        axis.set_title(name, fontsize=10)
        text = f"wrong {found['wrong']:.1%}, outside {found['outside']:.1%}\ncoverage {found['coverage']:.2f}"
        axis.set_xlabel(text, fontsize=9)
    save(figure, path)


def draw_reasons(found: dict[str, np.ndarray], distance: float, rows: list[dict], w: float, path: Path) -> None:
    """What the label changes over log-SNR, and what guidance in one band of it does."""
    figure = Figure(figsize=(WIDTH, 4.2), dpi=DPI, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    left.axhline(distance, color=GREY, lw=1, ls=":", label="distance of the class's mean from that of all")
    for name, colour, dashes, label in (
        ("velocity", BLUE, "-", r"$\|v_c-v_\varnothing\|$, per radian of the arc"),
        ("noise", GREEN, (0, (5, 1.5)), r"$\|\epsilon_c-\epsilon_\varnothing\|=a\,\|v_c-v_\varnothing\|$"),
        ("nat", ORANGE, (0, (2, 1)), r"$\frac{a\sigma}{2}\|v_c-v_\varnothing\|$, per nat of log-SNR"),
    ):
        left.plot(found["log_snr"], found[name], color=colour, ls=dashes, lw=2, label=label)
    left.set_title("what the label changes", fontsize=10.5)
    left.set_ylim(0, 1.2)
    left.legend(fontsize=9, frameon=False, loc="upper left")
    centres = [sum(row["band"]) / 2 for row in rows]
    width = rows[0]["band"][1] - rows[0]["band"][0]
    middle.bar(centres, [100 * row["wrong"] for row in rows], width * 0.88, color=ORANGE)
    middle.set_title(f"wrong class (%), w = {w:g}\nin one band of {width:g} nats", fontsize=10.5)
    right.bar(centres, [row["coverage"] for row in rows], width * 0.88, color=BLUE)
    right.set_title(f"coverage, w = {w:g}\nin one band of {width:g} nats", fontsize=10.5)
    right.set_ylim(0, 1)
    for axis in (left, middle, right):
        axis.set(xlim=(-10.2, 8.2), xticks=range(-8, 9, 4))
        finish(axis)
    figure.supxlabel("log-SNR λ (nats): noise on the left, image on the right", fontsize=10)
    save(figure, path)


# Tables


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def variance_table(found: dict) -> str:
    """Limits beside what the pipeline gives."""
    header = ["w", "tilted", "DDIM, limit", "1000 steps", "50 steps", "DDPM, limit", "1000 steps", "50 steps"]
    rows = []
    for i, w in enumerate(SCALES):
        limit = limits(w)
        cells = [limit["tilted"]]
        for solver in ("ddim", "ddpm"):
            cells += [limit[solver], *(found[solver][steps][i] for steps in ("1000", "50"))]
        rows.append([f"{w:g}", *(f"{cell:.4f}" for cell in cells)])
    return table(header, rows)


def measure_table(rows: dict[str, dict]) -> str:
    header = ["guidance", "wrong class", "outside", "coverage", "evaluations per image"]
    return table(header, [[name, *measure_cells(row)] for name, row in rows.items()])


def measure_cells(row: dict) -> list[str]:
    names = {"unet": "", "guidance_unet": " of the worse network", "classifier": " of the classifier"}
    cost = " + ".join(f"{count}{names[name]}" for name, count in (row.get("evaluations") or {}).items()) or "–"
    return [f"{row['wrong']:.2%}", f"{row['outside']:.1%}", f"{row['coverage']:.2f}", cost]


def plus_plus_table(found: dict[str, dict]) -> str:
    header = ["steps", "largest w", "wrong class", "outside", "coverage"]
    rows = [[steps, f"{row['largest_scale']:.1f}", *measure_cells(row)[:3]] for steps, row in found.items()]
    return table(header, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/guidance"), help="folder (default: docs/guidance)")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    results = {**on_the_line(output), **in_the_plane(output)}
    (output / "results.json").write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n")


def on_the_line(output: Path) -> dict:
    """Section 1."""
    variances = {
        solver: {str(steps): gaussian_variances(solver, steps) for steps in (1000, 50)} for solver in ("ddim", "ddpm")
    }
    (output / "variances.md").write_text(variance_table(variances))
    mixture, grid = line(), np.linspace(-1.5, 1.5, 601)
    densities = {w: densities_on_the_line(mixture, w, grid) for w in SCALES}
    draw_line(mixture, densities, output / "line.png")
    cut = float(mixture.means[mixture.components == CLASS].mean())  # between the class's two normals
    right = {
        f"{w:g}": {name: mass_above(cut, *curve) for name, curve in found.items()} for w, found in densities.items()
    }
    points, density = densities[SCALES[-1]]["ddim"]
    return {"variances": variances, "right_normal": right, "ddim_peak": float(points[density.argmax()])}


def in_the_plane(output: Path) -> dict:
    """Sections 2 to 4."""
    mixture, w = plane(), 3.0
    judge = Judge(mixture)
    scan = scan_intervals(mixture, judge, w, range(-6, 9, 2))
    tilted = judge.measure(mixture.sample_tilted(w, COUNT, seed=0))
    interval = best_interval(scan, tilted["wrong"])
    found = differences(mixture)
    distance = np.linalg.norm(mixture.priors[CLASS] @ mixture.means - mixture.weights @ mixture.means)
    one_band = bands(mixture, judge, w, range(-10, 9, 2))
    draw_reasons(found, float(distance), one_band, w, output / "reasons.png")
    differing = classifier_differences(mixture, w, (50, 200, 1000))
    return {
        "plane": scales_in_the_plane(mixture, judge, output),
        "kinds": kinds_in_the_plane(mixture, judge, w, interval, tilted, output),
        "scan": scan,
        "interval": interval,
        "cfg_plus_plus": plus_plus_in_the_plane(mixture, judge, output),
        "ddpm_classifier": {str(steps): distance for steps, distance in differing.items()},
        "differences": {name: values.tolist() for name, values in found.items()},
        "distance_of_means": float(distance),
        "bands": one_band,
    }


def scales_in_the_plane(mixture: Mixture, judge: Judge, output: Path) -> dict[str, dict]:
    """Guided samples above samples of the tilted distributions."""
    pipeline = pipeline_of(mixture)
    names = {1.0: "label, w = 1"} | {w: f"guided, w = {w:g}" for w in SCALES[1:]} | {0.0: "no label"}
    runs = {name: draw(mixture, pipeline, w) for w, name in names.items()}
    runs |= {f"tilted, w = {w:g}": (mixture.sample_tilted(w, COUNT, seed=0), {}) for w in SCALES[1:]}
    rows = {name: judge.measure(points) | {"evaluations": cost} for name, (points, cost) in runs.items()}
    draw_panels(mixture, {name: (points, rows[name]) for name, (points, _) in runs.items()}, 4, output / "plane.png")
    rows["(exact samples of the class)"] = judge.measure(mixture.sample(COUNT, CLASS, seed=0))
    (output / "plane.md").write_text(measure_table(rows))
    return rows


def kinds_in_the_plane(mixture, judge, w, interval, tilted, output: Path) -> dict[str, dict]:
    """The kinds of guidance side by side."""
    runs = {name: sample() for name, sample in kinds(mixture, w, interval).items()}
    rows = {name: judge.measure(points) | {"evaluations": cost} for name, (points, cost) in runs.items()}
    hidden = "none, w = 1", f"blurred, classifier-free, w = {w:g}"  # only in the table
    panels = {name: (points, rows[name]) for name, (points, _) in runs.items() if name not in hidden}
    draw_panels(mixture, panels, 4, output / "kinds.png")
    rows[f"(tilted distribution, w = {w:g})"] = tilted
    (output / "kinds.md").write_text(measure_table(rows))
    return rows


def plus_plus_in_the_plane(mixture: Mixture, judge: Judge, output: Path, strength: float = 0.1) -> dict[str, dict]:
    """What the number of steps does to CFG++."""
    pipeline, rows = pipeline_of(mixture), {}
    for steps in (25, 50, 100, 200):
        points, _ = draw(mixture, pipeline, strength, steps, cfg_plus_plus=True)
        scales = equivalent_scales(pipeline.log_snr_of_steps(), strength)
        rows[str(steps)] = judge.measure(points) | {"largest_scale": float(scales.max())}
    (output / "cfg_plus_plus.md").write_text(plus_plus_table(rows))
    return rows


if __name__ == "__main__":
    main()
