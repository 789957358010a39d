"""The options of every command that draws images; they import no torch, so that --help is quick."""

from dataclasses import dataclass

from cardiff.config.limits import limited
from cardiff.config.types import Floats


@dataclass(kw_only=True)
class GuidanceOptions:
    """Which way the samples are pushed to their class."""

    guidance_scale: Floats = limited([1.0])
    """Weight w of uncond + w·(cond − uncond); several (0,1,2,4) are the blocks of a grid, or a folder's in turn."""
    guidance_schedule: str | list[list[float]] | None = None
    """w as a function of log-SNR instead: points '[[-6,1],[0,4],[6,1]]' joined by lines, or FILE.py:FUNCTION."""
    guidance_interval: list[float] | str | None = limited(None, infinite=True)
    """Guide only between two log-SNRs, '[low,high]'; elsewhere a step costs one evaluation."""
    guidance_interval_sigma: list[float] | str | None = limited(None, infinite=True)
    """The same between two noise levels σ/a, '[low,high]'."""
    guidance_rescale: float = 0.0
    """Share φ of the rescaling of the guided prediction to the spread of the conditional one, 0 to 1."""
    dynamic_thresholding: float | None = None
    """Quantile of the pixels, such as 0.995, to which an image estimate outside [-1, 1] is cut and rescaled."""
    cfg_plus_plus: bool = False
    """CFG++: renoise with the prediction without a label; guidance_scale then lies between 0 and 1."""
    guidance_model: str | None = None
    """Autoguidance: a worse model (folder or Hub repository) in the place of the prediction without a label."""
    classifier: str | None = None
    """Classifier guidance: output folder of train_classifier.py, or a Hub repository."""
    classifier_scale: Floats = limited([1.0])
    """Weight s of the classifier's gradient; several as for guidance_scale."""


@dataclass(kw_only=True)
class DrawOptions(GuidanceOptions):
    """How images are drawn from a model, whatever becomes of them."""

    solver: str = "dpm"
    """ddpm, ddim, dpm (DPM-Solver++), unipc or euler."""
    steps: int = limited(25, least=1)
    """Solver steps."""
    timesteps_from: str | None = None
    """Visit the noise levels of another schedule: a name, a YAML file with a scheduler section or FILE.py:FUNCTION."""
    batch_size: int = limited(64, least=1)
    """Images per batch of each process."""
    revision: str | None = None
    """Branch, tag or commit of a Hub repository."""


@dataclass
class SampleOptions(DrawOptions):
    """Draw images from a trained model into a folder or a labelled grid."""

    model: str
    """Output folder of a run, one of its checkpoints, or a Hub repository."""
    output: str | None = None
    """Folder for the images and manifest.jsonl; an interrupted one goes on where it was."""
    grid: str | None = None
    """Draw a labelled grid into this PNG file instead: a row a class, a column block a guidance scale."""
    labels: str | list[int] | None = None
    """Classes by name or index with commas between, taken in turn: seven,0,3. Double quotes make a name of anything,
    "a, b"; index:3 is always the index; 0.5*three+0.5*eight is a mixture of classes; @FILE has a label on each line.
    All classes by default."""
    num_images: int | None = limited(None, least=1)
    """Number of images (default: 8 for each class and scale); in a grid, for each scale."""
    seed: int = limited(0, least=0)
    """Image i depends on the seed and i, whatever the batch size and the number of processes."""
