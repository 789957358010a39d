"""Optimizers of a training run: AdamW, and Muon for the matrices of a network with AdamW for everything else."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from cardiff.config.sections import TrainConfig
from cardiff.training.sharding import as_sharded, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial a·s + b·s³ + c·s⁵ that is applied to the singular values: Jordan's, steep at 0, so that five
steps take all but tiny values to between 0.7 and 1.2."""
STEPS = 5
MOMENTUM = 0.95
RMS = 0.2
"""Root mean square of an update at learning rate 1: about AdamW's, so that both take the same learning rate."""


def build_optimizer(
    model: nn.Module, train: TrainConfig, device: torch.device, precision: str = "no"
) -> torch.optim.Optimizer:
    """The optimizer of a run, before the network is sharded.

    Args:
        model: The network.
        train: Which optimizer, and its settings.
        device: Where the run trains.
        precision: Accelerate's `mixed_precision` of the run; Muon multiplies in bf16 if the network does.
    """
    adamw: dict[str, Any] = {
        "lr": train.learning_rate,
        "weight_decay": train.weight_decay,
        "betas": (0.9, train.adam_beta2),
        "fused": True if device.type in ("cpu", "cuda") else None,
    }
    if train.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), **adamw)
    matrices = dict(hidden_matrices(model))
    rest = [parameter for name, parameter in model.named_parameters() if name not in matrices]
    return Muon(matrices.values(), rest, dtype=torch.bfloat16 if precision == "bf16" else None, **adamw)


def hidden_matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights that Muon is for, by name: convolutions and linear layers between the first and the last one.

    The first and last convolution, whose inputs and outputs are pixels or logits, and embeddings are left to AdamW, as
    Jordan recommends.
    """
    parameters = dict(model.named_parameters())
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and name not in ("conv_in", "conv_out", "head"):
            yield f"{name}.weight", parameters[f"{name}.weight"]


class Muon(torch.optim.Optimizer):
    """Muon: momentum whose singular values are all set to about 1; and AdamW for what is not a matrix.

    K. Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024), with the scale of Liu et al., "Muon is
    scalable for LLM training" (arXiv 2502.16982, section 2.2): an (m, n) update is multiplied by 0.2·√max(m, n), so
    that its root mean square is about that of an AdamW update and one learning rate and weight decay serve both.
    A kernel (out, in, h, w) is a matrix (out, in·h·w). torch.optim.Muon takes matrices only, and always multiplies in
    bf16, which most CPUs emulate.

    Args:
        matrices: Parameters for Muon, with two or more dimensions.
        rest: Parameters for AdamW.
        dtype: Of the matrix products; by default that of the weights.
        adamw: Arguments of AdamW; `lr` and `weight_decay` also apply to the matrices.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        rest: Iterable[nn.Parameter],
        dtype: torch.dtype | None = None,
        **adamw: Any,
    ):
        self.dtype = dtype
        self.adamw = torch.optim.AdamW(list(rest), **adamw)
        first = {"params": list(matrices), "lr": adamw["lr"], "weight_decay": adamw["weight_decay"]}
        super().__init__([first, *self.adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both; parameters without a gradient are left as they are."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        muon, *rest = self.param_groups
        # Loading a state, or sharding the network, replaces them.
        self.adamw.state, self.adamw.param_groups = self.state, rest
        self.adamw.step()
        self._step_matrices(muon)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        alike = defaultdict(list)  # by shape, to be multiplied together
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - MOMENTUM)
            update = whole(parameter.grad.lerp(momentum, MOMENTUM))  # Nesterov's
            alike[(len(update), update.numel() // len(update))].append((parameter, update))
        for (rows, columns), members in alike.items():
            stacked = torch.stack([update.reshape(rows, columns) for _, update in members])
            stacked = stacked.to(self.dtype or stacked.dtype)
            scale = RMS * math.sqrt(max(rows, columns))
            for (parameter, update), flat in zip(members, orthogonalised(stacked), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                direction = as_sharded(flat.view_as(update).to(parameter.dtype), parameter)
                parameter.add_(direction, alpha=-group["lr"] * scale)


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """U·f(S)·Vᵀ of matrices U·S·Vᵀ, where f takes all but tiny singular values to about 1.  # (B, m, n)

    By the Newton-Schulz iteration X ← aX + (bA + cA²)X with A = XXᵀ, in the dtype of the matrices. bf16 will do: the
    singular values end between 0.7 and 1.2 whatever the rounding.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value is above 1
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def orthogonalisation_flops(model: nn.Module) -> int:
    """FLOP of the matrix products in one step of Muon."""
    total = 0
    for _, weight in hidden_matrices(model):
        short, long = sorted((len(weight), weight.numel() // len(weight)))
        total += STEPS * (4 * short * short * long + 2 * short**3)
    return total
