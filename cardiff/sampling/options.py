"""The options of every command that draws images; they import no torch, so that --help is fast."""

from dataclasses import dataclass

from cardiff.config.limits import limited
from cardiff.config.types import Floats, Precision, WithLists


@dataclass(kw_only=True)
class GuidanceOptions(WithLists):
    """How samples are guided to their class."""

    guidance_scale: Floats = limited([1.0])
    """Weight w of uncond + w·(cond − uncond). Several, 0,1,2,4: a block of the grid each, or in turn in a folder."""
    guidance_schedule: str | list[list[float]] | None = None
    """w as a function of log-SNR instead: linear between points '[[-6,1],[0,4],[6,1]]', or FILE.py:FUNCTION."""
    guidance_interval: list[float] | str | None = limited(None, infinite=True)
    """Guide only between two log-SNRs, '[low,high]'; a step elsewhere takes one evaluation."""
    guidance_interval_sigma: list[float] | str | None = limited(None, infinite=True)
    """Guide only between two noise levels σ/a, '[low,high]'."""
    guidance_rescale: float = 0.0
    """φ, 0 to 1: how far the guided prediction is rescaled to the standard deviation of the conditional one."""
    dynamic_thresholding: float | None = None
    """Quantile of |x̂₀|, such as 0.995, at which x̂₀ is clipped and by which it is divided where it exceeds 1."""
    cfg_plus_plus: bool = False
    """CFG++: renoise with the unconditional prediction; guidance_scale then lies between 0 and 1."""
    guidance_model: str | None = None
    """Autoguidance: a worse model (folder or Hub repository) replaces the unconditional prediction."""
    classifier: str | None = None
    """Classifier guidance: output folder of train_classifier.py, or a Hub repository."""
    classifier_scale: Floats = limited([1.0])
    """Weight s of the classifier's gradient; several as for guidance_scale."""


@dataclass(kw_only=True)
class DrawOptions(GuidanceOptions):
    """How images are drawn from a model."""

    solver: str = "dpm"
    """ddpm, ddim, dpm (DPM-Solver++), unipc or euler."""
    steps: int = limited(25, least=1)
    """Solver steps."""
    timesteps_from: str | None = None
    """Visit the noise levels of another schedule: its name, a YAML file with a `scheduler`, or FILE.py:FUNCTION."""
    batch_size: int | None = limited(None, least=1)
    """Images per batch and process (default: 64 on a CPU; on a GPU 256 of 32x32 pixels, 64 of 64x64, …)."""
    precision: Precision = "auto"
    """Precision of the networks; the solver's is float32. auto is bf16 on GPUs that multiply in it, else float32."""
    compile: bool = False
    """Compile the networks, which takes minutes before the first image: for many images on a GPU."""
    revision: str | None = None
    """Branch, tag or commit of a Hub repository."""
    allow_code: bool = False
    """Run functions that a YAML file names as FILE.py:FUNCTION, though the command line does not show them."""


@dataclass
class SampleOptions(DrawOptions):
    """Draw images from a trained model, or the shipped one, into a folder, a labelled grid or an animation."""

    model: str = "cars_32"
    """Output folder of a run, one of its checkpoints, a Hub repository, or the name of a shipped model: cars_32 or
    cars_32_unconditional."""
    output: str | None = None
    """Folder for the images and manifest.jsonl; the same command completes an interrupted one."""
    grid: str | None = None
    """Write a labelled grid to this PNG file instead: a row for each class, a block for each guidance scale."""
    animation: str | None = None
    """Write an animation of the steps to this GIF, WebP, PNG (APNG) or MP4 file instead: x_t and the estimated x̂₀ of
    up to 16 images for each scale, by default one of each class."""
    labels: str | list[int] | None = None
    """Classes by name or index, separated by commas and drawn in turn: seven,0,3. "a, b" in double quotes is a name,
    index:3 an index, 0.5*three+0.5*eight a mixture of classes; @FILE is a text file with a label on each line. All
    classes by default."""
    num_images: int | None = limited(None, least=1)
    """Number of images (default: 8 for each class and scale, in an animation one); in a grid or an animation, the
    number for each scale."""
    seed: int = limited(0, least=0)
    """Image i depends on the seed and i, whatever the batch size and the number of processes, up to rounding."""
