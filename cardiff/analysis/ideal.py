"""Networks that know the answer: the exact denoiser and the exact classifier of data whose distribution is known.

The data are K normals N(m_k, s_k²·I) with probabilities π_k; one normal, a mixture in the plane and, with s_k = 0, a
finite set of images are all of this kind. Noised to x_t = a·x₀ + σ·ε they stay normal, with V_k = a²s_k² + σ², so

    r_k ∝ π_k·N(x_t; a·m_k, V_k·I),   E[x₀ | x_t] = Σ r_k·(m_k + (a·s_k²/V_k)·(x_t − a·m_k)),   ε* = (x_t − a·E[x₀])/σ.

A label is a statement about π: a class keeps the components that belong to it, no label keeps them all.
"""

from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

Timestep = int | torch.Tensor


def class_priors(components: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Probabilities of K components under each of N classes and, in the last row, without a label; (N + 1, K).

    Args:
        components: Class of each component; (K,).
        weights: Probabilities of the components without a label; even ones by default.
    """
    weights = np.full(len(components), 1 / len(components)) if weights is None else np.asarray(weights, np.float64)
    rows = [np.where(np.asarray(components) == c, weights, 0) for c in range(max(components) + 1)]
    return np.stack([row / row.sum() for row in [*rows, weights]])


class IdealUNet(ModelMixin, ConfigMixin):
    """The exact denoiser in the place of a UNet2DModel: float64, without anything to train.

    Its class embeddings are the priors of the components, so that a mixture of embeddings is a mixture of classes.

    Args:
        means: m_k; (K, C, H, W).
        variances: s_k²; (K,).
        scheduler: Gives the noise levels and the prediction type.
        priors: (N + 1, K) as `class_priors` makes them, or (1, K) for a network without classes.
    """

    def __init__(self, means: Any, variances: Any, scheduler: DDPMScheduler, priors: Any):
        super().__init__()
        means, variances, priors = (torch.as_tensor(v, dtype=torch.float64) for v in (means, variances, priors))
        self.register_to_config(
            sample_size=tuple(means.shape[2:]),
            in_channels=means.shape[1],
            num_class_embeds=len(priors) if len(priors) > 1 else None,
            class_embed_type=None,
            prediction_type=scheduler.config.prediction_type,
        )
        self.class_embedding = nn.Embedding.from_pretrained(priors)
        self.register_buffer("means", means.flatten(1))
        self.register_buffer("variances", variances)
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.double())

    def log_responsibilities(self, x: torch.Tensor, t: Timestep, priors: torch.Tensor) -> torch.Tensor:
        """log r_k of images (B, C, H, W) at timestep t under priors (B, K); (B, K)."""
        a, _, variances = self._level(t)
        x = x.double().flatten(1)  # (B, D)
        squares = (x**2).sum(1, keepdim=True) - 2 * a * (x @ self.means.T) + a**2 * (self.means**2).sum(1)
        densities = -squares / (2 * variances) - variances.log() * x.shape[1] / 2
        return (densities + priors.log()).log_softmax(1)

    def forward(self, x: torch.Tensor, t: Timestep, class_labels: torch.Tensor | None = None) -> UNet2DOutput:
        """The exact prediction for x_t, (B, C, H, W), in x's precision."""
        if class_labels is None:
            class_labels = torch.zeros(len(x), dtype=torch.long)
        a, sigma, variances = self._level(t)
        r = self.log_responsibilities(x, t, self.class_embedding(class_labels)).exp()  # (B, K)
        pull = r * (a * self.variances / variances)
        flat = x.double().flatten(1)
        clean = (r - a * pull) @ self.means + pull.sum(1, keepdim=True) * flat  # E[x₀ | x_t]
        # Not (x − a·E[x₀])/σ, which loses digits where the noise is faint.
        share = r / variances
        noise = sigma * (share.sum(1, keepdim=True) * flat - a * (share @ self.means))
        outputs = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - sigma * clean}
        return UNet2DOutput(outputs[self.config.prediction_type].reshape(x.shape).to(x.dtype))

    def _level(self, t: Timestep) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """a, σ and the V_k, (K,), at a timestep."""
        signal = self.alphas_cumprod[int(t)]
        return signal.sqrt(), (1 - signal).sqrt(), signal * self.variances + 1 - signal


class IdealClassifier(nn.Module):
    """log p(c | x_t), exactly, of the classes of an IdealUNet."""

    def __init__(self, unet: IdealUNet):
        super().__init__()
        self.unet = unet

    def forward(self, x: torch.Tensor, t: Timestep) -> torch.Tensor:
        """Log-probabilities; (B, N)."""
        priors = self.unet.class_embedding.weight
        log_r = self.unet.log_responsibilities(x, t, priors[-1].expand(len(x), -1))
        # r without a label, summed over the components that a class has.
        return torch.logsumexp(log_r[:, None] + torch.where(priors[:-1] > 0, 0.0, -torch.inf), dim=2)
