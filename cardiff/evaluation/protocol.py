"""The protocol of a measurement: the real images, the network and the metrics, opened and checked once."""

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from accelerate import PartialState

from cardiff.config.files import data_section
from cardiff.config.sections import DataConfig
from cardiff.data import UnreadableImage
from cardiff.distributed import device_name, on_main, this_process
from cardiff.errors import UserError
from cardiff.evaluation.estimator import Estimator, Measured
from cardiff.evaluation.features.extraction import RealImages, extract, open_real
from cardiff.evaluation.features.network import FeatureNetwork, class_columns
from cardiff.evaluation.features.networks import load_network
from cardiff.evaluation.features.statistics import export_reference, import_reference
from cardiff.evaluation.metrics.frechet import infinity_needs
from cardiff.evaluation.metrics.memorisation import FEWEST
from cardiff.evaluation.metrics.registry import LEAST, LEAST_REAL, METRICS, chosen_metrics
from cardiff.evaluation.options import STATISTICS, ProtocolOptions
from cardiff.layout import shipped_config
from cardiff.version import cardiff_version

Progress = Callable[[int], object]
"""Called with the number of images after each pass of a network."""
LIBRARIES = ("torch", "torchvision", "diffusers", "torch-fidelity", "numpy", "scipy")


class Protocol:
    """Measures every set of images in the same way.

    Args:
        options: What to measure with.
        resolution: Height and width of the samples, for a reference that is a folder.
        channels: Of the samples, 1 or 3, likewise.
        batch_size: Images in one pass of a network.
        count: Images that will be measured, if known; too few are refused before anything is computed.
        progress: Called with the number of real images after each pass.

    Raises:
        UserError: A network, reference or metric that cannot be used.
    """

    def __init__(
        self,
        options: ProtocolOptions,
        resolution: int,
        channels: int,
        batch_size: int,
        count: int | None = None,
        progress: Progress = lambda count: None,
    ):
        state = this_process()
        options.check()
        self.options, self.batch_size, self.size = options, batch_size, (resolution, channels)
        self.metrics = chosen_metrics(options.metrics)
        if options.reference is None:
            raise UserError("Give --reference: a YAML file with a data section, a folder, or exported statistics.")
        self.network = load_network(options.network, weights=options.network_weights, device=state.device)
        self.classifier = self._open_classifier(state)
        self._check_options(options.reference)
        if count is not None:
            self.check_count(count)
        self.reference, config = self._open(options.reference, progress)
        if options.pin is not None and options.pin != self.reference.key:
            raise UserError(
                f"The key of the reference is {self.reference.key} and --pin is {options.pin}: the data, the "
                "preprocessing or the network is not the expected one."
            )
        self.held_out = None
        if options.validation_data is not None:
            self.held_out = self._open_held_out(options.validation_data, config, progress)
        self._check_data()
        columns = None
        if self.classifier is not None and self.reference.class_names:
            columns = class_columns(self.classifier, self.reference.class_names)
        self.estimator = Estimator(self.metrics, self.reference, self.held_out, columns, options.replicates)
        if options.export_reference is not None:
            file = Path(options.export_reference)
            on_main(lambda: export_reference(self.reference, file, options.export_features))

    def _open_classifier(self, state: PartialState) -> FeatureNetwork | None:
        options = self.options
        if options.accuracy_classifier is None:
            if "accuracy" in self.metrics:
                raise UserError("--metrics names accuracy, which needs a classifier: give --accuracy_classifier.")
            return None
        same = options.accuracy_classifier == options.network
        classifier = self.network if same else load_network(options.accuracy_classifier, device=state.device)
        if classifier.id2label is None:
            raise UserError(
                f"--accuracy_classifier {options.accuracy_classifier} has no named classes: give a classifier."
            )
        return classifier

    def _open(self, what: str, progress: Progress) -> tuple[RealImages, DataConfig | None]:
        """Real images, and the data section that they come from."""
        path = Path(what) if Path(what).exists() else shipped_config(what) or Path(what)
        if path.suffix == STATISTICS:
            real = import_reference(path, self.network)
            data = real.record["data"]
            self._check_size(what, data.get("resolution"), data.get("channels"), "give the statistics of such images")
            return real, None
        config = data_section(path) if path.suffix in (".yaml", ".yml") else None
        if config is None:
            if not path.is_dir():
                raise UserError(
                    f"{what} is neither a YAML file with a data section, nor a folder of images, nor a .safetensors "
                    "file of --export_reference."
                )
            resolution, channels = self.size
            config = DataConfig(
                path=str(path), resolution=resolution, channels=1 if channels == 1 else 3, upscale=True
            )
        remedy = "give the data section that the model was trained with"
        self._check_size(what, config.resolution, config.channels, remedy)
        try:
            return open_real(config, self.network, self.batch_size, self.options.max_images, progress), config
        except UnreadableImage as error:
            if not path.is_dir():
                raise
            raise UserError(error.without_option) from error  # a folder has no data.on_error

    def _check_size(self, what: str, resolution: int | None, channels: int | None, remedy: str) -> None:
        """Check that real images have the size and the channels of the samples."""
        if (resolution, channels) != self.size:
            raise UserError(
                f"{what} has images of {resolution} pixels and {channels} channels, but the samples have "
                f"{self.size[0]} and {self.size[1]}: {remedy}."
            )

    def _open_held_out(self, what: str, config: DataConfig | None, progress: Progress) -> RealImages:
        path = Path(what)
        if config is not None and path.suffix not in (".yaml", ".yml") and not path.is_dir():
            # A split of the same data set.
            config = DataConfig(**{**vars(config), "split": what})
            real = open_real(config, self.network, self.batch_size, self.options.max_images, progress)
        else:
            real = self._open(what, progress)[0]
        if real.labels is not None:  # its classes can be fewer than the reference's, or in another order
            places = {name: label for label, name in enumerate(self.reference.class_names)}
            known = np.array([places.get(name, -1) for name in real.class_names])
            real.labels = np.where(real.labels >= 0, known[real.labels], -1)
        return real

    def _check_options(self, reference: str) -> None:
        """Check that every metric has the options that it needs, before any image is read."""
        options, network = self.options, self.network
        if "memorisation" in self.metrics and options.validation_data is None:
            raise UserError(
                "--metrics names memorisation, which needs real images that the model was not trained on: give "
                "--validation_data."
            )
        if "memorisation" in self.metrics and Path(reference).suffix == STATISTICS:
            raise UserError("--metrics names memorisation, which needs the training images: give them as --reference.")
        if options.validation_data is not None and Path(options.validation_data).suffix == STATISTICS:
            raise UserError("--validation_data is a file of statistics: give images.")
        if "is" in self.metrics and not network.has_head:
            raise UserError(
                f"--metrics names is, the Inception score, but {network.name} has no classification head: give "
                "--network mobilenet, a transformers classifier, or the weights of torch-fidelity."
            )

    def _check_data(self) -> None:
        """Check that the reference and the held-out images have what every metric needs."""
        reference, held_out = self.reference, self.held_out
        for name in self.metrics:
            if reference.count < LEAST_REAL.get(name, 1):
                raise UserError(
                    f"The reference has {reference.count} images, too few for {name}, which needs at least "
                    f"{LEAST_REAL[name]}: give more data, or leave {name} out of --metrics."
                )
        for name in ("kid", "prdc", "diversity"):
            if name in self.metrics and reference.features is None:
                raise UserError(
                    f"--metrics names {name}, which needs the reference's features, but {self.options.reference} was "
                    "exported without them: give the data, or export it again with --export_features true."
                )
        if "accuracy" in self.metrics and reference.labels is None:
            raise UserError(
                "--metrics names accuracy, but the reference has no labels: give labelled data, or leave it out."
            )
        if held_out is not None and held_out.key == reference.key:
            raise UserError(
                "--validation_data is the reference itself: give images that the model was not trained on."
            )
        if "memorisation" in self.metrics and held_out is not None and held_out.count < FEWEST:
            raise UserError(
                f"--validation_data has {held_out.count} images, too few to measure memorisation: give "
                f"at least {FEWEST}."
            )

    def least(self, metric: str) -> int:
        """Number of images that a metric needs."""
        if metric != "fid_infinity":
            return LEAST[metric]
        dimension = self.network.record.get("features")
        return infinity_needs(self.reference.dimension if dimension is None else dimension)

    def check_count(self, count: int) -> None:
        """Check that so many images are enough for every metric.

        Raises:
            UserError: They are too few.
        """
        for name in self.metrics:
            known = name != "fid_infinity" or "features" in self.network.record or hasattr(self, "reference")
            if known and count < self.least(name):
                raise UserError(
                    f"{count} images are too few for {name}: give at least {self.least(name)}, or leave {name} out of "
                    "--metrics."
                )

    @property
    def names(self) -> dict[str, bool | float]:
        """Names of the estimates, and what is better: larger (True), smaller (False), or closer to a value."""
        return {name: more for metric in self.metrics for name, more in METRICS[metric].items()}

    def record(self) -> dict:
        """Everything but the images that the figures depend on, for JSON."""
        options = self.options
        return {
            "metrics": self.metrics,
            "network": self.network.record,
            "features": self.reference.dimension,
            "distance": self.network.distance,
            "accuracy_classifier": None if self.classifier is None else self.classifier.record,
            "reference": self.reference.record,
            "held_out": None if self.held_out is None else self.held_out.record,
            "replicates": options.replicates,
            "interval": 0.95,
            "cardiff": cardiff_version(),
            "libraries": {name: version(name) for name in LIBRARIES},
            "python": platform.python_version(),
            "device": device_name(this_process().device, with_threads=True),
        }

    def measure(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        metrics: Sequence[str] | None = None,
        seed: int = 0,
        progress: Progress = lambda count: None,
    ) -> Measured:
        """Measure images: the features are computed by all processes, the figures by the main process.

        Args:
            images: uint8 (N, C, H, W), the same in every process.
            labels: The requested classes, (N,); None for samples without labels.
            metrics: Names of `METRICS`; those of the options by default.
            seed: Of the resampling.
            progress: Called with the number of images after each pass.

        Returns:
            The measurement, the same in every process.
        """
        features, logits = extract(self.network, images, self.batch_size, progress)
        class_logits = logits
        if self.classifier is not None and self.classifier is not self.network:
            _, class_logits = extract(self.classifier, images, self.batch_size)
        return on_main(
            lambda: self.estimator.measure(features, logits, class_logits, labels, metrics=metrics, seed=seed)
        )

    def measure_real(self, count: int) -> Measured | None:
        """Measure up to `count` held-out real images as samples are measured, on every process; None without any."""
        if self.held_out is None:
            return None
        real, rows = self.held_out, np.arange(self.held_out.count)
        assert real.features is not None and real.images is not None, "--validation_data is not statistics"
        if len(rows) > count:  # since only equal numbers compare
            rows = np.sort(np.random.default_rng(0).choice(len(rows), count, replace=False))
        metrics = [name for name in self.metrics if name != "memorisation" and len(rows) >= self.least(name)]
        labels = real.labels[rows] if real.labels is not None and (real.labels >= 0).all() else None
        logits = None if real.logits is None else real.logits[rows]
        class_logits = logits
        if self.classifier is not None and self.classifier is not self.network:
            _, class_logits = extract(self.classifier, real.images[rows], self.batch_size)
        features = real.features[rows]
        return on_main(lambda: self.estimator.measure(features, logits, class_logits, labels, metrics=metrics))
