"""The reverse process of a few images, step by step: the noisy x_t and what the network takes the image to be."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import PartialState
from diffusers.utils.torch_utils import randn_tensor

from cardiff.diffusion.levels import a_sigma, clean_image, log_snr_of
from cardiff.diffusion.randomness import image_generator
from cardiff.distributed import gather_dict
from cardiff.errors import UserError
from cardiff.sampling.draw import Plan, batches_of_process, to_uint8
from cardiff.sampling.grid import Grid, grid_of, layout_of

MOST_IMAGES = 16
"""The most images of each guidance scale that are recorded."""


@dataclass(eq=False)
class Trajectory:
    """Images of a plan, and the n steps in which a solver made them of noise.

    x̂₀ is the clean image that the solver is given to step with: `levels.clean_image` of x_t and the guided output of
    the network, after rescaling, dynamic thresholding and the gradient of a classifier (which, with DDPM, shifts the
    mean of the step and not x̂₀). Solvers that clip x̂₀ do it at [−1, 1], beyond which nothing can be shown either. With
    CFG++ too, x_t is what the network sees, although the step goes on with another noise than the one in it.
    """

    grid: Grid
    """The finished images, a block for each guidance scale."""
    timesteps: np.ndarray
    """Of each step, decreasing; int (n,)."""
    log_snr: np.ndarray
    """Before each step; (n,)."""
    schedule: np.ndarray
    """Log-SNR of all timesteps of the model; (T,)."""
    noisy: np.ndarray
    """x_t before each step, from pure noise, and after the last; uint8 (n + 1, blocks, images, H, W, C), as `viewable`
    shows it."""
    clean: np.ndarray
    """x̂₀ in each step; uint8 (n, blocks, images, H, W, C)."""

    @property
    def images(self) -> np.ndarray:
        """The finished images, uint8 (blocks, images, H, W, C): to the byte those that are drawn without recording."""
        return self.grid.blocks

    @property
    def steps(self) -> int:
        """n."""
        return len(self.timesteps)


def viewable(x: torch.Tensor, log_snr: float) -> np.ndarray:
    """x_t = a·x₀ + σ·ε as pictures: x_t/√(a² + (2σ)²), black at −1 and white at 1; uint8 (B, H, W, C).

    Clipped without the division, a third of the values of pure noise would be black or white. Divided, only those
    beyond two standard deviations are; and as σ falls to 0 it becomes the image itself.
    """
    a, sigma = a_sigma(log_snr)
    return _pictures(x / (a**2 + (2 * sigma) ** 2) ** 0.5)


def _pictures(x: torch.Tensor) -> np.ndarray:
    """[−1, 1] as uint8 (B, H, W, C), as the pipeline does it."""
    return to_uint8((x / 2 + 0.5).clamp(0, 1))


def record(plan: Plan, state: PartialState) -> Trajectory:
    """Draw the plan's images as `grid_of` does, and record every step.

    Without labels and a number of images, one image of each class is drawn, of the first 16 classes. The plan's
    `on_step` and `progress` are called as ever, and what they raise ends the drawing.

    Args:
        plan: What to draw; its options ask for a grid or an animation.
        state: Of the processes, which share the images.

    Raises:
        UserError: These are too many images.
    """
    plan = _of_few(plan)
    pipeline = plan.pipeline
    count = layout_of(plan)[0]
    mine = [i for batch in batches_of_process(count, plan.batch_size, state) for i in batch]
    recorder = _Recorder(plan, mine)
    grid = grid_of(replace(plan, on_step=recorder), state)
    noisy, clean = (_gathered(mine, batches) for batches in (recorder.noisy, recorder.clean))
    schedule = log_snr_of(pipeline.scheduler.alphas_cumprod.double().numpy())
    return Trajectory(grid, np.array(recorder.timesteps), recorder.log_snr, schedule, noisy, clean)


def _of_few(plan: Plan) -> Plan:
    """The plan with the default number of images of an animation.

    Raises:
        UserError: As of `record`.
    """
    options, labels = plan.options, plan.labels
    if labels is not None:
        labels = labels if options.labels is not None else labels[:MOST_IMAGES]
        options = replace(options, num_images=options.num_images or len(labels))
    plan = replace(plan, options=options, labels=labels)
    count = layout_of(plan)[0]
    if count > MOST_IMAGES:
        raise UserError(
            f"An animation shows at most {MOST_IMAGES} images of each scale, but these options ask for {count}: "
            "give fewer --labels or a smaller --num_images."
        )
    return plan


class _Recorder:
    """Is called after each step, and keeps the pictures of it, (B, H, W, C), batch by batch.

    Args:
        plan: What is drawn.
        indices: Which images, those of every scale in this order.
    """

    def __init__(self, plan: Plan, indices: list[int]):
        self.then, self.pipeline = plan.on_step, plan.pipeline
        self.noisy: list[list[np.ndarray]] = []
        self.clean: list[list[np.ndarray]] = []
        self.drawn = 0
        scheduler = self.pipeline.scheduler
        self.pipeline.set_timesteps(plan.options.steps, plan.timesteps)
        self.timesteps = [int(t) for t in scheduler.timesteps]
        self.log_snr = self.pipeline.log_snr_of_steps()
        # The noise that the pipeline starts from.
        unet = self.pipeline.unet
        size = unet.config.sample_size
        shape = (len(indices), unet.config.in_channels, *((size, size) if isinstance(size, int) else size))
        dtype = torch.promote_types(unet.dtype, torch.float32)
        generators = [image_generator(plan.options.seed, index) for index in indices]
        noise = randn_tensor(shape, generators, self.pipeline.device, dtype) if indices else torch.empty(shape)
        self.start = noise * scheduler.init_noise_sigma
        self.first_scale = self._scale_of(0)

    def __call__(self, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> None:
        if self.then is not None:
            self.then(step, timestep, tensors)
        latents = tensors["latents"]
        if step == 0:
            first = self.drawn % len(self.start)
            self.drawn += len(latents)
            self.scale = self.first_scale
            start = self.start[first : first + len(latents)]
            self.noisy.append([viewable(start * self.scale, self.log_snr[0])])
            self.clean.append([])
        kind = self.pipeline.scheduler.config.prediction_type
        x = tensors["solver_input"] * self.scale  # (B, C, H, W)
        self.clean[-1].append(_pictures(clean_image(x, tensors["model_output"], self.log_snr[step], kind)))
        if step + 1 < len(self.timesteps):
            self.scale = self._scale_of(step + 1)
            self.noisy[-1].append(viewable(latents * self.scale, self.log_snr[step + 1]))
        else:
            self.noisy[-1].append(_pictures(latents))

    def _scale_of(self, step: int) -> torch.Tensor:
        """x_t over what the solver keeps of it, before this step, which must be the solver's next."""
        scheduler = self.pipeline.scheduler
        return scheduler.scale_model_input(torch.ones((), device=self.start.device), scheduler.timesteps[step])


def _gathered(mine: list[int], batches: list[list[np.ndarray]]) -> np.ndarray:
    """The pictures of all processes and steps; uint8 (steps, blocks, images, H, W, C)."""
    pictures: dict[int, np.ndarray] = {}
    if mine:
        whole = np.concatenate([np.stack(steps) for steps in batches], axis=1)  # (steps, blocks·mine, H, W, C)
        by_block = whole.reshape(len(whole), -1, len(mine), *whole.shape[2:])
        pictures = {index: by_block[:, :, place] for place, index in enumerate(mine)}
    pictures = gather_dict(pictures)
    return np.stack([pictures[index] for index in sorted(pictures)], axis=2)
