"""The limit of what a schedule can do: the closed-form error minimised over every step, under the leak gate."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from cardiff.analysis.errors import error_terms, relative_errors, sampling_error
from cardiff.analysis.measures import MAX_LEAK
from cardiff.diffusion.levels import visited_levels
from cardiff.schedulers.spectrum import Spectrum

LOG_SNR_MAX = 12.2
"""Largest log-SNR considered: there the noise has the variance of rounding a pixel to 8 bits."""
FIRST_GAP = 2.0
"""From the cleanest of given levels to where a schedule through them begins."""
VERTICES = 50
MIN_BETA = 2.0**-22
"""Smallest β allowed: 1 − β is kept in float32, which rounds to multiples of 2⁻²⁴."""


@dataclass(frozen=True)
class Point:
    """Where a schedule stands for one solver and number of steps."""

    structure: float
    """A, over the table of all timesteps."""
    pixels: float
    octaves: float


def point_of(spectrum: Spectrum, log_snr: np.ndarray, solver: str, steps: int) -> Point:
    """Structure and errors of a table of log-SNRs over the timesteps."""
    error = sampling_error(spectrum, visited_levels(log_snr, steps), solver)
    return Point(float(spectrum.structure(log_snr).mean()), error.pixels, error.octaves)


class Optimum:
    """Optimisation of log-SNR over all timesteps for one spectrum, solver and number of steps.

    The unknowns are the log-SNRs of the steps that the sampler visits (of 50 of them if there are more), between which
    log-SNR follows straight lines in ln(t/(1 − t)). It falls from LOG_SNR_MAX or less to a last log-SNR whose leak is
    at most MAX_LEAK, in steps that a float32 β can hold.

    Args:
        spectrum: The data; merge its bands first, the time grows with them.
        solver: "ddpm" or "ddim".
        steps: Sampling steps n.
        num_train_timesteps: T.
    """

    def __init__(self, spectrum: Spectrum, solver: str, steps: int, num_train_timesteps: int = 1000):
        self.spectrum, self.solver, self.steps = spectrum, solver, steps
        self.highest_last = spectrum.log_snr_of_leak(MAX_LEAK)
        # Vertices: the first timestep and visited ones, spread evenly in ln(t/(1 − t)) if there are too many.
        visited = visited_levels(np.arange(num_train_timesteps), steps)
        place = _logit((np.arange(num_train_timesteps) + 1) / num_train_timesteps)
        if steps > VERTICES:
            wanted = np.linspace(place[visited[0]], place[-1], VERTICES)
            visited = np.unique(visited[np.abs(place[visited] - wanted[:, None]).argmin(1)])
        self.vertices = np.unique(np.concatenate([[0], visited]))
        identity = np.eye(len(self.vertices))
        weights = np.stack([np.interp(place, place[self.vertices], row) for row in identity], axis=1)
        self.table_of = torch.from_numpy(weights)  # (T, V): from the vertices to all timesteps
        # How much of the fall between two vertices the first and the last timestep between them make.
        falls = -np.diff(weights.cumsum(1)[:, :-1], axis=0)  # (T − 1, V − 1)
        ends = self.vertices[:-1], self.vertices[1:] - 1
        self.end_shares = [np.abs(falls[end, np.arange(len(end))]) for end in ends]
        self.visited = torch.from_numpy(visited_levels(weights, steps))  # (n, V)
        self.log_variances = torch.from_numpy(np.log(spectrum.variances))
        self.mode_weights = torch.from_numpy(spectrum.mode_weights)
        self.pixel_weights = torch.from_numpy(spectrum.pixel_weights)
        self.octave_weights = torch.from_numpy(spectrum.octave_weights)

    def distance(self, target: Point, start: np.ndarray) -> tuple[float, np.ndarray]:
        """How far a schedule is from the front, and the schedule on the front that shows it.

        Among schedules with at least the target's structure, find the one that divides both of the target's errors by
        the largest common factor.

        Args:
            target: Where the schedule stands.
            start: A table of log-SNRs to start the search from; (T,).

        Returns:
            The logarithm of that factor, 0 on the front, and the table of log-SNRs that reaches it; (T,).
        """

        def constraints(z: torch.Tensor) -> torch.Tensor:
            structure, pixels, octaves = self._point(self._log_snr(z[:-1]))
            return torch.stack([
                z[-1] - torch.log(pixels / target.pixels),
                z[-1] - torch.log(octaves / target.octaves),
                20 * (structure - target.structure),
            ])  # fmt: skip

        gaps = self._gaps(start)
        values = constraints(torch.from_numpy(np.append(gaps, 0.0)))
        # The search starts where the two error constraints hold.
        z = np.append(gaps, max(0.0, -float(values[:2].min())))
        gradient = np.append(np.zeros(len(gaps)), 1.0)
        found = minimize(
            lambda z: z[-1],
            z,
            jac=lambda z: gradient,
            bounds=[(1e-3, None)] * len(self.vertices) + [(None, None)],
            constraints=[
                {
                    "type": "ineq",
                    "fun": lambda z: constraints(torch.from_numpy(z)).numpy(),
                    "jac": lambda z: torch.autograd.functional.jacobian(constraints, torch.from_numpy(z)).numpy(),
                },
                {
                    "type": "ineq",
                    "fun": lambda z: self._limits(z[:-1])[0],
                    "jac": lambda z: np.pad(self._limits(z[:-1])[1], ((0, 0), (0, 1))),
                },
            ],
            method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-7},
        )
        table = self._table(found.x[:-1])
        reached = point_of(self.spectrum, table, self.solver, self.steps)
        gain = min(np.log(target.pixels / reached.pixels), np.log(target.octaves / reached.octaves))
        # A search that ended outside the constraints shows nothing.
        return (gain, table) if reached.structure > target.structure - 1e-4 else (-np.inf, table)

    def best(self, kappa: float, pixel_weight: float, start: np.ndarray) -> np.ndarray:
        """The table of log-SNRs that minimises weighted log errors minus κ times structure; (T,)."""
        shares = 2 * torch.tensor([pixel_weight, 1 - pixel_weight], dtype=torch.float64)

        def objective(at: np.ndarray) -> tuple[float, np.ndarray]:
            z = torch.tensor(at, requires_grad=True)
            structure, pixels, octaves = self._point(self._log_snr(z))
            value = shares @ torch.log(torch.stack([pixels, octaves])) - kappa * structure
            value.backward()
            assert z.grad is not None
            return value.item(), z.grad.numpy()

        gaps = self._gaps(start)
        found = minimize(
            objective,
            gaps,
            jac=True,
            bounds=[(1e-3, None)] * len(gaps),
            constraints={
                "type": "ineq",
                "fun": lambda z: self._limits(z)[0],
                "jac": lambda z: self._limits(z)[1],
            },
            method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-9},
        )
        return self._table(found.x)

    def _log_snr(self, gaps: torch.Tensor) -> torch.Tensor:
        """Log-SNR at the vertices, from the falls between them and, last, that of the end below the leak's."""
        falls = gaps[:-1].flip(0).cumsum(0).flip(0)
        return self.highest_last - gaps[-1] + torch.cat([falls, gaps.new_zeros(1)])

    def _limits(self, gaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At least 0 where log-SNR starts below LOG_SNR_MAX and every β is at least MIN_BETA, and its Jacobian.

        β ≈ (1 − ᾱ)·Δλ at the first and at the last timestep between two vertices.
        """
        log_snr = self._log_snr(torch.from_numpy(gaps)).numpy()
        noise = 1 / (1 + np.exp(log_snr))  # 1 − ᾱ
        values = [LOG_SNR_MAX - log_snr[:1]]
        falls = np.triu(np.ones((len(log_snr), len(gaps))))  # of log-SNR at a vertex by the gaps that follow it
        falls[:, -1] = -1
        jacobian = [-falls[:1]]
        own = np.eye(len(gaps))[:-1] / gaps[:-1, None]
        for shares, place in zip(self.end_shares, (slice(None, -1), slice(1, None))):
            values.append(np.log(shares * gaps[:-1]) + np.log(noise[place]) - np.log(MIN_BETA))
            jacobian.append(own - (1 - noise[place])[:, None] * falls[place])
        return np.concatenate(values), np.concatenate(jacobian)

    def _gaps(self, table: np.ndarray) -> np.ndarray:
        at = np.minimum(table[self.vertices], LOG_SNR_MAX)
        last = min(at[-1], self.highest_last - 2e-3)
        return np.append(np.maximum(-np.diff(np.append(at[:-1], last)), 2e-3), self.highest_last - last)

    def _table(self, gaps: np.ndarray) -> np.ndarray:
        return (self.table_of @ self._log_snr(torch.from_numpy(gaps))).numpy()

    def _point(self, vertices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Structure and both errors, with gradients."""
        odds = (self.table_of @ vertices)[:, None] + self.log_variances  # (T, M)
        structure = (torch.sigmoid(odds) @ self.mode_weights).mean()
        _, _, ratios, mean = error_terms(self.spectrum, self.visited @ vertices, self.solver)
        relative = relative_errors(ratios, mean)
        return structure, relative @ self.pixel_weights, relative @ self.octave_weights


def knots_of(log_snr: np.ndarray, count: int = 17) -> dict:
    """A `scheduler` section of a few knots that follows a table of log-SNRs."""
    t = (np.arange(len(log_snr)) + 1) / len(log_snr)
    place = _logit(t)
    times = np.interp(np.linspace(place[0], place[-1], count), place, t)
    times[0], times[-1] = 0.0, 1.0
    values = np.interp(np.maximum(times, t[0]), t, log_snr)
    return {
        "name": "knots",
        "log_snr": [float(f"{v:.4f}") for v in values],
        "times": [float(f"{v:.5f}") for v in times],
    }


def knots_at(log_snr: np.ndarray, num_train_timesteps: int = 1000) -> dict:
    """A `scheduler` section of which n trailing steps visit these n log-SNRs, cleanest first.

    Between them it is smooth. It is made for `--timesteps_from` with that number of steps, not for training.
    """
    times = visited_levels((np.arange(num_train_timesteps) + 1) / num_train_timesteps, len(log_snr))
    return {
        "name": "knots",
        "log_snr": [float(f"{v:.4f}") for v in (log_snr[0] + FIRST_GAP, *log_snr)],
        "times": [0.0, *(float(f"{t:.5f}") for t in times)],
    }


def _logit(t: np.ndarray) -> np.ndarray:
    """ln(t/(1 − t)), with t = 1 moved to where it is finite."""
    return np.log(t / (1 - t + 0.5 / len(t)))
