"""Class-conditional sampling with classifier-free guidance, for any diffusers scheduler.

Ho and Salimans, "Classifier-Free Diffusion Guidance" (arXiv 2207.12598). This file needs only torch, numpy and
diffusers, so that a published checkpoint can carry it.
"""

import difflib
import inspect
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor


class ClassConditionalPipeline(DiffusionPipeline):
    """Draws images of the classes asked for.

    Args:
        unet: Denoiser. With N classes its `num_class_embeds` is N + 1 and the last index is the null class, which
            stands for "no label". A UNet without class embeddings is sampled unconditionally.
        scheduler: Any diffusers scheduler; it brings the solver and the noise levels.
        id2label: Class names by index, N of them. Left out, classes are called "0", "1", ….
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["latents", "model_output"]

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin, id2label: dict[int, str] | None = None):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        num_classes = (unet.config.num_class_embeds or 1) - 1
        names = {int(i): str(name) for i, name in (id2label or {i: i for i in range(num_classes)}).items()}
        if sorted(names) != list(range(num_classes)):
            raise ValueError(
                f"id2label names the classes {sorted(names)}, but the UNet has the classes 0 to {num_classes - 1}; "
                "give every class one name."
            )
        self.register_to_config(id2label={str(i): names[i] for i in range(num_classes)})  # JSON keys are strings
        self.id2label = names

    @property
    def null_class(self) -> int:
        """Index that stands for "no label": the last of the class embeddings."""
        return self.unet.config.num_class_embeds - 1

    def label_ids(self, class_labels: int | str | Sequence[int | str] | torch.Tensor) -> list[int]:
        """Class indices of labels given as indices or names.

        Raises:
            ValueError: A name is unknown or shared by several classes, or an index is out of range.
        """
        if isinstance(class_labels, torch.Tensor):
            class_labels = class_labels.reshape(-1).tolist()
        if isinstance(class_labels, int | str | np.integer):
            class_labels = [class_labels]
        ids = []
        for label in class_labels:
            if isinstance(label, str):
                matches = [i for i, name in self.id2label.items() if name == label]
                if len(matches) > 1:
                    raise ValueError(f"Class label {label!r} names the classes {matches}: give the index.")
                if not matches:
                    near = difflib.get_close_matches(label, self.id2label.values(), n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"the classes are: {self._some_names()}."
                    raise ValueError(f"Class label {label!r} is not a class of this model; {hint}")
                label = matches[0]
            if label not in self.id2label:
                raise ValueError(f"Class label {label} is out of range: {self._some_names()}.")
            ids.append(int(label))
        return ids

    def _some_names(self, limit: int = 12) -> str:
        if not self.id2label:
            return "this model is unconditional and has no classes"
        shown = ", ".join(f"{i} {name!r}" for i, name in list(self.id2label.items())[:limit])
        return shown + (f", … {len(self.id2label)} in all" if len(self.id2label) > limit else "")

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        timesteps: Sequence[int] | None = None,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DiffusionPipeline, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Draw one image per class label.

        Args:
            class_labels: Indices or names, B of them. None draws `batch_size` images without a label.
            guidance_scale: w in uncond + w·(cond − uncond) (2207.12598, eq. 6, whose w is one less). 1 is the plain
                conditional model and 0 the unconditional one, at one UNet evaluation a step; any other value takes
                two, in one batched pass.
            num_inference_steps: Number of solver steps.
            timesteps: The noise levels to step through instead, falling, for schedulers whose `set_timesteps` takes
                them.
            batch_size: Number of images when there are no labels.
            generator: One generator, or a list with one per image, which makes an image independent of its batch.
            output_type: "pil" images, "np" float (B, H, W, C) in [0, 1], or "pt" float (B, C, H, W) in [0, 1].
            return_dict: Return an ImagePipelineOutput instead of a tuple.
            callback_on_step_end: Called as (pipeline, step, timestep, tensors) after each step; may return
                {"latents": …} to replace x_t.
            callback_on_step_end_tensor_inputs: Which of "latents" and "model_output" the callback is given.

        Raises:
            ValueError: Unknown label, or a number of steps that the scheduler cannot space correctly.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type {output_type!r} is unknown: use 'pil', 'np' or 'pt'.")
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"The callback can be given {self._callback_tensor_inputs}, not {sorted(unknown)}.")
        labels, w = self._labels_and_scale(class_labels, guidance_scale, batch_size)
        count = batch_size if class_labels is None else len(labels) if w in (0, 1) else len(labels) // 2
        device = self._execution_device

        # 1. Start from pure noise, in at least float32 whatever the UNet runs in.
        size = self.unet.config.sample_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        shape = (count, self.unet.config.in_channels, *size)
        if isinstance(generator, list) and len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} images: give one, or one per image.")
        dtype = torch.promote_types(self.unet.dtype, torch.float32)
        self.set_timesteps(num_inference_steps, device, timesteps)
        latents = (
            randn_tensor(shape, generator=generator, device=device, dtype=dtype) * self.scheduler.init_noise_sigma
        )
        class_ids = None if labels is None else torch.tensor(labels, device=device)  # (B,) or (2B,)
        step_kwargs = self._step_kwargs(generator)

        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            # 2. Predict, with and without the label in one pass.
            model_input = self.scheduler.scale_model_input(latents, t).to(self.unet.dtype)  # (B, C, H, W)
            if w in (0, 1):
                model_output = self.unet(model_input, t, class_ids).sample.to(dtype)
            else:
                uncond, cond = self.unet(torch.cat([model_input] * 2), t, class_ids).sample.to(dtype).chunk(2)
                model_output = uncond + w * (cond - uncond)

            # 3. One solver step: x_t -> x_{t-1}.
            step = self.scheduler.step(model_output, t, latents, **step_kwargs)
            latents = step.prev_sample
            if isinstance(self.scheduler, DDPMScheduler) and i + 1 == len(self.scheduler.timesteps):
                # diffusers adds noise whenever t > 0; after the last of fewer than T steps it would stay in the image.
                latents = step.pred_original_sample

            if callback_on_step_end is not None:
                tensors = {"latents": latents, "model_output": model_output}
                tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                latents = (callback_on_step_end(self, i, t, tensors) or {}).get("latents", latents)

        # 4. From [-1, 1] to pictures.
        images = (latents / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()  # (B, H, W, C)
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels_and_scale(self, class_labels, guidance_scale, batch_size):
        """Class indices as the UNet takes them (None for a UNet without classes), and the scale that is left to do."""
        if self.unet.config.num_class_embeds is None:
            if class_labels is not None:
                raise ValueError("This model is unconditional: leave class_labels out and give batch_size instead.")
            return None, 1
        if class_labels is None:
            return [self.null_class] * batch_size, 0
        ids = self.label_ids(class_labels)
        nulls = [self.null_class] * len(ids)
        if guidance_scale == 1:
            return ids, 1
        return (nulls, 0) if guidance_scale == 0 else (nulls + ids, guidance_scale)

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: torch.device | str | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Set the scheduler's timesteps.

        Raises:
            ValueError: A number of steps for which diffusers' spacing is wrong, or timesteps that the scheduler
                cannot step through.
        """
        config = self.scheduler.config
        if timesteps is not None:
            if "timesteps" not in inspect.signature(self.scheduler.set_timesteps).parameters:
                raise ValueError(
                    f"{type(self.scheduler).__name__} cannot step through given timesteps: "
                    "use DDPM, DPM-Solver++ or Euler, or leave them out."
                )
            timesteps = [int(t) for t in timesteps]
            falling = all(a > b for a, b in zip(timesteps, timesteps[1:]))
            if not (timesteps and falling and timesteps[0] < config.num_train_timesteps and timesteps[-1] >= 0):
                raise ValueError(
                    f"timesteps must fall strictly within 0 to {config.num_train_timesteps - 1}, not {timesteps}."
                )
            self.scheduler.set_timesteps(timesteps=timesteps, device=device)
            return
        spacing = config.get("timestep_spacing", "leading")
        n, total = num_inference_steps, config.num_train_timesteps
        if not 1 <= n <= total:
            raise ValueError(f"num_inference_steps={n}, but must lie between 1 and {total}.")
        if isinstance(self.scheduler, DDIMScheduler):
            # DDIMScheduler.step takes t − T // n for the next timestep, whatever the spacing says.
            if spacing == "trailing" and total % n:
                raise ValueError(f"num_inference_steps={n}: DDIM with trailing spacing needs a divisor of {total}.")
            if spacing == "linspace" and n != total:
                raise ValueError(f"DDIM does not step by linspace spacing: use trailing, or all {total} steps.")
        self.scheduler.set_timesteps(n, device=device)
        if (self.scheduler.timesteps < 0).any():
            # np.arange(T, 0, −T/n) rounds to one step too many for some n, and that step would leave the schedule.
            fewer = next(k for k in range(n, 0, -1) if len(np.arange(total, 0, -total / k)) == k)
            raise ValueError(
                f"num_inference_steps={n}: the scheduler's {spacing} spacing runs past the last timestep for this "
                f"number; use {fewer}."
            )

    def _step_kwargs(self, generator):
        """What this scheduler's step takes besides the usual."""
        accepted = inspect.signature(self.scheduler.step).parameters
        kwargs = {"generator": generator} if "generator" in accepted else {}
        if "use_clipped_model_output" in accepted:
            # After clipping x̂₀ the noise must be derived anew, or the two no longer add up to x_t.
            kwargs["use_clipped_model_output"] = True
        return kwargs
