"""Noise levels fitted to a trained network: those whose few steps end nearest to where a teacher of many steps ends.

The idea is that of LD3 (Tong et al., arXiv 2405.15506), with its objective unrelaxed and another search. Student and
teacher start from the same noise. The mean squared difference of their images is a sum of squares in few unknowns, the
n levels. So it is minimised by a quasi-Newton search that starts with the curvature of Gauss and Newton, instead of by
stochastic gradients: the derivative by a level is a difference of two trajectories that part where that level is first
used, which for all levels takes n²/2 + n evaluations of the network and no backward pass.

For Gaussian data and the ideal denoiser the objective is the squared 2-Wasserstein distance of DDIM's samples from the
data: the fitted levels are then those that `designed_levels` (spectral_design.py) computes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from cardiff.analysis.local_error import Denoiser, network_denoiser
from cardiff.analysis.measures import merged
from cardiff.analysis.optimum import Optimum
from cardiff.diffusion.levels import a_sigma, log_snr_of, trained_log_snr, visited_levels
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.schedulers import SCHEDULES
from cardiff.schedulers.spectrum import Spectrum

FITTED_SOLVERS = {"ddim": 1, "dpm": 2}
"""Deterministic solvers, and their order."""
TEACHER_STEPS = 100
NOISES = 32
"""Images drawn for the fit; as many others measure what it gained."""
DIFFERENCE = 0.005
"""In log-SNR, for derivatives."""
MIN_GAP = 1e-4
"""The smallest gap between levels in that of the largest, on the scale of the search."""
WIDTH = 4.0
"""In log-SNR, of the scale on which the search looks for levels."""
CLEANEST = 9.0
"""Log-SNR above which no level is looked for: a step from there to the clean image changes nothing visible."""
GAIN = 1e-3
"""The search ends with a step that gains less than this share of the squared difference."""
LINE_SEARCH = 5
ROUNDS = 15
"""Evaluations of the squared difference and its derivatives, of which the last line search may take a few more."""


Path = list[tuple[torch.Tensor, torch.Tensor]]
"""x and x̂₀ at each level of a trajectory, noisiest first."""


def integrate(
    denoise: Denoiser,
    x: torch.Tensor,
    log_snr: Sequence[float],
    order: int,
    clean: torch.Tensor | None = None,
    before: tuple[float, torch.Tensor] | None = None,
) -> Path:
    """Sample through falling noise: DDIM (order 1) or DPM-Solver++(2M) (order 2), to the clean image.

    DDIM is Song et al. (arXiv 2010.02502), eq. 12 with σ = 0; DPM-Solver++(2M) is algorithm 2 of Lu et al.
    (arXiv 2211.01095), whose last step, to log-SNR ∞, is one of DDIM. diffusers takes the same steps.

    Args:
        denoise: E[x₀ | x_t].
        x: Noisy images at the first level; (B, C, H, W).
        log_snr: Levels to visit, noisiest first.
        order: 1 or 2.
        clean: x̂₀ at the first level, if it is known.
        before: The level before the first one and x̂₀ there, if these are the last levels of a longer trajectory.

    Returns:
        x and x̂₀ at each level; the last x̂₀ is the sample.
    """
    path = []
    for here, there in zip(log_snr, [*log_snr[1:], None]):
        clean = denoise(x, here) if clean is None else clean
        path.append((x, clean))
        if there is None:
            break
        (_, sigma), (a_p, sigma_p) = a_sigma(here), a_sigma(there)
        target = clean
        if order == 2 and before is not None:
            ratio = (here - before[0]) / (there - here)
            target = clean + (clean - before[1]) / (2 * ratio)
        x = sigma_p / sigma * x + a_p * -np.expm1((here - there) / 2) * target
        before, clean = (here, clean), None
    return path


class StepFit:
    """Finds the levels at which few steps end nearest to a teacher's images, and measures how near they end.

    Args:
        denoise: The denoiser for a slice of the noises, which may be of different classes.
        noise: What images are drawn from; (2B, C, H, W): B to fit and B to measure with.
        limits: Log-SNRs of the noisiest and of the cleanest level that the denoiser knows.
        progress: Called with a number of evaluations of a batch of B after they are made.
    """

    def __init__(
        self,
        denoise: Callable[[slice], Denoiser],
        noise: torch.Tensor,
        limits: tuple[float, float],
        progress: Callable[[int], object] = lambda count: None,
    ):
        count = len(noise) // 2
        self.limits, self.progress = limits, progress
        self.halves = [(denoise(half), noise[half]) for half in (slice(0, count), slice(count, 2 * count))]
        self.teachers = []
        for half in self.halves:
            path = integrate(*half, np.linspace(*limits, TEACHER_STEPS).tolist(), 2)
            self.teachers.append(path[-1][1])
            progress(TEACHER_STEPS)

    def error(self, log_snr: np.ndarray, solver: str) -> float:
        """Root mean square difference per pixel from the teacher's images, on noises that are not fitted.

        Args:
            log_snr: Levels to visit, cleanest first; (n,).
            solver: A name of FITTED_SOLVERS.
        """
        path = integrate(*self.halves[1], np.clip(log_snr, *self.limits)[::-1].tolist(), FITTED_SOLVERS[solver])
        self.progress(len(log_snr))
        return float((path[-1][1] - self.teachers[1]).double().square().mean().sqrt())

    def fit(self, start: np.ndarray, solver: str) -> np.ndarray:
        """The fitted levels, cleanest first; (n,).

        Args:
            start: Levels from which the search starts, cleanest first; (n,).
            solver: A name of FITTED_SOLVERS.
        """
        denoise, noise = self.halves[0]
        order = FITTED_SOLVERS[solver]

        def residual(path: Path) -> np.ndarray:
            return (path[-1][1] - self.teachers[0]).double().cpu().numpy().ravel()

        def linearised(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """The residuals r (m,) and their derivatives J (m, n) by the unknowns."""
            levels, derivatives = _levels(z, self.limits)
            path, columns = integrate(denoise, noise, levels.tolist(), order), []
            self.progress(len(levels))
            for place in range(len(levels)):
                moved = levels.copy()
                neighbour = levels[place - 1] if place > 0 else (levels[1] if len(levels) > 1 else self.limits[1])
                moved[place] += np.clip((neighbour - levels[place]) / 2, -DIFFERENCE, DIFFERENCE)
                # The first step that changes is the one into this level; x̂₀ before it is known.
                first = max(place - 1, 0)
                clean = path[first][1] if place > 0 else None
                before = (levels[first - 1], path[first - 1][1]) if first > 0 else None
                rest = integrate(denoise, path[first][0], moved[first:].tolist(), order, clean, before)
                self.progress(len(levels) - place)
                columns.append((residual(rest) - residual(path)) / (moved[place] - levels[place]))
            return residual(path), np.stack(columns, axis=1) @ derivatives

        # JᵀJ is the curvature but for what the residuals bend, which is not small: BFGS learns that, starting from
        # unknowns y in which JᵀJ is the identity.
        z = _unknowns(np.clip(start, *self.limits)[::-1], self.limits)
        start_residual, slopes = linearised(z)
        curvature = slopes.T @ slopes
        if not np.trace(curvature) > 0:
            return np.clip(start, *self.limits)  # the images do not depend on the levels
        curvature += 1e-4 * np.trace(curvature) / len(z) * np.eye(len(z))
        unwhiten = np.linalg.inv(np.linalg.cholesky(curvature)).T
        scale = start_residual @ start_residual

        def objective(y: np.ndarray) -> tuple[float, np.ndarray]:
            difference, slopes = linearised(z + np.sqrt(scale) * unwhiten @ y)
            gradient = np.sqrt(scale) * (slopes @ unwhiten).T @ difference
            return difference @ difference / scale / 2, gradient / scale

        limits = {"maxfun": ROUNDS, "ftol": GAIN, "gtol": 0.0, "maxls": LINE_SEARCH, "maxcor": len(z)}
        found = minimize(objective, np.zeros(len(z)), jac=True, method="L-BFGS-B", options=limits)
        return _levels(z + np.sqrt(scale) * unwhiten @ found.x, self.limits)[0][::-1].copy()


def _levels(z: np.ndarray, limits: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Levels between limits, noisiest first, and their derivatives by the unknowns; (n,) and (n, n).

    The unknowns are the logarithms of the gaps below each level over that above the cleanest, on the scale of
    `_place`. So they are free, while the levels keep their order.
    """
    gaps = np.exp(np.append(z, 0.0) - z.max(initial=0.0))
    total = (gaps + MIN_GAP).sum()
    below = ((gaps + MIN_GAP) / total)[:-1].cumsum()
    low, high = (_place(limit) for limit in limits)
    places = low + (high - low) * below
    derivatives = (high - low) * (np.tril(np.ones((len(z), len(z)))) - below[:, None]) * gaps[:-1] / total
    levels = WIDTH * np.log(np.tan(places * np.pi / 2))
    return levels, derivatives * (WIDTH * np.pi / np.sin(np.pi * places))[:, None]


def _unknowns(levels: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """The unknowns of `_levels` for given levels, noisiest first, which are moved apart if they touch."""
    low, high = (_place(limit) for limit in limits)
    gaps = np.maximum(np.diff(np.concatenate([[low], _place(levels), [high]])), 1e-3 * (high - low))
    return np.log(gaps[:-1] / gaps[-1])


def _place(log_snr: np.ndarray | float) -> np.ndarray:
    """Between 0 and 1: a scale on which the levels where little happens, at both ends, are close to each other."""
    return np.arctan(np.exp(np.asarray(log_snr) / WIDTH)) * 2 / np.pi


def fit_of(
    pipeline: ClassConditionalPipeline, seed: int, progress: Callable[[int], object] = lambda count: None
) -> StepFit:
    """The fit for a trained network, with its classes in turn and without guidance."""
    unet, trained = pipeline.unet, trained_log_snr(pipeline.scheduler)
    shape = (2 * NOISES, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(pipeline.device)
    labels = None
    if unet.config.num_class_embeds is not None:
        labels = torch.arange(2 * NOISES, device=pipeline.device) % pipeline.null_class

    def denoise(part: slice) -> Denoiser:
        return network_denoiser(pipeline, None if labels is None else labels[part])

    return StepFit(denoise, noise, (float(trained[-1]), min(float(trained[0]), CLEANEST)), progress)


@dataclass(frozen=True)
class Fit:
    """Levels fitted to a network, and how far images end from the teacher's: root mean square per pixel."""

    log_snr: np.ndarray
    """Cleanest first; (n,)."""
    error: float
    computed_error: float
    """At the computed optimum for Gaussian data, where the search started."""
    own_error: float
    """At the network's own levels, evenly spaced in t."""


def fit_steps(
    pipeline: ClassConditionalPipeline,
    spectrum: Spectrum,
    steps: Sequence[int],
    solver: str,
    seed: int,
    progress: Callable[[int], object] = lambda count: None,
) -> list[Fit]:
    """Fit the levels of each number of steps to a network, from the computed optimum in pixels; arguments as there."""
    own = trained_log_snr(pipeline.scheduler).numpy()
    levels_of = {n: visited_levels(own, n) for n in steps}  # refuses more steps than timesteps before the work
    fit, start, fits = fit_of(pipeline, seed, progress), log_snr_of(SCHEDULES["cosine"].alphas_bar(1000)), []
    for n in steps:
        computed = visited_levels(Optimum(merged(spectrum, 0.1), "ddim", n).best(0.0, 1.0, start), n)
        found = fit.fit(computed, solver)
        errors = [fit.error(levels, solver) for levels in (found, computed, levels_of[n])]
        fits.append(Fit(found, *errors))
    return fits


def fit_work(steps: Sequence[int]) -> int:
    """About how many evaluations `fit_steps` reports to `progress` at most; none without steps."""
    teacher = 2 * TEACHER_STEPS if steps else 0
    return teacher + sum((ROUNDS + LINE_SEARCH) * (n + n * (n + 1) // 2) + 3 * n for n in steps)
