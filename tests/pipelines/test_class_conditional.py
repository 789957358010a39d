"""The pipeline against loops written here, and against Gaussians whose samples have a closed form."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor

from cardiff.pipelines import ClassConditionalPipeline, NonFiniteImages
from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.schedulers import CosineScheduler, LinearScheduler, SigmoidScheduler
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import NAMES, gaussian_pipeline, tiny_pipeline, tiny_unet


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators[0] if len(seeds) == 1 else generators


def final_latents(pipeline, **arguments):
    """x_0 before it is cut to [0, 1] and made a picture."""
    seen = []
    pipeline(**arguments, callback_on_step_end=lambda _p, _i, _t, tensors: seen.append(tensors["latents"]))
    return seen[-1]


def noise_levels(scheduler):
    """(ᾱ, ᾱ of the next and less noisy step) along the scheduler's timesteps, in float64."""
    levels = scheduler.alphas_cumprod.double()[scheduler.timesteps.long()].tolist()
    return list(zip(levels, [*levels[1:], 1.0]))


# Guidance


@pytest.mark.parametrize(
    ("w", "clip"), [(0.0, False), (1.0, False), (2.0, False), (0.5, False), (-1.0, False), (2.0, True)]
)
def test_guidance_rule(w, clip):
    """DDIM by its formula, with ε̂ = (1 − w)·ε_∅ + w·ε_c from two separate evaluations.

    Where x̂₀ is cut to [-1, 1], ε̂ is what then is left of x_t.
    """
    scheduler = DDIMScheduler.from_config(LinearScheduler(clip_sample=clip).to_stock().config)
    pipeline = tiny_pipeline(scheduler)
    pipeline.unet.double()
    labels, nulls = torch.tensor([2, 0, 1]), torch.tensor([3, 3, 3])
    images = final_latents(
        pipeline, class_labels=labels, guidance_scale=w, num_inference_steps=5, generator=seeded(1, 2, 3)
    )

    x = randn_tensor((3, 1, 8, 8), generator=seeded(1, 2, 3), dtype=torch.float64)
    with torch.no_grad():
        for t in (999, 799, 599, 399, 199):
            signal = scheduler.alphas_cumprod[t].item()
            next_signal = scheduler.alphas_cumprod[t - 200].item() if t > 200 else 1.0
            epsilon = (1 - w) * pipeline.unet(x, t, nulls).sample + w * pipeline.unet(x, t, labels).sample
            clean = (x - math.sqrt(1 - signal) * epsilon) / math.sqrt(signal)
            if clip:
                clean = clean.clip(-1, 1)
                epsilon = (x - math.sqrt(signal) * clean) / math.sqrt(1 - signal)
            x = math.sqrt(next_signal) * clean + math.sqrt(1 - next_signal) * epsilon
    torch.testing.assert_close(images, x, rtol=1e-5, atol=1e-5)


def test_the_label_matters():
    """What the guidance test would miss if the network ignored its labels."""
    images = tiny_pipeline()([0, 1, 2], generator=seeded(1, 1, 1), num_inference_steps=5, output_type="pt")[0]
    assert (images[0] - images[1]).abs().max() > 0.01 and (images[1] - images[2]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("labels", "w", "rows"),
    [([0, 1, 2], 0, 3), ([0, 1, 2], 1, 3), ([0, 1, 2], 1.0, 3), ([0, 1, 2], 2, 6), ([0, 1, 2], 0.5, 6), (None, 4, 3)],
)
def test_cost_of_guidance(labels, w, rows):
    """One evaluation of B rows a step for w = 0 and 1 and without labels, else one of 2B."""
    pipeline, seen = tiny_pipeline(), []
    pipeline.unet.register_forward_pre_hook(lambda _unet, arguments: seen.append(len(arguments[0])))
    pipeline(labels, guidance_scale=w, batch_size=3, num_inference_steps=4)
    assert seen == [rows] * 4


def test_no_labels_are_the_null_class():
    pipeline, arguments = tiny_pipeline(), {"num_inference_steps": 4, "output_type": "pt"}
    without = pipeline(batch_size=2, generator=seeded(1, 2), **arguments).images
    zero_scale = pipeline([0, 1], guidance_scale=0, generator=seeded(1, 2), **arguments).images
    torch.testing.assert_close(without, zero_scale, rtol=0, atol=0)


def test_unconditional_unet():
    pipeline = ClassConditionalPipeline(tiny_unet(None), CosineScheduler().to_stock())
    assert pipeline(batch_size=2, num_inference_steps=2, output_type="np").images.shape == (2, 8, 8, 1)
    with pytest.raises(ValueError, match="This model is unconditional"):
        pipeline([0])


# Labels


def test_labels_by_id_name_and_tensor():
    pipeline = tiny_pipeline()
    assert pipeline.null_class == 3
    assert pipeline.label_ids([2, "ant", 1]) == [2, 0, 1]
    assert pipeline.label_ids("cat, black") == [2]
    assert pipeline.label_ids(1) == [1]
    assert pipeline.label_ids(torch.tensor([[2], [0]])) == pipeline.label_ids(np.array([2, 0])) == [2, 0]
    images = [
        pipeline(labels, generator=seeded(5), num_inference_steps=2, output_type="pt").images
        for labels in (1, "bee", ["bee"], torch.tensor(1))
    ]
    for other in images[1:]:
        torch.testing.assert_close(other, images[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("dog", "Class label 'dog' is not a class of this model; the classes are: 0 'ant', 1 'bee', 2 'cat, black'."),
        (["ant", "Bee"], "Class label 'Bee' is not a class of this model; did you mean 'bee'?"),
        (3, "Class label 3 is out of range: 0 'ant', 1 'bee', 2 'cat, black'."),  # the null class is not for users
        ([0, -1], "Class label -1 is out of range"),
        (torch.tensor([7]), "Class label 7 is out of range"),
        (np.int64(3), "Class label 3 is out of range"),
    ],
)
def test_unknown_labels(labels, sentence):
    with pytest.raises(ValueError) as error:
        tiny_pipeline()(labels)
    assert str(error.value).startswith(sentence)


def test_shared_names_need_the_index():
    pipeline = tiny_pipeline(id2label={0: "ant", 1: "bee", 2: "ant"})
    with pytest.raises(ValueError, match=r"'ant' is the name of the classes \[0, 2\]: give an index"):
        pipeline.label_ids("ant")
    assert pipeline.label_ids(["bee", 2]) == [1, 2]


def test_many_classes_are_not_all_listed():
    pipeline = tiny_pipeline(id2label={i: f"class {i}" for i in range(40)})
    with pytest.raises(ValueError, match=r"11 'class 11', … 40 in all\.$"):
        pipeline.label_ids("dog")


@pytest.mark.parametrize("names", [{0: "ant"}, {0: "a", 1: "b", 3: "c"}, {i: str(i) for i in range(4)}])
def test_every_class_needs_a_name(names):
    with pytest.raises(ValueError, match="give every class one name"):
        ClassConditionalPipeline(tiny_unet(3), CosineScheduler(), names)


def test_names_default_to_indices():
    assert ClassConditionalPipeline(tiny_unet(3), CosineScheduler()).id2label == {0: "0", 1: "1", 2: "2"}


def shuffled_names(count, as_text):
    """{index: name} in an order by chance, as JSON may have it, with indices in the order of text if asked for."""
    order = sorted(range(count), key=str) if as_text else np.random.default_rng(count).permutation(count).tolist()
    return {str(i): f"class {i}" for i in order}


@pytest.mark.parametrize(("count", "as_text"), [(12, True), (12, False), (196, True), (196, False)])
def test_names_are_in_the_order_of_their_indices(count, as_text):
    names = shuffled_names(count, as_text)
    expected = [(i, f"class {i}") for i in range(count)]
    assert list(names) != [str(i) for i in range(count)]
    pipeline = ClassConditionalPipeline(tiny_unet(count), CosineScheduler(), names)
    assert list(pipeline.id2label.items()) == expected
    assert [(int(i), name) for i, name in pipeline.config.id2label.items()] == expected
    unconditional = ClassConditionalPipeline(tiny_unet(None), CosineScheduler())
    assert list(unconditional.class_names(SimpleNamespace(id2label=names)).items()) == expected


# Random numbers


def test_wrong_number_of_generators():
    for seeds in ((1, 2), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match=f"{len(seeds)} generators for 3 images: give one, or one per image"):
            tiny_pipeline()([0, 1, 2], generator=seeded(*seeds), guidance_scale=2)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm"])
def test_an_image_does_not_depend_on_its_batch(solver):
    pipeline = tiny_pipeline(make_solver(CosineScheduler(prediction_type="v_prediction"), solver))
    arguments = {"guidance_scale": 2, "num_inference_steps": 5, "output_type": "pt"}
    together = pipeline([0, 1, 2], generator=seeded(7, 8, 9), **arguments).images
    alone = pipeline([1], generator=[seeded(8)], **arguments).images
    reordered = pipeline([2, 0, 1, 1], generator=seeded(9, 7, 1, 8), **arguments).images
    torch.testing.assert_close(alone[0], together[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(reordered[[1, 3, 0]], together, rtol=0, atol=1e-5)
    assert (reordered[2] - together[1]).abs().max() > 0.01  # same label, other seed


def test_one_generator_repeats():
    images = [tiny_pipeline()([0, 1], generator=seeded(3), num_inference_steps=3, output_type="np")[0] for _ in "ab"]
    np.testing.assert_array_equal(images[0], images[1])


# Solvers


@pytest.mark.parametrize(
    ("schedule", "steps", "prediction_type"),
    [
        (LinearScheduler, 100, "epsilon"),
        (LinearScheduler, 100, "sample"),
        (LinearScheduler, 100, "v_prediction"),
        (CosineScheduler, 25, "v_prediction"),
        (SigmoidScheduler, 25, "v_prediction"),
    ],
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_finds_the_gaussian(solver, schedule, steps, prediction_type):
    """Pixels N(0.3, 0.25) from the exact denoiser; a deterministic solver maps x_T to about 0.3 + 0.5·x_T."""
    trained = schedule(prediction_type=prediction_type, clip_sample=False)
    if solver == "euler" and prediction_type == "sample":
        with pytest.raises(ValueError, match=f"The solver {solver} cannot use a model that predicts the clean sample"):
            make_solver(trained, solver)
        return
    pipeline = gaussian_pipeline(trained, make_solver(trained, solver), [0.3, 0.0], [0.25, 1.0], 128)
    images = final_latents(pipeline, class_labels=[0], num_inference_steps=steps, generator=seeded(0))
    trained.set_timesteps(steps)
    mean, variance = gaussian_after(noise_levels(trained), 0.3, 0.25, "small" if solver == "ddpm" else "ddim")
    start = randn_tensor(images.shape, generator=seeded(0), dtype=torch.float64)
    if solver == "ddpm":
        assert images.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / 128**2))
        assert images.var().item() == pytest.approx(variance, abs=5 * variance * math.sqrt(2 / 128**2))
    elif solver in ("ddim", "euler"):  # one and the same first-order solver
        torch.testing.assert_close(images, mean + math.sqrt(variance) * start, rtol=0, atol=2e-3)
    else:  # second order: the error of a first-order one, 0.01·x_T or more, would be too large
        torch.testing.assert_close(images, 0.3 + 0.5 * start, rtol=0, atol=0.03)


@pytest.mark.parametrize("clip_sample", [True, False])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_is_finite_on_an_untrained_unet(solver, prediction_type, clip_sample):
    if solver == "euler" and prediction_type == "sample":
        pytest.raises(ValueError, make_solver, CosineScheduler(prediction_type="sample"), solver)
        return
    trained = CosineScheduler(prediction_type=prediction_type, clip_sample=clip_sample)
    pipeline = tiny_pipeline(make_solver(trained, solver))
    latents = final_latents(pipeline, class_labels=[0, 1], guidance_scale=2, num_inference_steps=10)
    assert latents.shape == (2, 1, 8, 8) and latents.isfinite().all()
    if clip_sample and solver != "euler":  # which does not clip
        assert latents.abs().max() <= 1 + 1e-5


def test_unknown_solver():
    with pytest.raises(ValueError, match="There is no solver 'dmp': choose from ddpm, ddim, dpm"):
        make_solver(CosineScheduler(), "dmp")


@pytest.mark.parametrize(
    ("solver", "steps", "sentence"),
    [
        ("ddim", 2000, "num_inference_steps=2000, but must lie between 1 and 1000"),
        ("ddpm", 1001, "between 1 and 1000"),
        ("ddpm", 0, "num_inference_steps=0, but must"),
        ("ddim", -1, "num_inference_steps=-1, but must"),
    ],
)
def test_refused_step_counts(solver, steps, sentence):
    pipeline = tiny_pipeline(make_solver(CosineScheduler(), solver))
    with pytest.raises(ValueError, match=sentence):
        pipeline([0], num_inference_steps=steps)


# Exact truths: a normal N(μ, s²) has a linear denoiser, so that x_t stays normal with a known mean and variance.


def gaussian_after(levels, mean, variance, kind):
    """Mean and variance of the samples, from N(0, 1): DDIM, or DDPM with the "small" or "large" variance.

    The reverse step is written as the posterior of x_p given x_t and x̂₀ = E[x₀|x_t], in λ-free form.
    """
    m, v = 0.0, 1.0
    for signal, next_signal in levels:
        gain = math.sqrt(signal) * variance / (signal * variance + 1 - signal)  # x̂₀ = μ + gain·(x − aμ)
        shift = mean - gain * math.sqrt(signal) * mean
        if kind == "ddim":
            of_noise = math.sqrt((1 - next_signal) / (1 - signal))
            of_clean, added = math.sqrt(next_signal) - of_noise * math.sqrt(signal), 0.0
        else:
            beta = 1 - signal / next_signal
            of_clean = math.sqrt(next_signal) * beta / (1 - signal)
            of_noise = math.sqrt(1 - beta) * (1 - next_signal) / (1 - signal)
            added = beta * (1 - next_signal) / (1 - signal) if kind == "small" else beta * (next_signal < 1)
        slope = of_clean * gain + of_noise
        m, v = of_clean * shift + slope * m, slope**2 * v + added
    return m, v


@pytest.mark.parametrize(
    ("kind", "steps", "spacing"),
    [
        *itertools.product(["ddim", "small", "large"], [50, 20], ["trailing", "leading"]),
        *itertools.product(["small", "large"], [1000], ["trailing"]),
    ],
)
def test_gaussian_mean_and_variance(kind, steps, spacing):
    variance_type = "fixed_large" if kind == "large" else "fixed_small"
    trained = LinearScheduler(clip_sample=False, timestep_spacing=spacing, variance_type=variance_type)
    pipeline = gaussian_pipeline(
        trained, make_solver(trained, "ddim" if kind == "ddim" else "ddpm"), [0.5, 0], [0.25, 1], 192
    )
    images = final_latents(pipeline, class_labels=0, num_inference_steps=steps, generator=seeded(0))
    mean, variance = gaussian_after(noise_levels(pipeline.scheduler), 0.5, 0.25, kind)
    pixels = 192**2
    assert images.dtype == torch.float64
    assert images.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / pixels))
    assert images.var().item() == pytest.approx(variance, abs=5 * variance * math.sqrt(2 / pixels))


@pytest.mark.parametrize(
    ("kind", "spacing", "expected"),
    [("ddim", "trailing", 0.2222), ("small", "trailing", 0.1972), ("large", "leading", 0.2676)],
)
def test_the_recursion_itself(kind, spacing, expected):
    """True variance .25, the linear schedule, 50 steps: values computed elsewhere."""
    scheduler = LinearScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(50)
    assert gaussian_after(noise_levels(scheduler), 0.0, 0.25, kind)[1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("w", [0.0, 1.0, 2.0, 3.0])
def test_guided_gaussians(w):
    """Unconditional N(0, 2), conditional N(0, 1): guided DDIM multiplies x_T by a known number, near 2^((1−w)/2)."""
    trained = LinearScheduler(clip_sample=False)
    pipeline = gaussian_pipeline(trained, make_solver(trained, "ddim"), [0.0, 0.0], [1.0, 2.0], 8)
    arguments = {"class_labels": [0, 0], "guidance_scale": w, "num_inference_steps": 1000}
    images = final_latents(pipeline, **arguments, generator=seeded(1, 2))
    start = randn_tensor((2, 1, 8, 8), generator=seeded(1, 2), dtype=torch.float64)

    factor = 1.0
    for signal, next_signal in noise_levels(pipeline.scheduler):
        of_unconditional, of_conditional = 1 / (1 + signal), 1.0  # 1/V for s² = 2 and 1
        noise = math.sqrt(1 - signal) * ((1 - w) * of_unconditional + w * of_conditional)  # ε̂/x
        clean = (1 - math.sqrt(1 - signal) * noise) / math.sqrt(signal)  # x̂₀/x
        factor *= math.sqrt(next_signal) * clean + math.sqrt(1 - next_signal) * noise
    torch.testing.assert_close(images, factor * start, rtol=1e-4, atol=0)
    assert factor**2 == pytest.approx(2 ** (1 - w), rel=0.01)


# Inputs and outputs


def test_callback_sees_and_replaces():
    pipeline, calls, reached = tiny_pipeline(), [], []

    def callback(given, step, timestep, tensors):
        assert given is pipeline and tensors["model_output"].shape == (2, 1, 8, 8)
        if calls:  # the step before has ended where this one began
            torch.testing.assert_close(tensors["solver_input"], reached[-1], rtol=0, atol=0)
        reached.append(tensors["latents"])
        calls.append((step, int(timestep), sorted(tensors)))
        return {"latents": torch.full_like(tensors["latents"], 0.5)} if step == 3 else None

    images = pipeline(
        [0, 1],
        guidance_scale=2,
        num_inference_steps=4,
        output_type="pt",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "model_output", "solver_input"],
    ).images
    assert calls == [(i, t, ["latents", "model_output", "solver_input"]) for i, t in enumerate((999, 749, 499, 249))]
    torch.testing.assert_close(images, torch.full((2, 1, 8, 8), 0.75), rtol=0, atol=0)
    with pytest.raises(ValueError, match="has \\['noise'\\]: choose from"):
        pipeline([0], callback_on_step_end_tensor_inputs=["noise"])


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_output_types(channels, mode):
    pipeline = tiny_pipeline(channels=channels)
    arguments = {"class_labels": [0, 1], "num_inference_steps": 2}
    as_pt, as_np, as_pil = (
        pipeline(**arguments, generator=seeded(4), output_type=kind).images for kind in ("pt", "np", "pil")
    )
    assert as_pt.shape == (2, channels, 8, 8) and 0 <= as_pt.min() < as_pt.max() <= 1
    np.testing.assert_array_equal(as_np, as_pt.permute(0, 2, 3, 1).numpy())
    assert [image.mode for image in as_pil] == [mode] * 2
    pixels = np.stack([np.asarray(image).reshape(8, 8, channels) for image in as_pil])
    np.testing.assert_array_equal(pixels, (as_np * 255).round().astype(np.uint8))
    assert isinstance(pipeline(**arguments, return_dict=False), tuple)
    with pytest.raises(ValueError, match="output_type 'jpg' is unknown"):
        pipeline(**arguments, output_type="jpg")


def test_pictures_are_half_of_the_latents_plus_a_half():
    pipeline, seen = tiny_pipeline(make_solver(CosineScheduler(clip_sample=False), "ddpm")), []
    images = pipeline(
        [0], num_inference_steps=2, output_type="pt", callback_on_step_end=lambda *a: seen.append(a[3]["latents"])
    ).images
    assert seen[-1].abs().max() > 1  # so that the cut is seen
    torch.testing.assert_close(images, ((seen[-1] + 1) / 2).clip(0, 1))


def test_bfloat16_unet_keeps_float32_latents():
    """From the very noise of a float32 one, and staying near it."""
    trajectories = {}
    for dtype in (torch.float32, torch.bfloat16):
        pipeline, seen = tiny_pipeline(), []
        pipeline.unet.to(dtype)
        pipeline([0, 1], guidance_scale=2, num_inference_steps=5, generator=seeded(1, 2),
                 callback_on_step_end=lambda *a: seen.append(a[3]["latents"]))  # fmt: skip  # noqa: B023
        assert {latents.dtype for latents in seen} == {torch.float32}
        trajectories[dtype] = torch.stack(seen)
    torch.testing.assert_close(trajectories[torch.bfloat16], trajectories[torch.float32], rtol=0, atol=0.1)
    assert not torch.equal(*trajectories.values())


def test_several_images_of_each_label():
    """One after another, as of diffusers' num_images_per_prompt."""
    pipeline, arguments = tiny_pipeline(), {"num_inference_steps": 2, "output_type": "pt"}
    scales = [1.0, 2.0, 1.0, 2.0]
    images = pipeline(
        ["cat, black", {"ant": 0.5, "bee": 0.5}],
        num_images_per_label=2,
        guidance_scale=scales,
        generator=seeded(1, 2, 3, 4),
        **arguments,
    )
    labels = ["cat, black"] * 2 + [{"ant": 0.5, "bee": 0.5}] * 2
    expected = pipeline(labels, guidance_scale=scales, generator=seeded(1, 2, 3, 4), **arguments)
    torch.testing.assert_close(images.images, expected.images, rtol=0, atol=0)
    assert images.evaluations == expected.evaluations
    with pytest.raises(ValueError, match="num_images_per_label is 0, but must be 1 or more"):
        pipeline([0], num_images_per_label=0)
    with pytest.raises(ValueError, match="num_images_per_label is 2, but needs class_labels: give batch_size"):
        pipeline(num_images_per_label=2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_given_latents_are_the_noise_of_the_generator(solver):
    """Of unit variance, whatever the solver starts with."""
    pipeline = tiny_pipeline(make_solver(CosineScheduler(prediction_type="v_prediction"), solver))
    arguments = {"class_labels": [0, 1], "num_inference_steps": 3}
    expected = final_latents(pipeline, **arguments, generator=seeded(5))
    generator = seeded(5)
    noise = randn_tensor((2, 1, 8, 8), generator=generator)
    given = noise.clone()
    images = final_latents(pipeline, **arguments, latents=given, generator=generator)  # which goes on for DDPM
    torch.testing.assert_close(images, expected, rtol=0, atol=0)
    torch.testing.assert_close(given, noise, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 3, 8, 8), (2, 1, 8, 9), (2, 64)])
def test_latents_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"latents has the shape \(.*\), but must have \(2, 1, 8, 8\)"):
        tiny_pipeline()([0, 1], latents=torch.zeros(shape))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_images_that_are_not_finite_are_refused(bad):
    """One pixel of the second and the fourth of them, after the last step."""
    pipeline = tiny_pipeline()

    def spoil(_pipeline, step, _timestep, tensors):
        if step == 1:
            latents = tensors["latents"].clone()
            latents[1, 0, 3, 4] = latents[3, 0, 0, 0] = bad
            return {"latents": latents}

    with pytest.raises(NonFiniteImages, match=r"after the last step: 1, 3\. Try a smaller guidance_scale") as error:
        pipeline([0, 1, 2, 0, 1], num_inference_steps=2, callback_on_step_end=spoil)
    assert error.value.numbers == [1, 3]


@pytest.mark.parametrize("guidance", ["guidance_scale", "classifier_scale"])
def test_guidance_without_bounds_is_refused(guidance):
    scheduler = make_solver(CosineScheduler(clip_sample=False, prediction_type="v_prediction"), "ddim")
    pipeline = tiny_pipeline(scheduler)
    arguments = {guidance: [1e38, 1.0]} | ({"classifier": tiny_classifier()} if guidance != "guidance_scale" else {})
    with pytest.raises(NonFiniteImages) as error:
        pipeline([0, 1], num_inference_steps=3, **arguments)
    assert error.value.numbers == [0]


def test_names_survive_in_the_configuration():
    """JSON turns integer keys into strings, which the constructor takes back."""
    pipeline = tiny_pipeline()
    again = ClassConditionalPipeline(pipeline.unet, pipeline.scheduler, pipeline.config.id2label)
    assert again.id2label == pipeline.id2label == NAMES


def test_given_timesteps_are_stepped_through():
    pipeline = tiny_pipeline(CosineScheduler(prediction_type="v_prediction").to_stock())
    seen = []

    def watch(pipeline, i, t, tensors):
        seen.append(int(t))

    pipeline(class_labels=0, timesteps=[900, 500, 20], callback_on_step_end=watch, output_type="pt")
    assert seen == [900, 500, 20]


@pytest.mark.parametrize("timesteps", [[], [500, 500], [20, 500], [1000, 3], [5, -1]])
def test_refused_timesteps(timesteps):
    with pytest.raises(ValueError, match="must be strictly decreasing and lie within 0 to 999"):
        tiny_pipeline()(class_labels=0, timesteps=timesteps)


# Devices


class Enough(Exception):
    """Ends a call on a device that has no values."""


@pytest.mark.parametrize("solver", ["ddpm", "dpm", "euler"])
def test_networks_are_given_timesteps_of_their_device_and_the_solver_those_of_the_cpu(solver):
    """A network would copy a timestep of the CPU to its device in every call, and wait for it."""
    pipeline = tiny_pipeline(make_solver(CosineScheduler(prediction_type="v_prediction").to_stock(), solver))
    networks = {"unet": pipeline.unet, "guidance_unet": tiny_unet(), "classifier": tiny_classifier()}
    seen: dict[str, list[tuple[str, str]]] = {name: [] for name in networks}
    for name, network in networks.items():
        network.to("meta")
        network.register_forward_pre_hook(
            lambda _, inputs, seen=seen[name]: seen.append((inputs[0].device.type, inputs[1].device.type))
        )

    def after_step(_pipeline, i, t, _tensors):
        assert t.device.type == "cpu" and t == pipeline.scheduler.timesteps[i]
        if i == 1:
            raise Enough
        return {}

    with pytest.raises(Enough):
        pipeline(
            [0, 1],
            num_inference_steps=3,
            guidance_scale=2.0,
            generator=seeded(1, 2),
            guidance_unet=networks["guidance_unet"],
            classifier=networks["classifier"],
            callback_on_step_end=after_step,
        )
    assert seen == {name: [("meta", "meta")] * 2 for name in networks}
