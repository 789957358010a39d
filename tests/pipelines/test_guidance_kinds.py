"""Every kind of guidance against loops written here, and against data whose exact predictions are known."""

import math
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils.torch_utils import randn_tensor
from torch.distributions import Independent, Normal

from cardiff.analysis.ideal import IdealClassifier, IdealUNet, class_priors
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.schedulers import CosineScheduler, LinearScheduler
from tests.support.tiny_models import NAMES, gaussian_pipeline, tiny_pipeline, tiny_unet

# Three classes in the plane, of two, one and two normals.
MEANS = torch.tensor([[0.9, 0.2], [0.3, 0.8], [-0.8, 0.4], [-0.2, -0.7], [0.5, -0.5]], dtype=torch.float64)
VARIANCES = [0.02, 0.05, 0.03, 0.01, 0.04]
COMPONENTS = [0, 0, 1, 2, 2]
PRIORS = class_priors(COMPONENTS, [0.1, 0.2, 0.3, 0.25, 0.15])
LABELS = [0, 1, 2, 2]


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators[0] if len(seeds) == 1 else generators


def four():
    """Generators of four images."""
    return seeded(1, 2, 3, 4)


def mixture(solver="ddim", prediction_type="epsilon", priors=PRIORS, variances=VARIANCES, **options):
    """The pipeline around the exact denoiser of the mixture; its ᾱ are float64 where the solver uses them."""
    trained = LinearScheduler(clip_sample=False, prediction_type=prediction_type, **options)
    scheduler = make_solver(trained, solver)
    trained.alphas_cumprod = scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    unet = IdealUNet(MEANS[:, None, None], variances, trained, priors)
    pipeline = ClassConditionalPipeline(unet, scheduler, NAMES if len(priors) > 1 else None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def trajectory(pipeline, *labels, **arguments):
    """Everything that a run goes through: the latents and the outputs after each step, (steps, B, C, H, W)."""
    seen = {"latents": [], "model_output": []}

    def watch(_pipeline, _i, _t, tensors):
        for name, tensor in tensors.items():
            seen[name].append(tensor)

    watched = {"callback_on_step_end": watch, "callback_on_step_end_tensor_inputs": list(seen)}
    result = pipeline(*labels, output_type="pt", **watched, **arguments)
    return *(torch.stack(tensors) for tensors in seen.values()), result.evaluations


def final(pipeline, *labels, **arguments):
    return trajectory(pipeline, *labels, **arguments)[0][-1]


def a_sigma(pipeline, t):
    signal = float(pipeline.scheduler.alphas_cumprod[int(t)])
    return math.sqrt(signal), math.sqrt(1 - signal)


def log_density(x, a, sigma, weights):
    """log p_t of points (B, 2), by torch's own distributions."""
    spread = (a**2 * torch.tensor(VARIANCES, dtype=torch.float64) + sigma**2).sqrt()
    parts = Independent(Normal(a * MEANS, spread[:, None].expand(-1, 2)), 1)
    return torch.logsumexp(parts.log_prob(x[:, None]) + torch.as_tensor(weights).log(), dim=1)


def exact_noise(x, a, sigma, weights):
    """ε* = −σ·∇log p_t of points (B, 1, 1, 2)."""
    with torch.enable_grad():
        flat = x.reshape(-1, 2).detach().requires_grad_()
        (score,) = torch.autograd.grad(log_density(flat, a, sigma, weights).sum(), flat)
    return -sigma * score.reshape(x.shape)


def by_class(x, a, sigma, labels):
    return torch.cat([exact_noise(x[i : i + 1], a, sigma, PRIORS[c]) for i, c in enumerate(labels)])


# Classifier-free guidance


@pytest.mark.parametrize("w", [0.0, 1.0, 3.0, -0.5])
def test_guided_predictions_are_the_closed_forms(w):
    pipeline = mixture()
    latents, outputs, _ = trajectory(pipeline, LABELS, guidance_scale=w, num_inference_steps=20, generator=four())
    start = randn_tensor(latents[0].shape, generator=four(), dtype=torch.float64)
    for x, output, t in zip([start, *latents], outputs, pipeline.scheduler.timesteps):
        a, sigma = a_sigma(pipeline, t)
        weak, strong = exact_noise(x, a, sigma, PRIORS[-1]), by_class(x, a, sigma, LABELS)
        torch.testing.assert_close(output, (1 - w) * weak + w * strong, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("w", [0, 1])
def test_no_guidance_is_the_plain_sampler_bit_for_bit(solver, w):
    """A loop of three lines with diffusers' own scheduler."""
    trained = CosineScheduler(prediction_type="v_prediction")
    pipeline = tiny_pipeline(make_solver(trained, solver))
    images = final(pipeline, [2, 0], guidance_scale=w, num_inference_steps=5, generator=seeded(1))
    scheduler, generator = make_solver(trained, solver), seeded(1)
    scheduler.set_timesteps(5)
    x = randn_tensor((2, 1, 8, 8), generator=generator) * scheduler.init_noise_sigma
    kwargs = {"ddpm": {"generator": generator}, "euler": {"generator": generator}}.get(solver, {})
    kwargs = {"use_clipped_model_output": True} if solver == "ddim" else kwargs
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = pipeline.unet(scheduler.scale_model_input(x, t), t, torch.tensor([2, 0] if w else [3, 3])).sample
            step = scheduler.step(output, t, x, **kwargs)
            x = step.prev_sample
    x = step.pred_original_sample if solver == "ddpm" else x
    torch.testing.assert_close(images, x, rtol=0, atol=0)


@pytest.mark.parametrize("w", [1.0, 1.5, 2.0, 3.0])
def test_guided_gaussians_with_ddpm(w):
    """Unconditional N(0, 2), conditional N(0, 1): the variance goes to (2 − 2^(2−2w))/(2w − 1)."""
    trained = LinearScheduler(clip_sample=False)
    pipeline = gaussian_pipeline(trained, make_solver(trained, "ddpm"), [0.0, 0.0], [1.0, 2.0], 96)
    images = final(pipeline, [0], guidance_scale=w, num_inference_steps=1000, generator=seeded(0))
    signals = [*pipeline.scheduler.alphas_cumprod.double()[pipeline.scheduler.timesteps].tolist(), 1.0]
    v = 1.0
    for signal, following in zip(signals, signals[1:]):
        beta = 1 - signal / following
        score = (1 - w) / (1 + signal) + w  # ∇log p = −score·x, with V = 1 + ᾱ and 1
        clean = (1 - (1 - signal) * score) / math.sqrt(signal)
        of_clean = math.sqrt(following) * beta / (1 - signal)
        of_sample = math.sqrt(1 - beta) * (1 - following) / (1 - signal)
        v = (of_clean * clean + of_sample) ** 2 * v + beta * (1 - following) / (1 - signal)
    assert images.var().item() == pytest.approx(v, abs=5 * v * math.sqrt(2 / 96**2))
    assert v == pytest.approx((2 - 2 ** (2 - 2 * w)) / (2 * w - 1), rel=0.02)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm"])
def test_class_shares_follow_the_weights(solver):
    """Without labels the shares of the components are those of the data; a mixed label has those of its weights."""
    pipeline, count = mixture(solver), 1500
    means = MEANS.reshape(-1, 2)

    def shares(points):
        nearest = torch.cdist(points.reshape(-1, 2), means).argmin(1)
        return np.bincount(np.array(COMPONENTS)[nearest], minlength=3) / count

    free = final(pipeline, batch_size=count, num_inference_steps=100, generator=seeded(0))
    expected = [PRIORS[-1][np.array(COMPONENTS) == c].sum() for c in range(3)]
    np.testing.assert_allclose(shares(free), expected, atol=4 * math.sqrt(0.25 / count))
    label = {"ant": 0.7, 2: 0.3}
    mixed = final(pipeline, [label] * count, num_inference_steps=100, generator=seeded(1))
    np.testing.assert_allclose(shares(mixed), [0.7, 0, 0.3], atol=4 * math.sqrt(0.25 / count))


# Mixed labels


def test_a_mixture_is_the_mean_of_embeddings():
    pipeline = tiny_pipeline()
    table = pipeline.unet.class_embedding
    labels = [{0: 0.25, "cat, black": 0.75}, "bee", {"ant": 1.0}]
    images = final(pipeline, labels, guidance_scale=2, num_inference_steps=3, generator=seeded(1, 2, 3))
    assert pipeline.unet.class_embedding is table
    other = tiny_pipeline()
    with torch.no_grad():
        weight = other.unet.class_embedding.weight
        weight[0] = 0.25 * weight[0] + 0.75 * weight[2]
    by_hand = final(other, [0], guidance_scale=2, num_inference_steps=3, generator=[seeded(1)])
    torch.testing.assert_close(images[:1], by_hand, rtol=1e-5, atol=1e-5)
    plain = final(pipeline, [0, 1, 0], guidance_scale=2, num_inference_steps=3, generator=seeded(1, 2, 3))
    torch.testing.assert_close(images[1:], plain[1:], rtol=0, atol=1e-6)
    assert (images[0] - plain[0]).abs().max() > 0.01


def test_the_embeddings_come_back_after_an_error():
    pipeline = tiny_pipeline()
    table = pipeline.unet.class_embedding

    def fail(*_):
        raise KeyError

    with pytest.raises(KeyError):
        pipeline([{0: 0.5, 1: 0.5}], num_inference_steps=2, callback_on_step_end=fail)
    assert pipeline.unet.class_embedding is table


@pytest.mark.parametrize("label", [{0: 0.5}, {0: 1.5, 1: -0.5}, {}])
def test_refused_mixtures(label):
    with pytest.raises(ValueError, match="must not be negative and must add up to 1"):
        tiny_pipeline()([label])


def test_a_mixture_with_an_unknown_class():
    with pytest.raises(ValueError, match="Class label 'dog' is not a class of this model"):
        tiny_pipeline()([{"ant": 0.5, "dog": 0.5}])


# Scales for each image, and as a function of log-SNR


@pytest.mark.parametrize("solver", ["ddpm", "dpm"])
def test_scales_for_each_image_equal_separate_runs(solver):
    pipeline = tiny_pipeline(make_solver(CosineScheduler(prediction_type="v_prediction"), solver))
    scales = [2.5, 0.0, 1.0, -1.0]
    arguments = {"num_inference_steps": 5}
    together, _, evaluations = trajectory(pipeline, [0, 1, 2, 0], guidance_scale=scales, generator=four(), **arguments)
    assert evaluations == {"unet": [10, 5, 5, 10]}
    for i, w in enumerate(scales):
        alone = final(pipeline, [[0, 1, 2, 0][i]], guidance_scale=w, generator=[four()[i]], **arguments)
        torch.testing.assert_close(together[-1][i : i + 1], alone, rtol=0, atol=1e-5)
    as_tensor = final(pipeline, [0, 1, 2, 0], guidance_scale=torch.tensor(scales), generator=four(), **arguments)
    torch.testing.assert_close(as_tensor, together[-1], rtol=0, atol=0)


def test_only_the_rows_that_are_needed_are_evaluated():
    pipeline, seen = tiny_pipeline(), []
    pipeline.unet.register_forward_pre_hook(lambda _unet, arguments: seen.append(arguments[2].tolist()))
    pipeline([0, 1, 2], guidance_scale=[2, 0, 1], num_inference_steps=2)
    assert seen == [[3, 3, 0, 2]] * 2  # no label for the first two, the label for the first and the last


def test_a_scale_as_a_function_of_log_snr():
    pipeline, asked = tiny_pipeline(), []

    def ramp(log_snr):
        asked.append(log_snr)
        return [1.0, 2.0 + log_snr / 20]

    arguments = {"num_inference_steps": 4, "generator": seeded(1, 2)}
    images, outputs, evaluations = trajectory(pipeline, [0, 1], guidance_scale=ramp, **arguments)
    levels = torch.logit(pipeline.scheduler.alphas_cumprod.double())[[999, 749, 499, 249]]
    np.testing.assert_allclose(asked, levels, rtol=1e-6)
    assert evaluations == {"unet": [4, 8]}
    x = images[1][1:]
    with torch.no_grad():
        pair = pipeline.unet(x.repeat(2, 1, 1, 1), torch.tensor(499), torch.tensor([3, 1])).sample
    expected = pair[:1] + (2 + float(levels[2]) / 20) * (pair[1:] - pair[:1])
    torch.testing.assert_close(outputs[2][1:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [[1.0, 2.0], lambda _level: [1.0, 2.0, 3.0, 4.0]])
def test_wrong_numbers_of_scales(scale):
    with pytest.raises(ValueError, match="for 3 images: give one number, or one for each image"):
        tiny_pipeline()([0, 1, 2], guidance_scale=scale)


def test_scales_must_be_finite():
    with pytest.raises(ValueError, match="guidance_scale is NaN or infinite"):
        tiny_pipeline()([0], guidance_scale=math.inf)


# The interval


@pytest.mark.parametrize("solver", SOLVERS)
def test_outside_its_interval_guidance_is_the_conditional_sampler(solver):
    pipeline = tiny_pipeline(make_solver(CosineScheduler(prediction_type="v_prediction"), solver))
    arguments = {"num_inference_steps": 5}
    plain, _, cost = trajectory(pipeline, LABELS, generator=four(), **arguments)
    for interval in ((20.0, 30.0), (-40.0, -30.0)):
        outside, _, same = trajectory(
            pipeline, LABELS, guidance_scale=4, guidance_interval=interval, generator=four(), **arguments
        )
        torch.testing.assert_close(outside, plain, rtol=0, atol=0)
        assert same == cost == {"unet": [5] * 4}
    guided = final(pipeline, LABELS, guidance_scale=4, generator=four(), **arguments)
    inside = final(pipeline, LABELS, guidance_scale=4, guidance_interval=(-40, 40), generator=four(), **arguments)
    torch.testing.assert_close(inside, guided, rtol=0, atol=0)
    assert (guided - plain[-1]).abs().max() > 0.01


def test_the_interval_is_half_open_and_costs_what_it_guides():
    pipeline, seen = tiny_pipeline(), []
    pipeline.unet.register_forward_pre_hook(lambda _unet, arguments: seen.append(len(arguments[0])))
    pipeline.set_timesteps(5)
    low, high = pipeline.log_snr_of_steps()[[2, 4]]
    assert low == pytest.approx(torch.logit(pipeline.scheduler.alphas_cumprod.double()[599]).item())
    arguments = {"guidance_scale": 3, "num_inference_steps": 5, "generator": seeded(1)}
    by_level, _, evaluations = trajectory(pipeline, [0], guidance_interval=(low, high), **arguments)
    assert seen == [1, 1, 2, 2, 1]  # at timesteps 999, 799, 599, 399, 199
    assert evaluations == {"unet": [7]}
    sigmas = math.exp(-high / 2), math.exp(-low / 2) * (1 + 1e-9)
    arguments["generator"] = seeded(1)
    torch.testing.assert_close(final(pipeline, [0], guidance_interval_sigma=sigmas, **arguments), by_level[-1])
    arguments |= {"generator": seeded(1), "guidance_scale": lambda level: 3 if low - 1e-9 <= level < high else 1}
    torch.testing.assert_close(final(pipeline, [0], **arguments), by_level[-1], rtol=0, atol=0)


# Classifier guidance


@pytest.mark.parametrize("variances", [VARIANCES, [0.0] * 5], ids=["mixture", "finite set"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", ["ddim", "dpm", "unipc"])
def test_classifier_guidance_with_the_exact_posterior_is_classifier_free(solver, prediction_type, variances):
    """On an unconditional UNet with s = w, and on a conditional one with s = w − 1."""
    free = mixture(solver, prediction_type, variances=variances)
    alone = mixture(solver, prediction_type, priors=PRIORS[-1:], variances=variances)
    classifier = IdealClassifier(free.unet)
    classifier.id2label = NAMES
    arguments = {"num_inference_steps": 20}
    latents, outputs, cost = trajectory(free, LABELS, guidance_scale=3.0, generator=four(), **arguments)
    for pipeline, scale in ((alone, 3.0), (free, 2.0)):
        arguments |= {"classifier": classifier, "classifier_scale": scale, "generator": four()}
        same_latents, same_outputs, evaluations = trajectory(pipeline, LABELS, **arguments)
        torch.testing.assert_close(same_outputs[0], outputs[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(same_latents, latents, rtol=1e-9, atol=1e-9)
        assert cost == {"unet": [40] * 4} and evaluations == {"unet": [20] * 4, "classifier": [20] * 4}


@pytest.mark.parametrize("variances", [VARIANCES, [0.0] * 5], ids=["mixture", "finite set"])
def test_the_identity_itself_at_every_noise_level(variances):
    """ε_∅ + w·(ε_c − ε_∅) = ε_∅ − w·σ·∇log p(c|x_t), to 1e-12 of it."""
    pipeline = mixture(variances=variances)
    classifier, unet = IdealClassifier(pipeline.unet), pipeline.unet
    for t in range(0, 1000, 37):
        a, sigma = a_sigma(pipeline, t)
        x = (a * MEANS[:4] + 0.7 * sigma).reshape(4, 1, 1, 2).requires_grad_()
        chosen = classifier(x, t)[range(4), LABELS]
        (gradient,) = torch.autograd.grad(chosen.sum(), x)
        with torch.no_grad():
            weak, strong = (unet(x, t, torch.tensor(ids)).sample for ids in ([3] * 4, LABELS))
        scale = (3 * strong).abs().max().item()
        torch.testing.assert_close(weak + 3 * (strong - weak), weak - 3 * sigma * gradient, rtol=0, atol=1e-12 * scale)


def test_ddpm_shifts_the_mean_by_the_variance():
    """x_s ~ N(μ + s·Σ·∇log p(c|x_t), Σ), written anew; the last step, of variance 0, asks no classifier."""
    pipeline = mixture("ddpm", priors=PRIORS[-1:])
    classifier = IdealClassifier(mixture().unet)
    classifier.id2label = NAMES
    generator = seeded(5)
    latents, _, evaluations = trajectory(
        pipeline, LABELS, classifier=classifier, classifier_scale=[1.5, 0, 2, -1], num_inference_steps=20,
        generator=generator,
    )  # fmt: skip
    assert evaluations == {"unet": [20] * 4, "classifier": [19, 0, 19, 19]}
    generator = seeded(5)
    x = torch.randn(latents[0].shape, generator=generator, dtype=torch.float64)
    scales = torch.tensor([1.5, 0, 2, -1], dtype=torch.float64).view(-1, 1, 1, 1)
    timesteps = pipeline.scheduler.timesteps
    for i, t in enumerate(timesteps[:-1]):
        (a, sigma), (a_s, sigma_s) = a_sigma(pipeline, t), a_sigma(pipeline, timesteps[i + 1])
        alpha = (a / a_s) ** 2
        weak = exact_noise(x, a, sigma, PRIORS[-1])
        gradient = (weak - by_class(x, a, sigma, LABELS)) / sigma
        mean = (x - (1 - alpha) / sigma * weak) / math.sqrt(alpha)
        variance = sigma_s**2 / sigma**2 * (1 - alpha)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = mean + scales * variance * gradient + math.sqrt(variance) * noise
        torch.testing.assert_close(latents[i], x, rtol=1e-6, atol=1e-6)


def test_ddpm_knows_its_variance():
    """The variance that the scheduler adds, under each of its names."""
    for kind in ("fixed_small", "fixed_small_log", "fixed_large"):
        pipeline = tiny_pipeline(LinearScheduler(variance_type=kind).to_stock())
        pipeline.set_timesteps(50)
        a, a_s = (a_sigma(pipeline, t)[0] for t in (499, 479))
        beta = 1 - (a / a_s) ** 2
        expected = beta if kind == "fixed_large" else beta * (1 - a_s**2) / (1 - a**2)
        variance = pipeline._reverse_variance(torch.tensor(499))
        assert variance.item() == pytest.approx(expected, rel=1e-4), kind


def test_a_mixed_label_asks_the_classifier_for_the_mixture():
    """∇log Σ w_c·p(c|x_t)."""
    pipeline = mixture(priors=PRIORS[-1:])
    classifier = IdealClassifier(mixture().unet)
    classifier.id2label = NAMES
    _, outputs, _ = trajectory(
        pipeline, [{0: 0.4, 2: 0.6}], classifier=classifier, num_inference_steps=10, generator=[seeded(1)]
    )
    start = randn_tensor((1, 1, 1, 2), generator=seeded(1), dtype=torch.float64)
    a, sigma = a_sigma(pipeline, 999)
    with torch.enable_grad():
        x = start.clone().requires_grad_()
        p = classifier(x, 999).exp()
        (gradient,) = torch.autograd.grad((0.4 * p[:, 0] + 0.6 * p[:, 2]).log().sum(), x)
    expected = exact_noise(start, a, sigma, PRIORS[-1]) - sigma * gradient
    torch.testing.assert_close(outputs[0], expected, rtol=1e-11, atol=1e-11)


def test_without_signal_a_classifier_says_nothing():
    """At zero terminal SNR a = 0, and 1/a must not make noise of its gradient."""
    trained = CosineScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    pipeline = tiny_pipeline(make_solver(trained, "ddim"))
    plain, _, _ = trajectory(pipeline, [0], num_inference_steps=4, generator=seeded(1))
    guided, _, _ = trajectory(
        pipeline, [0], classifier=TinyClassifier(), classifier_scale=5, num_inference_steps=4, generator=seeded(1)
    )
    torch.testing.assert_close(guided[0], plain[0], rtol=0, atol=1e-6)
    assert guided.isfinite().all() and (guided[1] - plain[1]).abs().max() > 1e-3


class TinyClassifier(torch.nn.Module):
    """A smooth function of x_t and t, with three classes and no claim to truth."""

    id2label = NAMES

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(64, 3, generator=generator, dtype=torch.float64))

    def forward(self, x, t):
        return torch.tanh(x.double().flatten(1) @ self.weight / 4) * (1 + t / 1000)


# Rescaling and thresholding


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_rescaling_is_that_of_diffusers(prediction_type):
    pipeline = tiny_pipeline(make_solver(CosineScheduler(prediction_type=prediction_type), "ddim"))
    arguments = {"num_inference_steps": 1, "generator": seeded(1, 2)}
    _, outputs, cost = trajectory(pipeline, [0, 1], guidance_scale=[5.0, 1.0], guidance_rescale=0.7, **arguments)
    x = randn_tensor((2, 1, 8, 8), generator=seeded(1, 2))
    with torch.no_grad():
        weak, strong = (pipeline.unet(x, 999, torch.tensor(ids)).sample for ids in ([3, 3], [0, 1]))
    expected = rescale_noise_cfg(weak + 5 * (strong - weak), strong, guidance_rescale=0.7)
    torch.testing.assert_close(outputs[0][0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs[0][1], strong[1], rtol=1e-5, atol=1e-6)
    assert cost == {"unet": [2, 1]}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm", "unipc"])
def test_dynamic_thresholding_is_that_of_diffusers(solver, prediction_type):
    """Ours, on a solver without, against the solver's own."""
    trained = CosineScheduler(prediction_type=prediction_type, clip_sample=False)
    pipeline = tiny_pipeline(make_solver(trained, solver))
    arguments = {"guidance_scale": 4, "num_inference_steps": 5}
    ours = final(pipeline, [0, 1], dynamic_thresholding=0.8, generator=seeded(1, 2), **arguments)
    own = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1e9}
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **own)
    theirs = final(pipeline, [0, 1], generator=seeded(1, 2), **arguments)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="already uses dynamic thresholding"):
        pipeline([0], dynamic_thresholding=0.8)


def test_dynamic_thresholding_of_more_pixels_than_a_quantile_takes(monkeypatch):
    """As older versions of torch refuse them; images are split, and one of them is never taken apart."""
    taken, limit = torch.quantile, 130
    pipeline = tiny_pipeline()
    how = {"dynamic_thresholding": 0.8, "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    whole = pipeline([0, 1, 2], generator=seeded(1, 2, 3), **how).images

    def limited(values, *arguments, **more):
        assert 0 < values.numel() <= limit
        return taken(values, *arguments, **more)

    monkeypatch.setattr(torch, "quantile", limited)
    monkeypatch.setattr(sys.modules[type(pipeline).__module__], "QUANTILE_ELEMENTS", limit)
    assert torch.equal(pipeline([0, 1, 2], generator=seeded(1, 2, 3), **how).images, whole)


def test_dynamic_thresholding_bounds_euler():
    pipeline = tiny_pipeline(make_solver(CosineScheduler(prediction_type="v_prediction"), "euler"))
    arguments = {"guidance_scale": 8, "num_inference_steps": 5}
    free = final(pipeline, [0, 1], generator=seeded(1, 2), **arguments)
    bound = final(pipeline, [0, 1], dynamic_thresholding=0.9, generator=seeded(1, 2), **arguments)
    assert free.abs().max() > 1 >= bound.abs().max() - 1e-5


# CFG++


def cfg_plus_plus_by_hand(pipeline, labels, w, steps, generator):
    """Algorithm 2: x̂₀ from the guided ε, renoised by the one without a label, over evenly spaced DDIM steps."""
    x = randn_tensor((len(labels), 1, 1, 2), generator=generator, dtype=torch.float64)
    for t in range(999, -1, -1000 // steps):
        a, sigma = a_sigma(pipeline, t)
        a_s, sigma_s = a_sigma(pipeline, t - 1000 // steps) if t >= 1000 // steps else (1.0, 0.0)
        weak = exact_noise(x, a, sigma, PRIORS[-1])
        guided = weak + w * (by_class(x, a, sigma, labels) - weak)
        x = a_s * (x - sigma * guided) / a + sigma_s * weak
    return x


@pytest.mark.parametrize("w", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(
    "solver", [DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler], ids=lambda s: s.__name__
)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_cfg_plus_plus_is_the_algorithm(w, solver, prediction_type):
    """The first-order members of all solver families are DDIM."""
    pipeline = mixture(prediction_type=prediction_type)
    options = {} if solver is DDIMScheduler else {"solver_order": 1, "thresholding": False}
    pipeline.scheduler = solver.from_config(pipeline.scheduler.config, **options)
    pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod.double()
    before = getattr(pipeline.scheduler, "disable_corrector", None)
    images, _, cost = trajectory(
        pipeline, LABELS, guidance_scale=w, cfg_plus_plus=True, num_inference_steps=20, generator=four()
    )
    expected = cfg_plus_plus_by_hand(pipeline, LABELS, w, 20, four())
    torch.testing.assert_close(images[-1], expected, rtol=1e-4, atol=1e-4)
    assert cost == {"unet": [20 if w == 0 else 40] * 4}
    assert getattr(pipeline.scheduler, "disable_corrector", None) is before


def test_cfg_plus_plus_with_ddpm_and_euler():
    """Euler is DDIM in another scale; DDPM's posterior takes x̂₀ and the sample moved to x̃ = a·x̂₀ + σ·ε_∅."""
    pipeline = mixture("euler")
    arguments = {"guidance_scale": 0.6, "cfg_plus_plus": True, "num_inference_steps": 20}
    images = final(pipeline, LABELS, generator=four(), **arguments)
    expected = cfg_plus_plus_by_hand(pipeline, LABELS, 0.6, 20, four())
    torch.testing.assert_close(images, expected, rtol=0, atol=2e-3)  # Euler works in float32 and from σ = 157

    pipeline = mixture("ddpm")
    latents, _, _ = trajectory(pipeline, LABELS, generator=seeded(3), **arguments)
    generator = seeded(3)
    x = torch.randn(latents[0].shape, generator=generator, dtype=torch.float64)
    (a, sigma), (a_s, sigma_s) = a_sigma(pipeline, 999), a_sigma(pipeline, 949)
    alpha = (a / a_s) ** 2
    weak = exact_noise(x, a, sigma, PRIORS[-1])
    clean = (x - sigma * (weak + 0.6 * (by_class(x, a, sigma, LABELS) - weak))) / a
    moved = a * clean + sigma * weak
    mean = a_s * (1 - alpha) / sigma**2 * clean + math.sqrt(alpha) * sigma_s**2 / sigma**2 * moved
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    expected = mean + math.sqrt(sigma_s**2 / sigma**2 * (1 - alpha)) * noise
    torch.testing.assert_close(latents[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpm", "unipc"])
def test_cfg_plus_plus_clips_before_it_renoises(solver):
    """So that the solver's own clipping finds nothing to do and ε̂ stays that without a label."""
    trained = CosineScheduler(prediction_type="v_prediction")
    pipeline = tiny_pipeline(make_solver(trained, solver))
    seen = []
    step = pipeline.scheduler.step
    pipeline.scheduler.step = lambda output, t, sample, **kwargs: (seen.append((output, t, sample)),
                                                                   step(output, t, sample, **kwargs))[1]  # fmt: skip
    pipeline([0], guidance_scale=0.8, cfg_plus_plus=True, num_inference_steps=5, generator=[seeded(1)])
    for output, t, sample in seen:
        a, sigma = a_sigma(pipeline, t)
        assert (a * sample - sigma * output).abs().max() <= 1 + 1e-4


def test_cfg_plus_plus_of_weight_zero_is_unconditional():
    pipeline = mixture()
    arguments = {"num_inference_steps": 20}
    free = final(pipeline, LABELS, guidance_scale=0, generator=four(), **arguments)
    same = final(pipeline, LABELS, guidance_scale=0, cfg_plus_plus=True, generator=four(), **arguments)
    torch.testing.assert_close(same, free, rtol=1e-9, atol=1e-9)


# Autoguidance


@pytest.mark.parametrize("classes", [3, None])
@pytest.mark.parametrize("w", [0.0, 1.0, 2.0])
def test_autoguidance(w, classes):
    """bad + w·(good − bad), with the label in both if the worse network knows labels."""
    pipeline, bad = tiny_pipeline(make_solver(CosineScheduler(prediction_type="v_prediction"), "ddim")), None
    bad = tiny_unet(classes, seed=1)
    arguments = {"guidance_scale": w, "num_inference_steps": 5, "generator": seeded(1, 2)}
    latents, outputs, cost = trajectory(pipeline, [0, 2], guidance_unet=bad, **arguments)
    x = latents[2]
    with torch.no_grad():
        labels = torch.tensor([0, 2])
        weak = bad(x, 399, labels if classes else None).sample
        good = pipeline.unet(x, 399, labels).sample
    torch.testing.assert_close(outputs[3], torch.lerp(weak, good, w), rtol=1e-4, atol=1e-5)
    evaluations = {"unet": [0 if w == 0 else 5] * 2} | ({} if w == 1 else {"guidance_unet": [5] * 2})
    assert cost == evaluations


@pytest.mark.parametrize("classes", [3, None])
def test_autoguidance_without_labels(classes):
    """With the null class, or with networks that know no labels."""
    unet, bad = tiny_unet(classes), tiny_unet(classes, seed=1)
    pipeline = ClassConditionalPipeline(unet, make_solver(CosineScheduler(), "ddim"))
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"batch_size": 2, "guidance_scale": 3, "num_inference_steps": 4, "generator": seeded(1, 2)}
    latents, outputs, cost = trajectory(pipeline, guidance_unet=bad, **arguments)
    nulls = None if classes is None else torch.tensor([3, 3])
    with torch.no_grad():
        weak, good = (network(latents[0], 749, nulls).sample for network in (bad, unet))
    torch.testing.assert_close(outputs[1], weak + 3 * (good - weak), rtol=1e-4, atol=1e-5)
    assert cost == {"unet": [4, 4], "guidance_unet": [4, 4]}


# What goes together, and what does not


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"cfg_plus_plus": True, "guidance_unet": tiny_unet(3)},
            "CFG\\+\\+ renoises with the unconditional prediction",
        ),
        ({"cfg_plus_plus": True, "classifier": TinyClassifier()}, "CFG\\+\\+ splits classifier-free guidance"),
        ({"cfg_plus_plus": True, "guidance_rescale": 0.5}, "CFG\\+\\+ interpolates"),
        ({"cfg_plus_plus": True, "guidance_scale": 2}, "must lie between 0 and 1: it interpolates"),
        ({"class_labels": None, "cfg_plus_plus": True}, "cfg_plus_plus has no effect without class_labels"),
        ({"class_labels": None, "guidance_interval": (0, 1)}, "guidance_interval has no effect without class_labels"),
        ({"class_labels": None, "guidance_rescale": 0.5}, "guidance_rescale has no effect without class_labels"),
        ({"guidance_rescale": 1.5}, "guidance_rescale is 1.5, but must lie between 0 and 1"),
        ({"dynamic_thresholding": 1.0}, "dynamic_thresholding is 1.0, but must lie between"),
        ({"guidance_interval": (2, 1)}, "guidance_interval is 2 to 1, but needs low < high"),
        ({"guidance_interval_sigma": (-1, 1)}, "guidance_interval_sigma is -1 to 1, but needs 0 ≤ low < high"),
        ({"guidance_interval_sigma": (0, 1), "guidance_interval": (0, 1)}, "not both"),
        ({"guidance_unet": tiny_unet(5)}, "guidance_unet has 5 classes and the model 3"),
        ({"guidance_unet": tiny_unet(3, channels=3)}, "guidance_unet has in_channels 3 and the model 1"),
        ({"class_labels": None, "classifier": TinyClassifier()}, "give class_labels too"),
        ({"classifier": torch.nn.Identity(), "unconditional": True}, "does not name its classes"),
    ],
)
def test_refused_combinations(arguments, sentence):
    arguments = {"class_labels": [0], **arguments}
    pipeline = tiny_pipeline()
    if arguments.pop("unconditional", False):
        pipeline = ClassConditionalPipeline(tiny_unet(None), CosineScheduler().to_stock())
    with pytest.raises(ValueError, match=sentence):
        pipeline(num_inference_steps=2, **arguments)


def test_a_classifier_of_other_classes_is_refused():
    classifier = TinyClassifier()
    classifier.id2label = {0: "bee", 1: "ant", 2: "cat, black"}
    with pytest.raises(ValueError, match=r"\['bee', 'ant', 'cat, black'\] and the model \['ant', 'bee'"):
        tiny_pipeline()([0], classifier=classifier)


KINDS = {
    "plain": {"guidance_scale": 3.0},
    "interval": {"guidance_scale": 3.0, "guidance_interval": (-4.0, 4.0)},
    "rescale": {"guidance_scale": 3.0, "guidance_rescale": 0.7},
    "thresholding": {"guidance_scale": 3.0, "dynamic_thresholding": 0.9},
    "CFG++": {"guidance_scale": 0.6, "cfg_plus_plus": True},
    "autoguidance": {"guidance_scale": 2.0, "guidance_unet": tiny_unet(3, seed=1).double()},
    "classifier": {"classifier": TinyClassifier(), "classifier_scale": 2.0},
    "function of log-SNR": {"guidance_scale": lambda level: 2 + level / 20},
    "all that go together": {
        "guidance_scale": [2.0, 0.0, 3.0],
        "guidance_interval_sigma": (0.2, 5.0),
        "guidance_rescale": 0.5,
        "dynamic_thresholding": 0.9,
        "guidance_unet": tiny_unet(None, seed=1).double(),
        "classifier": TinyClassifier(),
    },
}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_with_every_solver_is_independent_of_the_batch(kind, solver, prediction_type):
    pipeline = tiny_pipeline(make_solver(CosineScheduler(prediction_type=prediction_type), solver))
    pipeline.unet.double()
    labels, arguments = [0, {1: 0.5, 2: 0.5}, 2], dict(KINDS[kind], num_inference_steps=5)
    together, _, evaluations = trajectory(pipeline, labels, generator=seeded(7, 8, 9), **arguments)
    assert together.isfinite().all()
    plain = final(pipeline, labels, generator=seeded(7, 8, 9), num_inference_steps=5)
    assert (together[-1] - plain).abs().amax(dim=(1, 2, 3)).max() > 1e-3  # it does something
    alone = dict(arguments)
    if isinstance(arguments.get("guidance_scale"), list):
        alone["guidance_scale"] = arguments["guidance_scale"][2]
    images, _, cost = trajectory(pipeline, labels[2:], generator=[seeded(9)], **alone)
    torch.testing.assert_close(images[:, 0], together[:, 2], rtol=1e-5, atol=1e-5)
    assert cost == {name: count[2:] for name, count in evaluations.items()}


def test_the_class_is_reached_by_every_kind():
    """What the matrix above would miss: with the exact predictions, guided samples lie in the class asked for."""
    pipeline = mixture("ddpm")
    classifier = IdealClassifier(pipeline.unet)
    classifier.id2label = NAMES
    kinds = {**KINDS, "classifier": {"classifier": classifier}, "all that go together": {"guidance_scale": 2.0}}
    blurred = IdealUNet(MEANS[:, None, None], np.array(VARIANCES) + 0.3, LinearScheduler(), PRIORS)
    kinds["autoguidance"] = {"guidance_scale": 2.0, "guidance_unet": blurred}
    kinds.pop("thresholding")  # the data are not within [-1, 1]
    labels = [0, 1, 2] * 40
    for kind, arguments in kinds.items():
        images = final(pipeline, labels, num_inference_steps=50, generator=seeded(0), **arguments)
        read = classifier(images, 0).argmax(1)
        assert (read == torch.tensor(labels)).double().mean() > 0.97, kind


def test_without_labels_a_conditional_guidance_unet_is_told_its_own_null_class():
    """The pictures hang on its last class embedding and on no other."""
    pipeline = ClassConditionalPipeline(tiny_unet(None), CosineScheduler(prediction_type="v_prediction").to_stock())
    pipeline.set_progress_bar_config(disable=True)

    def drawn(changed=None):
        worse = tiny_unet(3, seed=1)
        with torch.no_grad():
            if changed is not None:
                worse.class_embedding.weight[changed] += 5
        generator = torch.Generator().manual_seed(0)
        settings = {"num_inference_steps": 2, "generator": generator, "output_type": "pt"}
        return pipeline(batch_size=2, guidance_scale=3.0, guidance_unet=worse, **settings).images

    assert torch.equal(drawn(0), drawn()) and torch.equal(drawn(2), drawn())
    assert not torch.equal(drawn(3), drawn())
