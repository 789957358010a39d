"""The options of evaluate.py and compare.py; importing them needs no torch, so that --help is quick."""

from dataclasses import dataclass

from cardiff.config.limits import check_limits, limited
from cardiff.config.types import Floats, Ints, Names, WithLists
from cardiff.outputs import check_file, check_folder
from cardiff.sampling.options import DrawOptions

STATISTICS = ".safetensors"
"""Ending of a file of --export_reference."""


@dataclass(kw_only=True)
class ProtocolOptions(WithLists):
    """What images are measured against, and how."""

    output: str
    """Folder of the report."""
    reference: str | None = None
    """Real images to compare with: a YAML file with a data section (default: config.yaml of the run), a folder of
    images, or a file of --export_reference."""
    validation_data: str | None = None
    """Real images that the model was not trained on: a split of the reference's data set such as test or
    'train[90%:]', a YAML file with a data section, or a folder of images."""
    metrics: str = "fid,kid,prdc,diversity"
    """Comma-separated: fid, fid_infinity, kid, is, prdc (precision, recall, density, coverage), accuracy, diversity,
    memorisation; or all."""
    network: str = "inception"
    """Network whose features are compared: inception (the FID), mobilenet, pixels, the output folder of
    train_classifier.py, a folder or Hub repository of a transformers model, or a TorchScript file."""
    network_weights: str | None = None
    """File with the weights of inception or mobilenet (default: looked up in $CARDIFF_WEIGHTS or
    ~/.cache/cardiff/weights)."""
    accuracy_classifier: str | None = None
    """Classifier that predicts the classes of the samples: given as --network is, with a classification head."""
    replicates: int = limited(200, least=2)
    """Bootstrap replicates for each interval."""
    max_images: int = limited(50_000, least=2)
    """Most images of the reference to use; of a larger set a random subset."""
    pin: str | None = None
    """Expected key of the reference, as in metrics.json; any other reference is refused."""
    export_reference: str | None = None
    """Also write the statistics of the reference to this .safetensors file, for use as --reference later."""
    export_features: bool = True
    """Include the features in that file; all metrics but the Fréchet distance and the accuracy need them."""

    def check(self) -> None:
        """Refuse what can be seen to be wrong before anything is opened.

        Raises:
            UserError: In one sentence.
        """
        check_limits(self, "--")
        check_folder("--output", self.output)
        if self.export_reference is not None:
            check_file("--export_reference", self.export_reference, [STATISTICS])


@dataclass(kw_only=True)
class EvaluateOptions(ProtocolOptions, DrawOptions):
    """Measure a folder of images, or a model by the images it draws."""

    images: str | None = None
    """Folder of images: one that sample.py wrote, one with a subfolder a class, or a flat one."""
    model: str | None = None
    """Output folder of a run, one of its checkpoints, or a Hub repository, from which images are drawn."""
    num_images: int | None = limited(None, least=1)
    """Images to draw (default: as many as the reference has, at most 50,000), or to read from the folder."""
    seeds: Ints = limited([0], least=0)
    """Sampling seeds, comma-separated; several give a mean and a standard deviation."""
    keep_images: bool = True
    """Keep the images that were drawn, in images/ of the output folder."""


@dataclass(kw_only=True)
class CompareOptions(ProtocolOptions, DrawOptions):
    """Compare runs over guidance scales, solvers and numbers of steps."""

    runs: list[str]
    """Folders of runs or Hub repositories, each as FOLDER or NAME=FOLDER; several with the same name are
    training seeds of one configuration."""
    guidance_scale: Floats = limited([0.0, 1.0, 1.5, 2.0, 3.0])
    """Weights w of uncond + w·(cond − uncond), comma-separated; not used for unconditional runs."""
    solver: Names = limited(["dpm"])  # type: ignore[assignment]  # a list where sample.py takes one
    """Solvers, comma-separated: ddpm, ddim, dpm (DPM-Solver++), unipc, euler."""
    steps: Ints = limited([25], least=1)  # type: ignore[assignment]  # likewise
    """Numbers of solver steps, comma-separated."""
    num_images: int | None = limited(None, least=1)
    """Images of each setting (default: as many as the reference has, at most 10,000)."""
    seeds: Ints = limited([0], least=0)
    """Sampling seeds, comma-separated."""
    halving_rounds: int = limited(0, least=0)
    """Rounds of successive halving: all settings are measured at num_images/2^halving_rounds images, the better half
    at twice as many, and so on. No image is drawn twice."""
    rank_by: str = "fid"
    """Metric by which settings are ranked."""
    keep_images: bool = True
    """Keep the images that were drawn, in images/ of the output folder."""
