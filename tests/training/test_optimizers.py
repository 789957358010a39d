"""Muon, against the singular value decomposition and torch's own; and which weights it is given."""

import math

import pytest
import torch
from torch import nn

from cardiff.config.sections import TrainConfig
from cardiff.training.optimizers import (
    COEFFICIENTS,
    MOMENTUM,
    Muon,
    build_optimizer,
    hidden_matrices,
    orthogonalisation_flops,
    orthogonalised,
)
from tests.support.tiny_models import tiny_unet

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(3, 16, 64), (2, 64, 16), (1, 8, 8)])
def test_the_singular_vectors_stay_and_the_values_go_through_the_polynomial(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, values, vt = torch.linalg.svd(matrices, full_matrices=False)
    values = values / matrices.norm(dim=(-2, -1))[:, None]
    a, b, c = COEFFICIENTS
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    expected = u @ torch.diag_embed(values) @ vt
    torch.testing.assert_close(orthogonalised(matrices), expected, rtol=0, atol=1e-12)
    assert values.max() < 1.21


def test_values_that_are_not_tiny_become_about_one():
    matrices = torch.randn((4, 32, 96), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalised(matrices))
    assert 0.65 < values.min() and values.max() < 1.21


def test_bf16_is_enough_for_the_iteration():
    matrices = torch.randn((2, 24, 72), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    reduced = orthogonalised(matrices.bfloat16())
    assert reduced.dtype == torch.bfloat16
    values = torch.linalg.svdvals(reduced.double())
    assert 0.6 < values.min() and values.max() < 1.25
    torch.testing.assert_close(orthogonalised(matrices.float()).double(), orthogonalised(matrices), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32), ("fp16", torch.float32)]
)
def test_the_products_have_the_precision_of_the_run(precision, dtype, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "cardiff.training.optimizers.orthogonalised", lambda matrices: (seen.append(matrices.dtype), matrices)[1]
    )
    unet = tiny_unet(num_classes=3)
    optimizer = build_optimizer(unet, TrainConfig(optimizer="muon"), CPU, precision)
    for parameter in unet.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert set(seen) == {dtype} and all(parameter.dtype == torch.float32 for parameter in unet.parameters())


def test_a_zero_gradient_gives_a_zero_update():
    assert torch.equal(orthogonalised(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


def test_it_agrees_with_the_optimizer_of_torch_up_to_the_rounding_of_bf16():
    """torch's multiplies in bf16, so the iteration is compared by its result: singular values within a few percent."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(24, 40, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    other = nn.Parameter(torch.zeros(1))
    mine = Muon([ours], [other], lr=0.02, weight_decay=0.1)
    reference = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.1, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(5):
        ours.grad = torch.randn(24, 40, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step(), reference.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_a_kernel_is_a_matrix_of_one_row_for_each_output():
    generator = torch.Generator().manual_seed(0)
    kernel, flat = nn.Parameter(torch.zeros(8, 4, 3, 3)), nn.Parameter(torch.zeros(8, 36))
    kernel.grad = torch.randn(8, 4, 3, 3, generator=generator)
    flat.grad = kernel.grad.reshape(8, 36).clone()
    other = nn.Parameter(torch.zeros(1))
    for parameter in (kernel, flat):
        Muon([parameter], [other], lr=1.0, weight_decay=0.0).step()
    torch.testing.assert_close(kernel.detach().reshape(8, 36), flat.detach(), rtol=0, atol=1e-6)
    # Root mean square 0.2 for singular values of 1: the scale of Liu et al.
    rms = kernel.detach().square().mean().sqrt()
    assert math.isclose(rms, 0.2, rel_tol=0.15)


def test_equal_shapes_are_multiplied_together_and_stay_apart():
    generator = torch.Generator().manual_seed(0)
    pair = [nn.Parameter(torch.zeros(6, 10)) for _ in range(2)]
    alone = [nn.Parameter(torch.zeros(6, 10)) for _ in range(2)]
    for one, other in zip(pair, alone):
        one.grad = torch.randn(6, 10, generator=generator)
        other.grad = one.grad.clone()
    Muon(pair, [nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0.0).step()
    for other in alone:
        Muon([other], [nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(pair, alone, rtol=0, atol=1e-6)


def test_everything_else_is_stepped_by_adamw():
    generator = torch.Generator().manual_seed(0)
    settings = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.95)}
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    mine, reference = (
        Muon([nn.Parameter(torch.zeros(2, 2))], [ours], **settings),
        torch.optim.AdamW([theirs], **settings),
    )
    for _ in range(4):
        ours.grad = torch.randn(5, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step(), reference.step()
    assert torch.equal(ours, theirs)


def test_muon_has_the_layers_between_the_first_and_the_last():
    unet = tiny_unet(num_classes=3)
    names = dict(hidden_matrices(unet))
    assert not any(name.startswith(("conv_in", "conv_out", "class_embedding")) for name in names)
    assert all(weight.ndim in (2, 4) for weight in names.values())
    everything = dict(unet.named_parameters())
    left = {name for name, p in everything.items() if p.ndim > 1 and name not in names}
    assert left == {"conv_in.weight", "conv_out.weight", "class_embedding.weight"}
    assert all(everything[name] is weight for name, weight in names.items())


def test_every_parameter_is_stepped_once():
    unet = tiny_unet(num_classes=3)
    optimizer = build_optimizer(unet, TrainConfig(optimizer="muon"), CPU)
    stepped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in unet.parameters())


def test_adamw_is_torchs_with_the_options():
    optimizer = build_optimizer(
        nn.Linear(2, 2), TrainConfig(adam_beta2=0.95, weight_decay=0.3, learning_rate=0.5), CPU
    )
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.5, 0.3, (0.9, 0.95))


def test_the_arithmetic_is_what_the_products_of_the_iteration_take():
    from torch.utils.flop_counter import FlopCounterMode

    unet = tiny_unet(num_classes=3)
    optimizer = build_optimizer(unet, TrainConfig(optimizer="muon"), CPU)
    for parameter in unet.parameters():
        parameter.grad = torch.ones_like(parameter)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert counter.get_total_flops() == orthogonalisation_flops(unet)
