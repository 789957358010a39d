"""The options of evaluate.py and compare.py; importing them needs no torch, so that --help is quick."""

from dataclasses import dataclass
from pathlib import Path

from cardiff.cli import check_folder
from cardiff.config.limits import check_limits, limited
from cardiff.config.types import Floats, Ints, Names
from cardiff.errors import UserError
from cardiff.sampling.options import DrawOptions

STATISTICS = ".safetensors"
"""Ending of a file of --export_reference."""


@dataclass(kw_only=True)
class ProtocolOptions:
    """What images are measured against, and how."""

    output: str
    """Folder of the report."""
    reference: str | None = None
    """What the samples should look like: a YAML file with a data section (the config.yaml of a run, the default for
    a run's folder), a folder of images, or a file of --export_reference."""
    validation_data: str | None = None
    """Real images that no model saw, for comparison: a split of the reference's data set such as test or
    'train[90%:]', a YAML file with a data section, or a folder of images."""
    metrics: str = "fid,kid,prdc,diversity"
    """With commas: fid, fid_infinity, kid, is, prdc (precision, recall, density, coverage), accuracy, diversity,
    memorisation; or all."""
    network: str = "inception"
    """Network whose features are compared: inception (the FID), mobilenet, pixels, the output folder of
    train_classifier.py, a folder or Hub repository of a transformers model, or a TorchScript file."""
    network_weights: str | None = None
    """Weights of inception or mobilenet, if they are not where they are looked for."""
    accuracy_classifier: str | None = None
    """Classifier that reads the samples' classes: as --network, with a head."""
    replicates: int = limited(200, least=2)
    """Bootstrap resamplings behind every interval."""
    max_images: int = limited(50_000, least=2)
    """Images of the reference to use at most: of a larger set a random part."""
    pin: str | None = None
    """Key of the reference, as metrics.json has it; any other reference is refused."""
    export_reference: str | None = None
    """Also write the reference's statistics to this safetensors file, to be given as --reference later."""
    export_features: bool = True
    """Put the features into it too, which every metric but the Fréchet distance and the accuracy needs."""

    def check(self) -> None:
        """Refuse what can be seen to be wrong before anything is opened.

        Raises:
            UserError: In one sentence.
        """
        check_limits(self, "--")
        check_folder("output", Path(self.output))
        if self.export_reference is not None:
            if Path(self.export_reference).suffix != STATISTICS:
                raise UserError(
                    f"--export_reference {self.export_reference} must end in {STATISTICS}, by which --reference "
                    "knows such a file."
                )
            check_folder("export_reference", Path(self.export_reference).parent)


@dataclass(kw_only=True)
class EvaluateOptions(ProtocolOptions, DrawOptions):
    """Measure a folder of images, or a model by the images it draws."""

    images: str | None = None
    """Folder of images: one that sample.py wrote, one with a subfolder a class, or a flat one."""
    model: str | None = None
    """Output folder of a run, one of its checkpoints, or a Hub repository; the options below draw from it."""
    num_images: int | None = limited(None, least=1)
    """Images to draw (default: as many as the reference has, at most 50,000), or to read from the folder."""
    seeds: Ints = limited([0], least=0)
    """Sampling seeds with commas: several give a mean and a spread."""
    keep_images: bool = True
    """Keep the images that were drawn, in images/ of the output folder."""


@dataclass(kw_only=True)
class CompareOptions(ProtocolOptions, DrawOptions):
    """Compare runs over guidance scales, solvers and numbers of steps."""

    runs: list[str]
    """Folders of runs or Hub repositories, each as FOLDER or NAME=FOLDER; several of one name are training seeds of
    the same thing."""
    guidance_scale: Floats = limited([0.0, 1.0, 1.5, 2.0, 3.0])
    """Weights w of uncond + w·(cond − uncond), with commas; an unconditional run has none."""
    solver: Names = limited(["dpm"])  # type: ignore[assignment]  # a list where sample.py takes one
    """Solvers with commas: ddpm, ddim, dpm (DPM-Solver++), unipc, euler."""
    steps: Ints = limited([25], least=1)  # type: ignore[assignment]  # likewise
    """Numbers of solver steps with commas."""
    num_images: int | None = limited(None, least=1)
    """Images of each setting (default: as many as the reference has, at most 10,000)."""
    seeds: Ints = limited([0], least=0)
    """Sampling seeds with commas."""
    halving_rounds: int = limited(0, least=0)
    """Times that the worse half of the settings is given up: all are measured at num_images/2^halving_rounds images,
    the better half at twice as many, and so on. Images are never drawn twice."""
    rank_by: str = "fid"
    """Metric by which the better half is chosen."""
    keep_images: bool = True
    """Keep the images that were drawn, in images/ of the output folder."""
