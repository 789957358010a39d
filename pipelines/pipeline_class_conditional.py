"""Class-conditional sampling with every kind of guidance, for diffusers' schedulers with the noise levels of training.

At x_t = a·x₀ + σ·ε, a = √ᾱ_t and σ = √(1−ᾱ_t), a prediction with the label and one without it are combined. Each kind
of guidance is one function or method:

- `_extrapolated`: classifier-free guidance, Ho and Salimans (arXiv 2207.12598, eq. 6);
- `_limited`: in a limited interval of noise levels, Kynkäänniemi et al. (2404.07724, eq. 6);
- `_rescaled`: rescaled to the spread of the prediction with the label, Lin et al. (2305.08891, section 3.4);
- `_thresholded`: dynamic thresholding, Saharia et al. (2205.11487, section 2.3);
- `_renoised`: CFG++, Chung et al. (2406.08070, algorithm 2);
- `_ids_of_worse`: autoguidance by a worse network instead of the missing label, Karras et al. (2406.02507, eq. 3);
- `_class_gradient`, `_shifted_mean` and `_shifted_noise`: classifier guidance, Dhariwal and Nichol (2105.05233,
  algorithms 1 and 2).

This file needs only torch, numpy and diffusers, so that a published checkpoint can carry it.
"""

import contextlib
import difflib
import inspect
import json
import math
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    ImagePipelineOutput,
    PNDMScheduler,
    UNet2DModel,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

Label = int | str | Mapping[int, float] | Mapping[str, float] | Mapping[int | str, float]
"""A class by index or name, or a mixture of classes: {"three": 0.5, "eight": 0.5}."""
Labels = Label | Sequence[Label] | torch.Tensor
"""Labels of several images, or one."""
Interval = tuple[float, float]
"""The ends of an interval of noise levels, the lower one first."""
Classifier = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From x_t (B, C, H, W) and the timestep to logits (B, N) of the classes at that noise level."""
Scale = float | Sequence[float] | Callable[[float], float | Sequence[float]]
"""One scale for all images, one for each, or either as a function of log-SNR λ = ln(ᾱ/(1−ᾱ))."""
DDIM = (DDIMScheduler, DDIMParallelScheduler)
"""Schedulers whose step goes to t − T // n, regardless of the next timestep."""
TRIED = "DPM-Solver++, UniPC, DDIM, DDPM or Euler"
"""Solvers that work on every noise schedule."""
NOISIEST = -10.2
"""Log-SNR at which solvers start that combine several slopes within a step; noisier levels are left out."""
NOISE_THREADS = 4
"""Threads that draw DDPM's noise while a GPU works."""
QUANTILE_ELEMENTS = 2**24 - 1
"""The most elements that torch.quantile takes in older versions."""
RESPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas")
"""Options with which a scheduler chooses its own noise levels, and cannot be given timesteps."""


class ArgumentError(ValueError):
    """An argument that does not fit the model, the scheduler or another argument."""


class NonFiniteImages(ValueError):
    """Images are NaN or infinite after the last step.

    Args:
        numbers: Their indices in the batch.
    """

    def __init__(self, numbers: Sequence[int]):
        self.numbers = list(numbers)
        shown = ", ".join(map(str, self.numbers[:8])) + (f", … {len(numbers)} in all" if len(numbers) > 8 else "")
        super().__init__(
            f"These images are NaN or infinite after the last step: {shown}. Try a smaller guidance_scale or "
            "classifier_scale, dynamic_thresholding or another scheduler; without guidance, check the weights."
        )


@dataclass
class ClassConditionalOutput(ImagePipelineOutput):
    """Images, and for each image the number of evaluations of each network.

    A classifier's evaluation is a forward and a backward pass.
    """

    evaluations: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class _Step:
    """Guidance at one noise level: the images (b,) that need each prediction, and the scales (B, 1, 1, 1)."""

    weak_rows: torch.Tensor
    strong_rows: torch.Tensor
    weak_ids: torch.Tensor | None
    strong_ids: torch.Tensor | None
    scale: torch.Tensor
    guided: torch.Tensor
    classifier_rows: torch.Tensor
    classifier_scale: torch.Tensor
    plus_plus: bool


def _extrapolated(weak: torch.Tensor, strong: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance, weak + w·(strong − weak); (B, C, H, W).

    Ho and Salimans (2207.12598, eq. 6, whose w is one less). ε, v and x₀ at a fixed x_t are linear in one another and
    the weights 1 − w and w add up to 1, so that it holds for all three.
    """
    return weak + scale * (strong - weak)


def _limited(scales: np.ndarray, classifier_scales: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Guidance in an interval: w = 1 and s = 0 at the steps outside it; (steps, B) each.

    Kynkäänniemi et al. (2404.07724, eq. 6).
    """
    inside = inside[:, None]
    return np.where(inside, scales, 1.0), np.where(inside, classifier_scales, 0.0)


def _rescaled(guided: torch.Tensor, strong: torch.Tensor, share: float) -> torch.Tensor:
    """Rescaled guidance, (φ·std(strong)/std(guided) + 1 − φ)·guided with φ = `share`, image by image; (B, C, H, W).

    Lin et al. (2305.08891, eq. 15 and 16).
    """
    ratio = _spread(strong) / _spread(guided)
    return (share * ratio + 1 - share) * guided


def _thresholded(clean: torch.Tensor, quantile: float) -> torch.Tensor:
    """Dynamic thresholding: x̂₀ clipped to ±b and divided by b, b the quantile of |x̂₀|, at least 1, image by image.

    Saharia et al. (2205.11487, section 2.3).
    """
    magnitudes = clean.abs().flatten(1)  # (B, CHW)
    parts = magnitudes.split(max(1, QUANTILE_ELEMENTS // magnitudes.shape[1]))
    bound = torch.cat([torch.quantile(part, quantile, dim=1) for part in parts]).clamp(min=1)
    bound = bound[:, None, None, None]
    return clean.clamp(-bound, bound) / bound


def _ids_of_worse(network: UNet2DModel, strong_ids: np.ndarray | None, count: int) -> np.ndarray | None:
    """Autoguidance: the rows of the class embeddings, (B,), with which a worse network makes the weak prediction.

    It replaces the prediction without a label, but is given the label of the strong one: Karras et al. (2406.02507,
    eq. 3). None for a network without classes; the null class if only the worse network has classes.
    """
    if network.config.num_class_embeds is None:
        return None
    return np.full(count, network.config.num_class_embeds - 1) if strong_ids is None else strong_ids


def _class_gradient(
    classifier: Classifier | None, x: torch.Tensor, t: torch.Tensor, step: _Step, log_shares: torch.Tensor | None
) -> torch.Tensor | None:
    """Classifier guidance: s·∇log p(c|x_t), (B, C, H, W), 0 where s is 0; None if it is 0 for all images.

    Dhariwal and Nichol (2105.05233, section 4). A label that mixes classes has p(c|x_t) = Σ_k share_k·p(k|x_t).

    Args:
        classifier: Called only for images whose s is not 0.
        x: x_t; (B, C, H, W).
        t: The timestep.
        step: Which images are guided, and how strongly.
        log_shares: ln(share_k) of each label; (B, N).
    """
    rows = step.classifier_rows
    if classifier is None or log_shares is None or len(rows) == 0:
        return None
    with torch.enable_grad():
        part = x[rows].detach().requires_grad_()
        log_p = classifier(part.to(getattr(classifier, "dtype", x.dtype)), t).to(x.dtype).log_softmax(1)  # (b, N)
        chosen = torch.logsumexp(log_p + log_shares[rows], dim=1)
        gradient = torch.autograd.grad(chosen.sum(), part)[0]
    return step.classifier_scale * _placed(gradient, rows, len(x))


def _shifted_mean(mean: torch.Tensor, variance: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Classifier guidance of DDPM: μ + Σ·s·∇log p(c|x_t), or a sample around μ, shifted by the same; (B, C, H, W).

    Dhariwal and Nichol (2105.05233, algorithm 1).
    """
    return mean + variance * gradient


def _shifted_noise(
    clean: torch.Tensor, noise: torch.Tensor, gradient: torch.Tensor, a: float, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Classifier guidance of other solvers: x̂₀ + σ²/a·s·∇log p(c|x_t) and, consistently, ε̂ − σ·s·∇log p(c|x_t).

    Dhariwal and Nichol (2105.05233, algorithm 2).
    """
    if a == 0:  # x_t contains nothing of the image or its class
        return clean, noise
    return clean + sigma**2 / a * gradient, noise - sigma * gradient


class ClassConditionalPipeline(DiffusionPipeline):
    """Class-conditional image generation with guidance.

    Args:
        unet: Denoiser. With N classes its `num_class_embeds` is N + 1 and the last index is the null class, which
            means "no label". A UNet without class embeddings is sampled unconditionally.
        scheduler: The solver, a diffusers scheduler with the noise levels that the UNet was trained on in its
            `alphas_cumprod`.
        id2label: Class names by index, N of them, in any order; by default "0", "1", ….

    Raises:
        ArgumentError: `id2label` does not name each of the N classes.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["latents", "model_output", "solver_input"]

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        id2label: dict[int, str] | dict[str, str] | None = None,  # JSON's keys are strings, sorted as text
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        num_classes = (unet.config.num_class_embeds or 1) - 1
        names = {int(i): str(name) for i, name in (id2label or {i: i for i in range(num_classes)}).items()}
        if sorted(names) != list(range(num_classes)):
            raise ArgumentError(
                f"id2label names the classes {sorted(names)}, but the UNet has the classes 0 to {num_classes - 1}: "
                "give every class one name."
            )
        self.id2label = {i: names[i] for i in range(num_classes)}
        self.register_to_config(id2label={str(i): name for i, name in self.id2label.items()})

    @property
    def components(self) -> dict:
        """Arguments for another pipeline of the same model: `ClassConditionalPipeline(**pipeline.components)`."""
        return {**super().components, "id2label": self.id2label}

    @property
    def parameters(self) -> dict:
        """Empty: `components` has all arguments, so that `(**pipeline.components, **pipeline.parameters)` works."""
        return {}

    def to_json_file(self, json_file_path: str | Path) -> None:
        """Write model_index.json, and beside it the source file of this class, so that diffusers can load it.

        All of diffusers' methods for saving and pushing call this. By themselves they would write only the name of the
        class, which diffusers does not have.
        """
        source = Path(inspect.getfile(type(self)))
        index = {**json.loads(self.to_json_string()), "_class_name": [source.stem, type(self).__name__]}
        index["id2label"] = {str(i): name for i, name in self.id2label.items()}
        Path(json_file_path).write_text(json.dumps(index, indent=2) + "\n")
        target = Path(json_file_path).with_name(source.name)
        if not (target.exists() and target.samefile(source)):
            shutil.copyfile(source, target)

    @property
    def null_class(self) -> int:
        """Index that means "no label": the last of the class embeddings."""
        return self.unet.config.num_class_embeds - 1

    def class_names(self, classifier: Classifier | None = None) -> dict[int, str]:
        """Names of the classes by index: the UNet's, or the classifier's if the UNet has none.

        Raises:
            ArgumentError: The classifier has no attribute `id2label`, of its own or in its config.
        """
        return self.id2label or (_names_of(classifier) if classifier is not None else {})

    def label_ids(
        self, class_labels: int | str | Sequence[int | str] | torch.Tensor, classifier: Classifier | None = None
    ) -> list[int]:
        """Class indices of labels given as indices or names.

        Raises:
            ArgumentError: A name is unknown or shared by several classes, or an index is out of range.
        """
        names = self.class_names(classifier)
        return [_find_class(label, names) for label in _as_list(class_labels)]

    def label_weights(self, class_labels: Labels, classifier: Classifier | None = None) -> np.ndarray:
        """Weights of the classes in each label, (B, N): a single 1 unless the label is a mixture.

        Args:
            class_labels: B labels.
            classifier: Its classes are used if the UNet has none.

        Raises:
            ArgumentError: As for `label_ids`, or the weights of a mixture are negative or do not add up to 1.
        """
        names = self.class_names(classifier)
        labels = _as_list(class_labels)
        shares = np.zeros((len(labels), len(names)))
        for row, label in zip(shares, labels):
            mixture = label if isinstance(label, Mapping) else {label: 1.0}
            for part, weight in mixture.items():
                row[_find_class(part, names)] += weight
            if not (row >= 0).all() or not math.isclose(row.sum(), 1, abs_tol=1e-6):
                raise ArgumentError(
                    f"The weights of the mixture {dict(mixture)} must not be negative and must add up to 1."
                )
        return shares

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels | None = None,
        guidance_scale: Scale = 1.0,
        num_inference_steps: int = 50,
        timesteps: Sequence[int] | None = None,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DiffusionPipeline, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        num_images_per_label: int = 1,
        latents: torch.Tensor | None = None,
        guidance_interval: Interval | None = None,
        guidance_interval_sigma: Interval | None = None,
        guidance_rescale: float = 0.0,
        dynamic_thresholding: float | None = None,
        cfg_plus_plus: bool = False,
        guidance_unet: UNet2DModel | None = None,
        classifier: Classifier | None = None,
        classifier_scale: Scale = 1.0,
    ) -> ClassConditionalOutput | tuple:
        """Draw images of class labels.

        Args:
            class_labels: Indices or names; {label: weight, …} mixes the embeddings of classes by weights that add up
                to 1. B images are drawn, `num_images_per_label` of each. None draws `batch_size` images without a
                label.
            guidance_scale: w in weak + w·(strong − weak) (2207.12598, eq. 6, whose w is one less): strong is the
                prediction with the label, weak the one without. 1 is the plain conditional model and 0 the
                unconditional one, at one UNet evaluation a step; any other value takes two, in one batched pass.
                Without labels it changes nothing, unless there is a guidance_unet.
            num_inference_steps: Number n of solver steps, 1 to T. See `set_timesteps`.
            timesteps: The timesteps to visit instead, decreasing, for schedulers whose `set_timesteps` takes them.
            batch_size: Number of images when there are no labels.
            generator: One generator, or a list with one per image, which makes an image independent of its batch.
            output_type: "pil" images, "np" float (B, H, W, C) in [0, 1], or "pt" float (B, C, H, W) in [0, 1].
            return_dict: Return a ClassConditionalOutput instead of a tuple.
            callback_on_step_end: Called as (pipeline, step, timestep, tensors) after each step; may return
                {"latents": …} to replace x_t.
            callback_on_step_end_tensor_inputs: Which tensors the callback is given: "latents", x_t after the step, and
                what the scheduler stepped with, "model_output" and "solver_input": the guided prediction and the x_t
                that it is for, in the solver's own scale.
            num_images_per_label: Images of each label, one after another.
            latents: Noise of unit variance to start from, (B, C, H, W), instead of what `generator` would draw. It is
                multiplied by the scheduler's `init_noise_sigma`.
            guidance_interval: Guide only at log-SNR low ≤ λ < high (2404.07724, eq. 6); elsewhere the plain
                conditional model takes its one evaluation.
            guidance_interval_sigma: The same interval as low < σ/a ≤ high.
            guidance_rescale: φ in [0, 1], the share of the rescaling that gives the guided prediction the standard
                deviation of the strong one, image by image (2305.08891, section 3.4). As there, it acts on what the
                network predicts, be that ε, v or x₀. Where w is 0 or 1 there is nothing to rescale.
            dynamic_thresholding: Quantile of |x̂₀|, such as 0.995, at which x̂₀ is clipped and by which it is divided
                wherever it exceeds 1, image by image (2205.11487, section 2.3).
            cfg_plus_plus: Take x̂₀ from the guided prediction but renoise it with the one without a label
                (2406.08070, algorithm 2). guidance_scale is then λ in [0, 1].
            guidance_unet: A worse version of the network, conditional or not, whose prediction replaces the one
                without a label (2406.02507, eq. 3): an earlier checkpoint or a smaller model.
            classifier: Called as (x_t (B, C, H, W), timestep), both on one device, returns logits (B, N) of the
                classes at this noise level (2105.05233). It guides a conditional or an unconditional UNet, alone or on
                top of guidance_scale. DDPM takes its gradient as a shift s·Σ·∇log p of the mean (algorithm 1), any
                other solver as ε̂ − s·σ·∇log p (algorithm 2).
            classifier_scale: s.

        Raises:
            ArgumentError: A label is unknown, kinds of guidance cannot be combined, latents have another shape, or the
                scheduler cannot take these steps correctly.
            NonFiniteImages: Images are NaN or infinite.
        """
        # Plan: all evaluations are decided before the first step, so that no step waits for the device.
        self._check_output(output_type, callback_on_step_end_tensor_inputs)
        self.check(
            class_labels,
            guidance_interval=guidance_interval,
            guidance_interval_sigma=guidance_interval_sigma,
            guidance_rescale=guidance_rescale,
            dynamic_thresholding=dynamic_thresholding,
            cfg_plus_plus=cfg_plus_plus,
            guidance_unet=guidance_unet,
            classifier=classifier,
        )
        shares = self._shares(class_labels, num_images_per_label, classifier)  # (B, N)
        count = batch_size if shares is None else len(shares)
        self._check_start(count, generator, latents)
        self.set_timesteps(num_inference_steps, timesteps)
        levels = self.log_snr_of_steps()  # (steps,)
        inside = _inside(guidance_interval, guidance_interval_sigma, levels)
        scales = _scales("guidance_scale", guidance_scale, levels, count)  # w, (steps, B)
        classifier_scales = _scales("classifier_scale", classifier_scale if classifier else 0.0, levels, count)  # s
        class_ids, mixtures = _rows_of_classes(shares)
        steps, evaluations = self._plan(class_ids, scales, classifier_scales, inside, cfg_plus_plus, guidance_unet)

        latents = self._start(count, generator, latents)  # (B, C, H, W)
        # The solver looks up noise levels by its timesteps on the CPU; the networks would copy one in every call.
        network_timesteps = self.scheduler.timesteps.to(latents.device)
        log_shares = None if shares is None else torch.from_numpy(shares).to(latents).log()
        step_kwargs = self._step_kwargs(generator)
        with (
            self._mixed_classes(mixtures, guidance_unet),
            self._without_corrector(cfg_plus_plus),
            self._noise_ahead(generator, latents) as noises,
        ):
            for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
                # Predict: with the label, without it, and the gradient of the classifier.
                step, network_t = steps[i], network_timesteps[i]
                x = self.scheduler.scale_model_input(latents, t)  # x_t, (B, C, H, W)
                weak, strong = self._predict(x, network_t, step, guidance_unet)
                gradient = _class_gradient(classifier, x, network_t, step, log_shares)

                # Combine: one prediction, and then what changes its x̂₀ and ε̂ separately.
                model_output = _extrapolated(weak, strong, step.scale)
                if guidance_rescale:
                    rescaled = _rescaled(model_output, strong, guidance_rescale)
                    model_output = torch.where(step.guided, rescaled, model_output)
                model_output, solver_input = self._act_on_parts(
                    latents, x, t, model_output, weak if step.plus_plus else None, gradient, dynamic_thresholding
                )

                # Step: x_t -> x_{t-1}.
                latents = self._solver_step(i, t, model_output, solver_input, gradient, step_kwargs, noises)
                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "model_output": model_output, "solver_input": solver_input}
                    tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    latents = (callback_on_step_end(self, i, t, tensors) or {}).get("latents", latents)

        images = self._images(latents, output_type)
        self.maybe_free_model_hooks()
        return ClassConditionalOutput(images=images, evaluations=evaluations) if return_dict else (images,)

    def _check_output(self, output_type: str, tensor_inputs: Sequence[str]) -> None:
        """Refuse an unknown output type, and unknown tensors for the callback."""
        if output_type not in ("pil", "np", "pt"):
            raise ArgumentError(f"output_type {output_type!r} is unknown: choose from 'pil', 'np' and 'pt'.")
        unknown = set(tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            known = self._callback_tensor_inputs
            raise ArgumentError(f"callback_on_step_end_tensor_inputs has {sorted(unknown)}: choose from {known}.")

    def _shares(
        self, class_labels: Labels | None, num_images_per_label: int, classifier: Classifier | None
    ) -> np.ndarray | None:
        """Weights of the classes in each image's label, (B, N), or None without labels."""
        shares = None if class_labels is None else self.label_weights(class_labels, classifier)
        if num_images_per_label < 1 or (shares is None and num_images_per_label != 1):
            what = "needs class_labels: give batch_size" if shares is None else "must be 1 or more"
            raise ArgumentError(f"num_images_per_label is {num_images_per_label}, but {what}.")
        return None if shares is None else shares.repeat(num_images_per_label, axis=0)

    def _shape(self, count: int) -> tuple[int, ...]:
        """(B, C, H, W) of `count` images."""
        size = self.unet.config.sample_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        return (count, self.unet.config.in_channels, *size)

    def _check_start(
        self, count: int, generator: torch.Generator | list[torch.Generator] | None, latents: torch.Tensor | None
    ) -> None:
        """Refuse generators and noise that do not match the number and shape of the images."""
        shape = self._shape(count)
        if isinstance(generator, list) and len(generator) != count:
            raise ArgumentError(f"{len(generator)} generators for {count} images: give one, or one per image.")
        if latents is not None and tuple(latents.shape) != shape:
            raise ArgumentError(f"latents has the shape {tuple(latents.shape)}, but must have {shape}.")

    def _start(
        self, count: int, generator: torch.Generator | list[torch.Generator] | None, latents: torch.Tensor | None
    ) -> torch.Tensor:
        """Pure noise, (B, C, H, W), in float32 or better, independent of the UNet's precision."""
        shape, device = self._shape(count), self._execution_device
        dtype = torch.promote_types(self.unet.dtype, torch.float32)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        return latents.to(device, dtype) * self.scheduler.init_noise_sigma

    def _solver_step(
        self,
        i: int,
        t: torch.Tensor,
        model_output: torch.Tensor,
        solver_input: torch.Tensor,
        gradient: torch.Tensor | None,
        step_kwargs: dict[str, Any],
        noises: Iterator[torch.Tensor] | None,
    ) -> torch.Tensor:
        """One step of the solver, x_t -> x_{t-1}; (B, C, H, W).

        Args:
            i: Number of the step, from 0.
            t: Its timestep.
            model_output: The guided prediction; (B, C, H, W).
            solver_input: x_t, in the solver's own scale; (B, C, H, W).
            gradient: s·∇log p(c|x_t), which shifts the mean of DDPM, or None.
            step_kwargs: As of `_step_kwargs`.
            noises: As of `_noise_ahead`.
        """
        is_last = i + 1 == len(self.scheduler.timesteps)
        if isinstance(self.scheduler, DDIM):
            # T // n is the distance to the timestep that comes next if n is this fraction, exactly.
            following = -1 if is_last else self.scheduler.timesteps[i + 1]
            total = self.scheduler.config.num_train_timesteps
            self.scheduler.num_inference_steps = Fraction(total, int(t - following))
        if noises is not None:
            following, predicted = self._ancestral_step(model_output, t, solver_input, next(noises) if t > 0 else None)
        else:
            result = self.scheduler.step(model_output, t, solver_input, **step_kwargs)
            if not isinstance(self.scheduler, DDPMScheduler):
                return result.prev_sample
            following, predicted = result.prev_sample, result.pred_original_sample
        if is_last:
            # diffusers adds noise whenever t > 0, which would remain in the image.
            return predicted
        if gradient is None:
            return following
        return _shifted_mean(following, self._reverse_variance(t), gradient)

    def _ancestral_step(
        self, output: torch.Tensor, t: torch.Tensor, x: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """DDPM's step with given noise z: x_s = μ(x_t, x̂₀) + √Σ·z, and x̂₀; (B, C, H, W) each.

        Ho et al. (2006.11239, eq. 7 and algorithm 2), from t to the next timestep s of the solver. The operations are
        those of DDPMScheduler.step in the same order, so that both give the same bits.
        """
        scheduler, s = self.scheduler, self.scheduler.previous_timestep(t)
        signal = scheduler.alphas_cumprod[t]  # ᾱ_t
        next_signal = scheduler.alphas_cumprod[s] if s >= 0 else scheduler.one  # ᾱ_s
        alpha = signal / next_signal
        clean = self._clipped(self._clean_and_noise(output, x, signal**0.5, (1 - signal) ** 0.5)[0])
        following = (next_signal**0.5 * (1 - alpha)) / (1 - signal) * clean
        following = following + alpha**0.5 * (1 - next_signal) / (1 - signal) * x
        if noise is not None:
            spread = scheduler._get_variance(t)
            # diffusers returns a standard deviation for this one.
            following = following + (spread if scheduler.variance_type == "fixed_small_log" else spread**0.5) * noise
        return following, clean

    @contextlib.contextmanager
    def _noise_ahead(
        self, generator: torch.Generator | list[torch.Generator] | None, latents: torch.Tensor
    ) -> Iterator[Iterator[torch.Tensor] | None]:
        """The noise of the steps of diffusers' DDPM if every image has a generator on the CPU; else None.

        DDPMScheduler.step would draw and copy it, image by image, while the device waits.
        """
        known = type(self.scheduler).step is DDPMScheduler.step
        known = known and self.scheduler.variance_type not in ("learned", "learned_range")
        if not known or not isinstance(generator, list) or any(g.device.type != "cpu" for g in generator):
            yield None
            return
        count = int((self.scheduler.timesteps > 0).sum())
        with contextlib.closing(_noises(generator, latents, count, ahead=latents.device.type != "cpu")) as noises:
            yield noises

    def _images(self, latents: torch.Tensor, output_type: str) -> Any:
        """Images of x₀ in [−1, 1], in the given output type.

        Raises:
            NonFiniteImages: Images are NaN or infinite.
        """
        finite = latents.flatten(1).isfinite().all(1)
        if not finite.all():
            raise NonFiniteImages((~finite).nonzero().flatten().tolist())
        images = (latents / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        pictures = images.cpu().permute(0, 2, 3, 1).float().numpy()  # (B, H, W, C)
        return self.numpy_to_pil(pictures) if output_type == "pil" else pictures

    def set_timesteps(self, num_inference_steps: int, timesteps: Sequence[int] | None = None) -> None:
        """Set the scheduler's timesteps, on the CPU: each step looks up noise levels by them, and would otherwise wait
        for the device.

        They are diffusers' own if those are n different ones. If not, n are spread evenly below the first of them:
        trailing spacing rounds to n + 1 for some n, and that of DPM-Solver++ with `lambda_min_clipped` gives too few
        or too many for most. Solvers that combine slopes within a step, such as Heun, start at log-SNR −10.2.

        Args:
            num_inference_steps: n.
            timesteps: Decreasing timesteps to take instead; n is then ignored.

        Raises:
            ArgumentError: The scheduler does not have the noise levels of training, or cannot take this number of
                steps or these timesteps.
        """
        scheduler, total = self.scheduler, self.scheduler.config.num_train_timesteps
        name = type(scheduler).__name__
        if not hasattr(scheduler, "alphas_cumprod"):
            raise ArgumentError(
                f"{name} has no alphas_cumprod, so it does not have the noise levels that the network was trained on: "
                f"use {TRIED}."
            )
        takes_timesteps = isinstance(scheduler, DDIM) or (
            "timesteps" in inspect.signature(scheduler.set_timesteps).parameters
            and not any(scheduler.config.get(option) for option in RESPACED)
        )
        if timesteps is not None:
            if not takes_timesteps:
                raise ArgumentError(
                    f"{name} does not support custom timesteps: use DDPM, DDIM, DPM-Solver++ or Euler, or leave "
                    "timesteps out."
                )
            timesteps = [int(t) for t in timesteps]
            if not (timesteps and _are_falling(timesteps, total)):
                raise ArgumentError(
                    f"timesteps is {timesteps}, but must be strictly decreasing and lie within 0 to {total - 1}."
                )
        else:
            if not 1 <= num_inference_steps <= total:
                raise ArgumentError(f"num_inference_steps={num_inference_steps}, but must lie between 1 and {total}.")
            scheduler.set_timesteps(num_inference_steps)
            timesteps = self._mended_timesteps(num_inference_steps, takes_timesteps)
        if timesteps is not None and isinstance(scheduler, DDIM):
            scheduler.set_timesteps(len(timesteps))
            scheduler.timesteps = torch.tensor(timesteps)
        elif timesteps is not None:
            scheduler.set_timesteps(timesteps=timesteps)

    def _mended_timesteps(self, n: int, takes_timesteps: bool) -> list[int] | None:
        """n timesteps to replace those that the scheduler has set, or None if no replacement is needed."""
        scheduler, total = self.scheduler, self.scheduler.config.num_train_timesteps
        name, own = type(scheduler).__name__, scheduler.timesteps.tolist()
        if scheduler.order > 1 or (isinstance(scheduler, PNDMScheduler) and not scheduler.config.skip_prk_steps):
            usable = int(
                (torch.logit(scheduler.alphas_cumprod.double()) >= NOISIEST).sum()
            )  # how many timesteps are less noisy
            if takes_timesteps and (own[0] >= usable or min(own) < 0):
                if n > usable:
                    raise ArgumentError(
                        f"num_inference_steps={n}: {name} takes at most {usable} on this noise schedule."
                    )
                return _evenly(usable, n)
            if own[0] >= usable and scheduler.config.prediction_type == "epsilon":
                raise ArgumentError(
                    f"{name} combines predictions of ε at several noise levels, which are too far apart at the start "
                    f"of this noise schedule: use {TRIED}."
                )
        elif len(own) == n and _are_falling(own, total):
            return None
        elif takes_timesteps:
            first = round(own[0]) + 1
            return _evenly(first if n <= first <= total else total, n)
        if min(own) >= 0:
            return None  # repeated or fractional timesteps, as the scheduler defines them
        if len(own) == n + 1 and len(getattr(scheduler, "sigmas", ())) == n + 2:
            scheduler.timesteps, scheduler.num_inference_steps = scheduler.timesteps[:n], n
            scheduler.sigmas = torch.cat([scheduler.sigmas[:n], scheduler.sigmas[-1:]])
            return None
        raise ArgumentError(f"num_inference_steps={n}: {name} steps beyond the last timestep; use {TRIED}.")

    def _step_kwargs(self, generator: torch.Generator | list[torch.Generator] | None) -> dict[str, Any]:
        """The arguments of this scheduler's step that not every scheduler has."""
        accepted = inspect.signature(self.scheduler.step).parameters
        kwargs: dict[str, Any] = {"generator": generator} if "generator" in accepted else {}
        if "use_clipped_model_output" in accepted:
            # After clipping x̂₀, ε̂ must be recomputed, or the two no longer add up to x_t.
            kwargs["use_clipped_model_output"] = True
        return kwargs

    def check(
        self,
        class_labels: Labels | None = None,
        *,
        guidance_interval: Interval | None = None,
        guidance_interval_sigma: Interval | None = None,
        guidance_rescale: float = 0.0,
        dynamic_thresholding: float | None = None,
        cfg_plus_plus: bool = False,
        guidance_unet: UNet2DModel | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        """Refuse kinds of guidance that do not fit the model or cannot be combined, as a call with them would.

        Raises:
            ArgumentError: One sentence names the argument and the remedy.
        """
        self._check_networks(class_labels, guidance_unet, classifier)
        self._check_kinds(guidance_rescale, dynamic_thresholding, cfg_plus_plus, guidance_unet, classifier)
        if class_labels is None and guidance_unet is None:
            kinds = {
                "guidance_interval": guidance_interval,
                "guidance_interval_sigma": guidance_interval_sigma,
                "guidance_rescale": guidance_rescale,
                "cfg_plus_plus": cfg_plus_plus,
            }
            for name in (name for name, value in kinds.items() if value):
                raise ArgumentError(f"{name} has no effect without class_labels or a guidance_unet: give one of them.")
        _inside(guidance_interval, guidance_interval_sigma, np.empty(0))

    def _check_networks(
        self, class_labels: Labels | None, guidance_unet: UNet2DModel | None, classifier: Classifier | None
    ) -> None:
        """Refuse networks that do not fit the model or the labels."""
        config = self.unet.config
        if config.num_class_embeds is None and class_labels is not None and classifier is None:
            raise ArgumentError("This model is unconditional: leave class_labels out and give batch_size instead.")
        if classifier is not None:
            if class_labels is None:
                raise ArgumentError("A classifier needs classes to guide to: give class_labels too.")
            names = _names_of(classifier, {})
            if self.id2label and names and names != self.id2label:
                raise ArgumentError(
                    f"The classifier has the classes {list(names.values())[:6]} and the model "
                    f"{list(self.id2label.values())[:6]}: both must have the same classes in the same order."
                )
        if guidance_unet is not None:
            for key in ("sample_size", "in_channels", "out_channels"):
                mine, its = (getattr(unet.config, key, None) for unet in (self.unet, guidance_unet))
                if mine != its:
                    raise ArgumentError(f"guidance_unet has {key} {its} and the model {mine}: they must be equal.")
            classes = guidance_unet.config.num_class_embeds
            if config.num_class_embeds is not None and classes not in (None, config.num_class_embeds):
                raise ArgumentError(
                    f"guidance_unet has {classes - 1} classes and the model {config.num_class_embeds - 1}: "
                    "give one with the same classes, or one without."
                )

    def _check_kinds(
        self,
        rescale: float,
        dynamic_thresholding: float | None,
        plus_plus: bool,
        guidance_unet: UNet2DModel | None,
        classifier: Classifier | None,
    ) -> None:
        """Refuse numbers out of range, and kinds of guidance that cannot be combined."""
        if not 0 <= rescale <= 1:
            raise ArgumentError(f"guidance_rescale is {rescale}, but must lie between 0 and 1.")
        if dynamic_thresholding is not None:
            if not 0 < dynamic_thresholding < 1:
                raise ArgumentError(f"dynamic_thresholding is {dynamic_thresholding}, but must lie between 0 and 1.")
            own = self.scheduler.config.get("thresholding") and self.scheduler.config.sample_max_value > 1
            if own:
                raise ArgumentError("The scheduler already uses dynamic thresholding: leave out dynamic_thresholding.")
        if plus_plus:
            problem = None
            if guidance_unet is not None:
                problem = "renoises with the unconditional prediction, which guidance_unet replaces"
            elif classifier is not None:
                problem = "splits classifier-free guidance into two predictions, and classifier guidance has only one"
            elif rescale:
                problem = "interpolates, so guidance_rescale has nothing to correct"
            if problem:
                raise ArgumentError(f"CFG++ {problem}: leave one of the two out.")

    def log_snr_of_steps(self) -> np.ndarray:
        """ln(ᾱ/(1−ᾱ)) at the scheduler's timesteps, (steps,)."""
        signal = np.array([self._a_sigma(t)[0] ** 2 for t in self.scheduler.timesteps])
        with np.errstate(divide="ignore"):
            return np.log(signal) - np.log1p(-signal)

    def _a_sigma(self, t: float | torch.Tensor) -> tuple[float, float]:
        """√ᾱ and √(1−ᾱ) at a timestep."""
        signal = float(self.scheduler.alphas_cumprod[round(float(t))])  # Euler's timesteps are whole, but floats
        return math.sqrt(signal), math.sqrt(1 - signal)

    def _plan(
        self,
        class_ids: np.ndarray | None,
        scales: np.ndarray,
        classifier_scales: np.ndarray,
        inside: np.ndarray,
        plus_plus: bool,
        guidance_unet: UNet2DModel | None,
    ) -> tuple[list[_Step], dict[str, list[int]]]:
        """The _Steps, and how often each network is evaluated for each image.

        The weak prediction is left out at w = 1, and the strong one at w = 0.

        Args:
            class_ids: Row of each image in the class embeddings, (B,), or None without labels.
            scales: w; (steps, B).
            classifier_scales: s; (steps, B).
            inside: Whether each step lies in the interval; (steps,).
            plus_plus: Whether the steps in the interval are those of CFG++.
            guidance_unet: The worse network of autoguidance, or None.

        Raises:
            ArgumentError: w is outside of [0, 1] with CFG++.
        """
        # Which class embeddings the two predictions are made with.
        count, has_classes = scales.shape[1], self.unet.config.num_class_embeds is not None
        null_ids = np.full(count, self.null_class) if has_classes else None
        strong_ids = null_ids if class_ids is None or null_ids is None else class_ids
        weak_ids = null_ids if guidance_unet is None else _ids_of_worse(guidance_unet, strong_ids, count)
        if guidance_unet is None and strong_ids is null_ids:  # the two predictions are the same
            scales, plus_plus = np.ones_like(scales), False
        if plus_plus and not ((scales >= 0) & (scales <= 1)).all():
            raise ArgumentError("With CFG++ guidance_scale must lie between 0 and 1: it interpolates.")

        # Which images need which evaluation, (steps, B).
        scales, classifier_scales = _limited(scales, classifier_scales, inside)
        if isinstance(self.scheduler, DDPMScheduler):
            classifier_scales[-1] = 0  # the last step has no variance for the gradient to shift
        splits = inside & plus_plus  # whether a step is one of CFG++, (steps,)
        weak, strong = (scales != 1) | splits[:, None], scales != 0
        counts = {"unet": strong.sum(0), "guidance_unet": weak.sum(0), "classifier": (classifier_scales != 0).sum(0)}
        if guidance_unet is None:
            counts["unet"] = counts["unet"] + counts.pop("guidance_unet")

        # Equal steps share their tensors. Copying them waits for the device, but once in a call and before its work.
        steps: list[_Step] = []
        known: dict[tuple[bytes, bytes, bool], _Step] = {}
        for i in range(len(scales)):
            key = (scales[i].tobytes(), classifier_scales[i].tobytes(), bool(splits[i]))
            if key not in known:
                known[key] = self._make_step(
                    weak[i], strong[i], weak_ids, strong_ids, scales[i], classifier_scales[i], key[2]
                )
            steps.append(known[key])
        return steps, {name: number.tolist() for name, number in counts.items() if name == "unet" or number.any()}

    def _make_step(
        self,
        weak: np.ndarray,
        strong: np.ndarray,
        weak_ids: np.ndarray | None,
        strong_ids: np.ndarray | None,
        scale: np.ndarray,
        classifier_scale: np.ndarray,
        plus_plus: bool,
    ) -> _Step:
        """A _Step on the UNet's device, from which images need which prediction, and the w and s of each; (B,)."""
        device, dtype = self._execution_device, torch.promote_types(self.unet.dtype, torch.float32)
        tensor = torch.from_numpy
        return _Step(
            weak_rows=tensor(np.flatnonzero(weak)).to(device),
            strong_rows=tensor(np.flatnonzero(strong)).to(device),
            weak_ids=None if weak_ids is None else tensor(weak_ids[weak]).to(device),
            strong_ids=None if strong_ids is None else tensor(strong_ids[strong]).to(device),
            scale=tensor(scale).to(device, dtype)[:, None, None, None],
            guided=tensor((scale != 0) & (scale != 1)).to(device)[:, None, None, None],
            classifier_rows=tensor(np.flatnonzero(classifier_scale)).to(device),
            classifier_scale=tensor(classifier_scale).to(device, dtype)[:, None, None, None],
            plus_plus=plus_plus,
        )

    @contextlib.contextmanager
    def _mixed_classes(self, mixtures: np.ndarray, guidance_unet: UNet2DModel | None) -> Iterator[None]:
        """Mixtures of classes, (M, N), as further rows of the networks' class embeddings while images are drawn."""
        unets = [u for u in (self.unet, guidance_unet) if u is not None and u.config.num_class_embeds is not None]
        tables = [unet.class_embedding for unet in unets] if len(mixtures) else []
        if any(not isinstance(table, torch.nn.Embedding) for table in tables):
            raise ArgumentError("This network has no table of class embeddings to mix: leave out mixtures of classes.")
        for unet, table in zip(unets, tables):
            shares = torch.from_numpy(mixtures).to(table.weight)  # (M, N)
            rows = torch.cat([table.weight, shares @ table.weight[: shares.shape[1]]])
            unet.class_embedding = torch.nn.Embedding.from_pretrained(rows)
        try:
            yield
        finally:
            for unet, table in zip(unets, tables):
                unet.class_embedding = table

    @contextlib.contextmanager
    def _without_corrector(self, plus_plus: bool) -> Iterator[None]:
        """UniPC without its corrector, which would recompute x_t from the previous step and so undo CFG++."""
        corrected = getattr(self.scheduler, "disable_corrector", None)
        if plus_plus and corrected is not None:
            self.scheduler.disable_corrector = list(range(len(self.scheduler.timesteps)))
        try:
            yield
        finally:
            if corrected is not None:
                self.scheduler.disable_corrector = corrected

    def _predict(
        self, x: torch.Tensor, t: torch.Tensor, step: _Step, guidance_unet: UNet2DModel | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weak and the strong prediction for x_t, (B, C, H, W) each; 0 for images that do not need it."""
        if guidance_unet is None:
            rows = torch.cat([step.weak_rows, step.strong_rows])
            weak_ids, strong_ids = step.weak_ids, step.strong_ids  # both None without classes
            ids = None if weak_ids is None or strong_ids is None else torch.cat([weak_ids, strong_ids])
            weak, strong = _evaluate(self.unet, x, t, rows, ids).split([len(step.weak_rows), len(step.strong_rows)])
        else:
            weak = _evaluate(guidance_unet, x, t, step.weak_rows, step.weak_ids)
            strong = _evaluate(self.unet, x, t, step.strong_rows, step.strong_ids)
        return _placed(weak, step.weak_rows, len(x)), _placed(strong, step.strong_rows, len(x))

    def _act_on_parts(
        self,
        latents: torch.Tensor,
        x: torch.Tensor,
        t: torch.Tensor,
        output: torch.Tensor,
        weak: torch.Tensor | None,
        gradient: torch.Tensor | None,
        dynamic_thresholding: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change x̂₀ and ε̂ of a prediction; returns the new prediction and the x_t for the solver, (B, C, H, W) each.

        Args:
            latents: x_t in the solver's own scale; (B, C, H, W).
            x: x_t; (B, C, H, W).
            t: The timestep.
            output: The guided prediction; (B, C, H, W).
            weak: The prediction to renoise with, for CFG++; else None.
            gradient: s·∇log p(c|x_t), or None.
            dynamic_thresholding: The quantile, or None.
        """
        if isinstance(self.scheduler, DDPMScheduler):
            gradient = None  # it shifts the mean of the step instead
        if not dynamic_thresholding and weak is None and gradient is None:
            return output, latents
        a, sigma = self._a_sigma(t)
        clean, noise = self._clean_and_noise(output, x, a, sigma)
        if gradient is not None:
            clean, noise = _shifted_noise(clean, noise, gradient, a, sigma)
        if dynamic_thresholding:
            clean = _thresholded(clean, dynamic_thresholding)
            noise = (x - a * clean) / sigma
        if weak is not None:
            clean, noise, latents = self._renoised(latents, x, t, clean, weak)
        outputs = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - sigma * clean}
        return outputs[self.scheduler.config.prediction_type], latents

    def _renoised(
        self, latents: torch.Tensor, x: torch.Tensor, t: torch.Tensor, clean: torch.Tensor, weak: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """CFG++: x_s = a_s·x̂₀ + σ_s·ε_weak, x̂₀ from the guided prediction and ε_weak from the one without a label.

        Chung et al. (2406.08070, algorithm 2). A solver derives ε̂ from x_t and x̂₀. Returns x̂₀, ε_weak and the x_t with
        the noise ε_weak, a·x̂₀ + σ·ε_weak, in the solver's own scale.
        """
        a, sigma = self._a_sigma(t)
        clean, noise = self._clipped(clean), self._clean_and_noise(weak, x, a, sigma)[1]
        moved = a * clean + sigma * noise - x
        # Some solvers keep x_t in another scale.
        moved = moved / self.scheduler.scale_model_input(torch.ones((), dtype=x.dtype, device=x.device), t)
        return clean, noise, latents + moved

    def _clean_and_noise(
        self, output: torch.Tensor, x: torch.Tensor, a: float | torch.Tensor, sigma: float | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x̂₀ and ε̂ of a prediction for x_t."""
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return (x - sigma * output) / a, output
        if kind == "sample":
            return output, (x - a * output) / sigma
        return a * x - sigma * output, sigma * x + a * output

    def _clipped(self, clean: torch.Tensor) -> torch.Tensor:
        """x̂₀, clipped as the solver would."""
        if self.scheduler.config.get("thresholding"):
            return self.scheduler._threshold_sample(clean)
        if self.scheduler.config.get("clip_sample"):
            bound = self.scheduler.config.clip_sample_range
            return clean.clamp(-bound, bound)
        return clean

    def _reverse_variance(self, t: torch.Tensor) -> torch.Tensor:
        """Σ of DDPM's step from t."""
        variance = self.scheduler._get_variance(t)
        # diffusers returns a standard deviation under this name.
        return variance**2 if self.scheduler.config.variance_type == "fixed_small_log" else variance


def _are_falling(timesteps: Sequence[float], total: int) -> bool:
    """Whether timesteps fall strictly and lie within 0 to T − 1."""
    return timesteps[0] < total and timesteps[-1] >= 0 and all(a > b for a, b in zip(timesteps, timesteps[1:]))


def _evenly(first: int, n: int) -> list[int]:
    """n of the timesteps below `first`, falling from the uppermost, as trailing spacing places them (2305.08891)."""
    return (np.round(np.linspace(first, 0, n, endpoint=False)).astype(int) - 1).tolist()


def _as_list(class_labels: Labels) -> list:
    """One label or several as a list."""
    if isinstance(class_labels, torch.Tensor):
        return class_labels.reshape(-1).tolist()
    return [class_labels] if isinstance(class_labels, int | str | np.integer | Mapping) else list(class_labels)


def _find_class(label: int | str, names: Mapping[int, str]) -> int:
    """Index of a class given by index or name.

    Raises:
        ArgumentError: The class does not exist, or several have this name.
    """
    if isinstance(label, str):
        matches = [i for i, name in names.items() if name == label]
        if len(matches) > 1:
            raise ArgumentError(f"Class label {label!r} is the name of the classes {matches}: give an index.")
        if not matches:
            near = difflib.get_close_matches(label, names.values(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the classes are: {_some(names)}."
            raise ArgumentError(f"Class label {label!r} is not a class of this model; {hint}")
        label = matches[0]
    if label not in names:
        raise ArgumentError(f"Class label {label} is out of range: {_some(names)}.")
    return int(label)


def _some(names: Mapping[int, str], limit: int = 12) -> str:
    if not names:
        return "this model is unconditional and has no classes"
    shown = ", ".join(f"{i} {name!r}" for i, name in list(names.items())[:limit])
    return shown + (f", … {len(names)} in all" if len(names) > limit else "")


def _names_of(classifier: Classifier, default: Mapping[int, str] | None = None) -> dict[int, str]:
    """Class names of a classifier in the order of their indices, from its `id2label` or that of its config."""
    names = getattr(classifier, "id2label", None) or getattr(getattr(classifier, "config", None), "id2label", default)
    if names is None:
        raise ArgumentError("The classifier does not name its classes: set its attribute id2label.")
    return dict(sorted((int(i), str(name)) for i, name in names.items()))


def _rows_of_classes(shares: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray]:
    """From weights of classes (B, N): each image's row of the class embeddings, and the mixtures (M, N) to append.

    The rows of the classes and of the null class come first, those of the mixtures after them.
    """
    if shares is None:
        return None, np.empty((0, 0))
    ids, mixed = shares.argmax(1), shares.max(1) < 1
    mixtures = np.unique(shares[mixed], axis=0)
    for i in np.flatnonzero(mixed):
        ids[i] = shares.shape[1] + 1 + int((mixtures == shares[i]).all(1).argmax())
    return ids, mixtures


def _inside(interval: Interval | None, interval_sigma: Interval | None, levels: np.ndarray) -> np.ndarray:
    """Whether log-SNRs lie in low ≤ λ < high; the interval is given in λ or in σ/a = exp(−λ/2). Bool (steps,)."""
    if interval is not None and interval_sigma is not None:
        raise ArgumentError("Give guidance_interval in log-SNR or guidance_interval_sigma, not both.")
    if interval_sigma is not None:
        low, high = interval_sigma
        if not 0 <= low < high:
            raise ArgumentError(f"guidance_interval_sigma is {low:g} to {high:g}, but needs 0 ≤ low < high.")
        interval = (-2 * math.log(high), math.inf if low == 0 else -2 * math.log(low))
    if interval is None:
        return np.ones(len(levels), bool)
    low, high = interval
    if not low < high:
        raise ArgumentError(f"guidance_interval is {low:g} to {high:g}, but needs low < high.")
    return (levels >= low) & (levels < high)


def _scales(name: str, scale: Scale, levels: np.ndarray, count: int) -> np.ndarray:
    """A scale at each step and for each image; float64 (steps, B)."""
    given = [scale(float(level)) for level in levels] if callable(scale) else [scale] * len(levels)
    rows = [torch.as_tensor(row, dtype=torch.float64, device="cpu").numpy() for row in given]
    if any(row.shape not in ((), (count,)) for row in rows):
        shape = next(row.shape for row in rows if row.shape not in ((), (count,)))
        raise ArgumentError(f"{name} has shape {shape} for {count} images: give one number, or one for each image.")
    scales = np.stack([np.broadcast_to(row, (count,)) for row in rows])
    if not np.isfinite(scales).all():
        raise ArgumentError(f"{name} is NaN or infinite, but must be finite.")
    return scales


def _evaluate(
    unet: UNet2DModel, x: torch.Tensor, t: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor | None
) -> torch.Tensor:
    """A network's prediction for these rows of x_t, in x's precision; (b, C, H, W)."""
    if len(rows) == 0:
        return x[:0]
    return unet(x[rows].to(unet.dtype), t, ids).sample.to(x.dtype)


def _noises(
    generators: Sequence[torch.Generator], like: torch.Tensor, count: int, ahead: bool
) -> Generator[torch.Tensor, None, None]:
    """Standard normal noise of `count` steps, (B, C, H, W) each, every image's from its own generator.

    Args:
        generators: B generators on the CPU.
        like: A tensor of the noise's shape, type and device.
        count: Number of steps.
        ahead: Draw the noise of the next step on threads (torch releases the interpreter's lock) while the device
            works, into pinned memory, from which it is copied without waiting.
    """

    def new() -> torch.Tensor:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=like.device.type == "cuda")

    def fill(rows: torch.Tensor, own: Sequence[torch.Generator]) -> None:
        for row, generator in zip(rows, own):
            row.normal_(generator=generator)

    if not ahead:
        for _ in range(count):
            noise = new()
            fill(noise, generators)
            yield noise.to(like.device)
        return
    size = -(-len(generators) // NOISE_THREADS)
    parts = [slice(first, first + size) for first in range(0, len(generators), size)]
    with ThreadPoolExecutor(len(parts), thread_name_prefix="noise") as threads:

        def start() -> tuple[torch.Tensor, list[Future[None]]]:
            noise = new()
            return noise, [threads.submit(fill, noise[part], generators[part]) for part in parts]

        upcoming = start()
        for left in reversed(range(count)):
            noise, drawing = upcoming
            for share in drawing:
                share.result()
            if left:  # a generator is used by one thread at a time
                upcoming = start()
            yield noise.to(like.device, non_blocking=True)


def _placed(part: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Scatter values of some rows, (b, C, H, W), into a batch, (B, C, H, W), that is 0 elsewhere."""
    if len(rows) == count:
        return part
    whole = part.new_zeros(count, *part.shape[1:])
    whole[rows] = part
    return whole


def _spread(prediction: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each image's prediction; (B, 1, 1, 1)."""
    return prediction.std(dim=(1, 2, 3), keepdim=True)
