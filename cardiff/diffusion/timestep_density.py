"""Which timesteps training draws how often, adapted to the losses while it trains.

A schedule is a density of timesteps over noise levels, and training that draws t evenly spends itself in proportion to
it. Here the levels stay those of the schedule, so that the published scheduler is the one of the configuration, and
only how often each is trained on changes:

    loss:         p(t) ∝ √E[L_t²], and every loss is divided by T·p(t). The objective is unchanged and the variance of
                  its estimate falls: Nichol and Dhariwal (arXiv 2102.09672), section 3.3.
    information:  p(t) ∝ ½·SNR·mmse·|dλ/dt|·g, the rate at which noise destroys information on the image, so that
                  each step of training meets equally much of it. The losses are not divided by anything, so the
                  objective changes: Raya et al. (arXiv 2602.18647). At the clean end the rate of any noisy image stays
                  high, and g = u³/(u³ + c³), with u = σ/a, leaves it out. Which c they use could not be read.

Both mix in an even density, so that no level is forgotten.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from diffusers import DDPMScheduler

from cardiff.diffusion.levels import log_snr_of

Kind = Literal["loss", "information"]
BINS = 50
"""Bins of equally many timesteps whose losses are averaged; fewer if there are fewer timesteps."""
EVEN = 0.1
"""Share of the even density."""
DECAY = 0.8
"""Of the averages, each time that they are brought up to date."""
GATE = 0.05
"""c: at u = c, or log-SNR 6, half of the information counts."""
UNIT = 2.0**-24
"""Sums are of integer multiples of this, so that neither their order nor the number of processes changes a bit."""


class TimestepDensity:
    """A density over timesteps that follows the losses.

    Args:
        kind: What it follows them to.
        scheduler: Noise levels and prediction type.
        weights: Weight of each timestep in the loss, (T,), on the device of the losses.
    """

    def __init__(self, kind: Kind, scheduler: DDPMScheduler, weights: torch.Tensor):
        self.kind, self.total, self.bins = kind, len(weights), min(BINS, len(weights))
        self.loss_weights = weights.clone()
        """Weight of each timestep for losses at timesteps that are drawn from here, (T,), kept up to date in place."""
        self.importance = torch.ones_like(weights)
        """1/(T·p(t)) for `loss` and 1 for `information`, (T,)."""
        self.base_weights = weights
        self.sums = torch.zeros(2, self.bins, dtype=torch.int64, device=weights.device)
        """Σ L², or the sum of the information, and the number of images, of this process since the last update."""
        self.means = np.full(self.bins, np.nan)
        """E[L²], or the mean information, of each bin; NaN until its first image."""
        self.probabilities = np.full(self.total, 1 / self.total)
        self.information_of_loss = torch.from_numpy(_information_of_loss(scheduler, weights)).to(weights.device)

    def timesteps(self, uniform: np.ndarray) -> np.ndarray:
        """Timesteps int64 (b,) for numbers (b,) that are uniform in [0, 1)."""
        cumulative = np.cumsum(self.probabilities)
        return np.searchsorted(cumulative[:-1] / cumulative[-1], uniform, side="right")

    def add(self, loss: torch.Tensor, timesteps: torch.Tensor) -> None:
        """Count the losses (b,) of images at these timesteps (b,), as `loss_weights` weighs them; without waiting."""
        own = loss.double() / self.importance[timesteps]
        followed = own.square() if self.kind == "loss" else own * self.information_of_loss[timesteps]
        places = timesteps * self.bins // self.total
        self.sums[0].index_add_(0, places, (followed / UNIT).round().long())
        self.sums[1].index_add_(0, places, torch.ones_like(places))

    def update(self, summed: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Bring the density up to date with the losses since the last time.

        Args:
            summed: Sums a tensor over all processes.
        """
        sums = summed(self.sums).cpu().numpy().astype(np.float64)
        self.sums.zero_()
        seen = sums[1] > 0
        new, old = sums[0, seen] * UNIT / sums[1, seen], self.means[seen]
        self.means[seen] = np.where(np.isnan(old), new, DECAY * old + (1 - DECAY) * new)
        self._follow()

    def state(self, summed: Callable[[torch.Tensor], torch.Tensor]) -> dict:
        """What a checkpoint keeps, with the sums of all processes; in JSON."""
        means = [None if np.isnan(mean) else float(mean) for mean in self.means]
        return {"kind": self.kind, "sums": summed(self.sums).tolist(), "means": means}

    def load(self, state: dict, main: bool) -> None:
        """Go on from a checkpoint; the main process takes the sums of all.

        Raises:
            ValueError: It is not the state of such a density.
        """
        sums, means = torch.tensor(state["sums"], dtype=torch.int64), np.array(state["means"], dtype=np.float64)
        if sums.shape != self.sums.shape or means.shape != self.means.shape:
            raise ValueError(f"timesteps has averages of {means.shape} bins instead of {self.means.shape}")
        if main:
            self.sums.copy_(sums)
        self.means = means
        self._follow()

    def _follow(self) -> None:
        """Recompute the density from the averages; it stays even until every bin has one."""
        if np.isnan(self.means).any():
            return
        wanted = np.sqrt(self.means) if self.kind == "loss" else self.means
        wanted = wanted[np.arange(self.total) * self.bins // self.total]
        if not (np.isfinite(wanted).all() and wanted.sum() > 0):
            return  # the loss is not finite, which ends the run at the next entry of the log
        self.probabilities = (1 - EVEN) * wanted / wanted.sum() + EVEN / self.total
        if self.kind == "loss":
            self.importance.copy_(torch.from_numpy(1 / (self.total * self.probabilities)))
            torch.mul(self.base_weights, self.importance, out=self.loss_weights)


def _information_of_loss(scheduler: DDPMScheduler, weights: torch.Tensor) -> np.ndarray:
    """What the loss of a timestep has to be multiplied by to give its information, but for a constant; (T,)."""
    log_snr = log_snr_of(scheduler.alphas_cumprod.double().numpy())
    snr = np.exp(log_snr)
    # SNR·mmse from the squared error of what is predicted: ‖δε‖² = SNR·‖δx₀‖², ‖δv‖² = (1 + SNR)·‖δx₀‖².
    per_type = {"epsilon": np.ones_like(snr), "v_prediction": snr / (1 + snr), "sample": snr}
    ratio = np.exp(-log_snr / 2)
    gate = ratio**3 / (ratio**3 + GATE**3)
    weight = np.maximum(weights.double().cpu().numpy(), 1e-12)
    return per_type[scheduler.config.prediction_type] * -np.gradient(log_snr) * gate / weight
