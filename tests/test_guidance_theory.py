"""What benchmarks/guidance_theory.py computes against closed forms, and the numbers that docs/guidance.md prints."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from benchmarks.guidance_theory import (
    CLASS,
    COUNT,
    Judge,
    best_interval,
    classifier_differences,
    ddim_density,
    ddim_map,
    differences,
    draw,
    equivalent_scales,
    gaussian_variances,
    kinds,
    latents,
    limits,
    line,
    mass_above,
    normal_scale,
    pipeline_of,
    plane,
)

ROOT = Path(__file__).parent.parent
DOCUMENT = " ".join((ROOT / "docs/guidance.md").read_text().split())
RESULTS = json.loads((ROOT / "docs/guidance/results.json").read_text())


# One dimension


def variance_by_recursion(w: float, steps: int, solver: str) -> float:
    """The same by the recursion of one step on the cosine schedule's ᾱ."""
    pipeline = pipeline_of(line(), solver)
    pipeline.set_timesteps(steps)
    signals = [*pipeline.scheduler.alphas_cumprod[pipeline.scheduler.timesteps].tolist(), 1.0]
    variance = 1.0
    for signal, following in zip(signals, signals[1:]):
        a, sigma, a_s, sigma_s = (math.sqrt(v) for v in (signal, 1 - signal, following, 1 - following))
        score = -(w + (1 - w) / (1 + signal))  # per x_t: variances 1 and 2, noised to 1 and 1 + ᾱ
        noise = -sigma * score
        clean = (1 - sigma * noise) / a
        beta = 1 - signal / following
        if solver == "ddim":
            variance *= (a_s * clean + sigma_s * noise) ** 2
        else:
            mean = a_s * beta / sigma**2 * clean + math.sqrt(1 - beta) * sigma_s**2 / sigma**2
            variance = mean**2 * variance + beta * sigma_s**2 / sigma**2
    return variance


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_guided_normals(solver):
    scales, side = (0.0, 1.0, 2.0, 4.0), 64
    for steps in (50, 500):
        exact = [variance_by_recursion(w, steps, solver) for w in scales]
        measured = gaussian_variances(solver, steps, scales, side)
        np.testing.assert_allclose(measured, exact, rtol=4.5 * math.sqrt(2 / side**2))
    finest = [variance_by_recursion(w, 1000, solver) for w in scales]
    np.testing.assert_allclose(finest, [limits(w)[solver] for w in scales], rtol=0.02)


def test_the_limits_differ():
    assert [limits(1.0)[name] for name in ("tilted", "ddim", "ddpm")] == [1, 1, 1]
    assert limits(3.0)["ddim"] < limits(3.0)["ddpm"] < limits(3.0)["tilted"]


@pytest.mark.parametrize("w", [1.0, 3.0])
def test_the_pushed_density_is_a_density(w):
    mixture = line()
    points, density = ddim_density(mixture, w, steps=500, points=2001)
    assert (np.diff(points) > 0).all()
    assert np.trapezoid(density, points) == pytest.approx(1, abs=1e-4)
    if w == 1:
        exact = np.exp(mixture.log_density(points[:, None], CLASS))
        np.testing.assert_allclose(density, exact, rtol=0, atol=0.01 * exact.max())
        assert mass_above(-0.25, points, density) == pytest.approx(0.5, abs=1e-3)
    else:  # the mean moves away from the other class, and so further than to the tilted distribution's
        mean = np.trapezoid(points * density, points)
        grid = np.linspace(-2, 2, 2001)
        tilted = np.exp(mixture.log_tilted(grid[:, None], w))
        assert mean < np.trapezoid(grid * tilted, grid) / np.trapezoid(tilted, grid) - 0.1


def test_the_pushed_points_are_the_pipelines():
    mixture, starts = (
        line(),
        randn_tensor((50, 1, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    )
    points, cost = draw(mixture, pipeline_of(mixture), 2.5, 20, 50)
    np.testing.assert_allclose(points[:, 0], ddim_map(pipeline_of(mixture), starts.flatten().numpy(), 2.5, 20))
    assert cost == {"unet": 40}


# The plane


def quadrature(mixture, w: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and second moments of the tilted distribution: Gauss–Hermite under p(x|c), times (p(x|c)/p(x))^(w−1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    offsets = np.stack(np.meshgrid(nodes, nodes), axis=2).reshape(-1, 2)
    product = np.outer(weights, weights).flatten()
    own = mixture.components == CLASS
    points = mixture.means[own][:, None] + np.sqrt(mixture.variances[own])[:, None, None] * offsets
    mass = mixture.weights[own][:, None] * product
    points, mass = points.reshape(-1, 2), mass.flatten()
    mass = mass * np.exp((w - 1) * (mixture.log_density(points, CLASS) - mixture.log_density(points)))
    mass /= mass.sum()
    return mass @ points, np.einsum("n,ni,nj->ij", mass, points, points)


@pytest.mark.parametrize("w", [1.0, 4.0])
def test_tilted_samples_have_the_moments_of_the_tilted_distribution(w):
    mixture, count = plane(), 40_000
    points = mixture.sample_tilted(w, count, seed=0)
    mean, second = quadrature(mixture, w)
    np.testing.assert_allclose(points.mean(0), mean, rtol=0, atol=4.5 * points.std(0).max() / math.sqrt(count))
    np.testing.assert_allclose(points.T @ points / count, second, rtol=0, atol=4.5 * 0.25 / math.sqrt(count))
    if w > 1:  # away from the common root, and by more than the moments can err
        assert mean[1] > quadrature(mixture, 1.0)[0][1] + 0.01


def test_the_judge():
    mixture = plane()
    judge = Judge(mixture)
    exact = judge.measure(mixture.sample(20_000, CLASS, seed=3))
    assert exact["outside"] == pytest.approx(0.01, abs=0.003)
    assert exact["coverage"] > 0.98
    other = judge.measure(mixture.sample(2000, CLASS + 1, seed=3))
    assert other["wrong"] > 0.95 and other["outside"] > 0.9
    # Σ_c p(c|x) = 1, and the posterior is that of the exact classifier.
    points = mixture.sample(100, CLASS, seed=4)
    densities = np.stack([mixture.log_density(points, c) for c in range(3)]) + math.log(1 / 3)
    np.testing.assert_allclose(np.exp(densities - mixture.log_density(points)).sum(0), 1)
    one_component = np.repeat(mixture.means[:1], 50, axis=0)
    assert judge.measure(one_component)["coverage"] < 0.1


def test_the_pipeline_draws_the_plane():
    """Plain conditional samples are the class, as wide as the closed form of DDIM's steps says also across the plane,
    where guidance has nothing to say."""
    mixture = plane()
    pipeline = pipeline_of(mixture)
    points, _ = draw(mixture, pipeline, count=2000)
    found = Judge(mixture).measure(points)
    assert found["coverage"] > 0.93 and found["outside"] < 0.015 and found["wrong"] < 0.05
    images, _ = latents(pipeline, [CLASS] * 1000, guidance_scale=3.0, num_inference_steps=100)
    across = images.flatten(1).numpy() @ np.ones(3) / math.sqrt(3)
    angles = np.arctan(np.exp(pipeline.log_snr_of_steps() / 2) * 0.05)
    narrow = np.cos(np.diff([*angles, math.pi / 2])).prod()
    assert across.std() == pytest.approx(0.05 * narrow, rel=0.07)
    printed(f"{1 - narrow:.0%} too narrow")


def test_the_standard_deviation_is_a_length():
    """What rescaling divides by, for the three pixels of any point: the same in every direction."""
    points = np.random.default_rng(0).standard_normal((20, 2))
    spread = (points @ plane().patterns).std(axis=1, ddof=1)
    np.testing.assert_allclose(spread, np.linalg.norm(points, axis=1) / math.sqrt(2))


def test_rows_of_the_tables():
    """A row of docs/guidance/results.json, drawn again: it is what this code gives."""
    mixture = plane()
    judge, interval = Judge(mixture), tuple(RESULTS["interval"])
    runs = kinds(mixture, 3.0, interval)
    assert set(runs) < set(RESULTS["kinds"])
    points, cost = runs["interval, w = 3"]()
    expected = dict(RESULTS["kinds"]["interval, w = 3"])
    assert len(points) == COUNT and cost == expected.pop("evaluations")
    for measure, value in judge.measure(points).items():
        assert value == pytest.approx(expected[measure], abs=2e-3), measure


def test_blurred_normals_are_restored():
    """Autoguidance of networks that take variance v for 2v and 3v gives v, for a single normal."""
    w = normal_scale(1.0, 2.0, 3.0)
    assert 2.0**w * 3.0 ** (1 - w) == pytest.approx(1)


def test_cfg_plus_plus_is_guidance_of_another_scale():
    mixture = plane()
    pipeline = pipeline_of(mixture)
    plus_plus, _ = draw(mixture, pipeline, 0.3, 50, 20, cfg_plus_plus=True)
    levels = pipeline.log_snr_of_steps()
    scales = dict(zip(levels.tolist(), equivalent_scales(levels, 0.3)))
    plain, _ = draw(mixture, pipeline, lambda level: scales[level], 50, 20)
    np.testing.assert_allclose(plain, plus_plus, rtol=1e-6, atol=1e-7)


def test_classifier_guidance_with_ddpm_is_classifier_free_to_first_order():
    found = classifier_differences(plane(), 3.0, (50, 200), count=200)
    assert found[50] / found[200] == pytest.approx(4, rel=0.3)


def test_what_the_label_changes():
    mixture = plane()
    found = differences(mixture, count=1000, stride=111)
    noisiest = found["log_snr"].argmin()
    distance = np.linalg.norm(mixture.priors[CLASS] @ mixture.means - mixture.weights @ mixture.means)
    assert found["velocity"][noisiest] == pytest.approx(distance, rel=0.01)
    assert found["evenness"][noisiest] == pytest.approx(1, abs=0.01)
    # By the posterior means: (E[x₀|x_t,c] − E[x₀|x_t])/σ.
    a = math.sqrt(1 / (1 + math.exp(-found["log_snr"][noisiest])))
    assert found["noise"][noisiest] == pytest.approx(a * distance, rel=0.02)
    assert found["nat"][0] < 0.01 and found["nat"][noisiest] < 0.01 < found["nat"].max()


# The numbers that docs/guidance.md prints.


def printed(*pieces: str) -> None:
    """The document contains each of these, whatever its line breaks."""
    missing = [piece for piece in pieces if piece not in DOCUMENT]
    assert not missing, f"docs/guidance.md should print {missing}"


def test_numbers_of_the_short_answer_and_the_interval():
    kinds_, scan = RESULTS["kinds"], RESULTS["scan"]
    inside, everywhere, none = (kinds_[name] for name in ("interval, w = 3", "classifier-free, w = 3", "none, w = 1"))
    printed(
        f"a coverage of {inside['coverage']:.2f}, where guidance throughout keeps {everywhere['coverage']:.2f}",
        f"leaves {inside['wrong']:.2%} of the samples in a wrong class instead of {none['wrong']:.2%}",
    )
    tilted = kinds_["(tilted distribution, w = 3)"]["wrong"]
    low, high = RESULTS["interval"]
    assert list(best_interval(scan, tilted)) == [low, high]
    steps = inside["evaluations"]["unet"] - 100
    printed(f"has, {tilted:.2%}. The best is $4\\le\\lambda<6$: {steps} of the 100 steps")
    assert (low, high) == (4, 6) and {tuple(row["interval"])[0] for row in scan} == set(range(-6, 8, 2))
    printed(f"$\\sigma/a$ is between {math.exp(-high / 2):.2f} and {math.exp(-low / 2):.2f}")
    printed(f"{inside['evaluations']['unet']} instead of {everywhere['evaluations']['unet']}")
    bands = {tuple(row["band"]): row for row in RESULTS["bands"]}
    assert set(sorted(bands, key=lambda band: bands[band]["coverage"])[:3]) == {(-2, 0), (0, 2), (2, 4)}
    assert min(row["wrong"] for band, row in bands.items() if band[1] <= -4) > 0.85 * none["wrong"]
    printed(
        f"corrects all wrong samples but {bands[4, 6]['wrong']:.2%} and costs "
        f"{none['coverage'] - bands[4, 6]['coverage']:.2f} of coverage"
    )


def test_numbers_of_one_dimension():
    right = RESULTS["right_normal"]["4"]
    printed(
        f"at $w=4$, {right['tilted']:.0%} of the mass",
        f"DDPM it is {right['ddpm']:.0%}, with DDIM {right['ddim']:.2%}",
    )
    peak = RESULTS["ddim_peak"]
    printed(f"DDIM's peak is at −{-peak:.2f}, {(-0.6 - peak) / 0.15:.1f} standard deviations to the left of")
    share = {name: limits(8.0)[name] / limits(8.0)["tilted"] for name in ("ddim", "ddpm")}
    printed(f"DDIM has {share['ddim']:.1%} of the variance of the tilt, and DDPM {share['ddpm']:.0%}")
    printed(f"{256**2:,} samples each, standard error of a variance {math.sqrt(2) / 256:.2%}")


def test_numbers_of_the_plane():
    rows = RESULTS["plane"]
    printed(f"coverage is down to {rows['guided, w = 2']['coverage']:.2f}")
    printed(f"{rows['guided, w = 8']['outside']:.1%} of the samples outside")
    worst = min(row["coverage"] for name, row in rows.items() if name.startswith("tilted"))
    printed(
        f"a coverage of {worst:.2f} or more",
        f"5,000 exact samples reach {rows['(exact samples of the class)']['coverage']:.2f}",
    )
    assert rows["guided, w = 2"]["wrong"] == 0
    found = {name: np.array(values) for name, values in RESULTS["differences"].items()}

    def evenness(level, digits=2):
        return f"{found['evenness'][np.abs(found['log_snr'] - level).argmin()]:.{digits}f}"

    printed(f"it is {evenness(-6.2)} at $\\lambda=-6.2$, {evenness(0)} at 0,")
    printed(f"{evenness(3.9)} at 3.9 and {evenness(6.3, 3)} at 6.3")
    for level in (-6.2, 0, 3.9, 6.3):
        assert np.abs(found["log_snr"] - level).min() < 0.06


def test_numbers_of_the_kinds():
    rows = RESULTS["kinds"]
    distances = [f"{RESULTS['ddpm_classifier'][steps]:.4f}" for steps in ("50", "200", "1000")]
    printed(f"{distances[0]}, {distances[1]} and {distances[2]} apart with 50, 200 and 1000 steps")
    free = rows["classifier-free, w = 3"]["coverage"]
    printed(f"at the same $w$ is {rows['rescaled, w = 3, φ = 0.7']['coverage']:.2f} instead of {free:.2f}")
    restored = rows["blurred, autoguidance, w = 2.7"]
    printed(
        f"{rows['blurred, w = 1']['outside']:.1%} of its samples are outside",
        f"makes that {rows['blurred, classifier-free, w = 3']['outside']:.1%}, autoguidance "
        f"{restored['outside']:.1%}, at a coverage of {restored['coverage']:.2f}",
        f"\\ln3/\\ln1.5={normal_scale(1.0, 2.0, 3.0):.1f}",
    )
    for name in ("wrong", "outside", "coverage"):  # with DDIM classifier guidance is classifier-free guidance
        assert rows["classifier, s = 3"][name] == pytest.approx(rows["classifier-free, w = 3"][name], abs=1e-9)
    assert RESULTS["cfg_plus_plus"]["25"]["largest_scale"] < 1
    alphas = pipeline_of(line()).scheduler.alphas_cumprod
    printed(f"multiplied by $1/a$, {float(alphas[-1]) ** -0.5:,.0f} in the last step of the cosine schedule")
