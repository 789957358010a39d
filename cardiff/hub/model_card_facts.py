"""The data of a model card: the published folder, the reports given with it, and the names in them."""

from dataclasses import dataclass
from pathlib import Path

from diffusers import DDPMScheduler, UNet2DModel
from safetensors import safe_open

from cardiff.evaluation.reports.wording import name_with
from cardiff.hub.provenance import BaseModel, RunRecord, public_name
from cardiff.hub.serialization import classifier_weights_file, weights_file
from cardiff.pipelines import NoisyClassifier

FORMATS = ("parquet", "arrow", "csv", "json", "webdataset", "imagefolder")
"""Values of data.path that are file formats, not names of data sets."""


@dataclass
class Card:
    """The data of a model card."""

    folder: Path
    repo_id: str
    revision: str | None
    license: str | None
    metrics: dict | None
    best: dict | None
    run: RunRecord | None
    network: UNet2DModel | NoisyClassifier
    scheduler: DDPMScheduler
    class_names: list[str]

    @property
    def kind(self) -> str:
        """conditional, unconditional or classifier."""
        if not (self.folder / "model_index.json").is_file():
            return "classifier"
        return "conditional" if self.class_names else "unconditional"

    @property
    def half_precision(self) -> str | None:
        """fp16 or bf16 if that is what the weights are stored in, None for float32."""
        file = classifier_weights_file(self.folder) if self.kind == "classifier" else weights_file(self.folder)
        with safe_open(file, "pt") as tensors:
            stored = tensors.get_slice(next(iter(tensors.keys()))).get_dtype()
        return {"F16": "fp16", "BF16": "bf16"}.get(stored)

    @property
    def base(self) -> BaseModel | None:
        """What the run started from; None for random weights."""
        return self.run.get("base_model") if self.run else None

    @property
    def base_license(self) -> str | None:
        """Licence of the model that the run started from, if that is known."""
        return self.base.get("license") if self.base else None

    @property
    def base_repository(self) -> str | None:
        """The repository of that model; None if it was a folder."""
        return self.base["name"] if self.base and self.base.get("revision") else None

    @property
    def data(self) -> dict:
        """The data section of the run's configuration, empty if it is unknown."""
        return self.run["config"]["data"] if self.run else {}

    @property
    def data_set(self) -> str:
        """The name of the data set."""
        if not self.data:
            return "an unknown data set"
        files = self.data.get("data_files")
        if self.data["path"] not in FORMATS or not files:
            return self.data["path"]
        return ", ".join(Path(file).name for file in ([files] if isinstance(files, str) else files))


def short_protocol(metrics: dict) -> dict:
    """The settings that a metric depends on, in short."""
    sampling = metrics.get("sampling") or {}
    kept = {name: sampling[name] for name in ("solver", "steps", "guidance_scale") if sampling.get(name) is not None}
    if sampling.get("timesteps") is not None:
        kept["steps"] = len(sampling["timesteps"])  # of another schedule: possibly fewer than requested
    reference = metrics["protocol"]["reference"]["data"]
    return {"images": metrics["images"], "reference_images": reference["images"], **kept, "seeds": metrics["seeds"]}


def reference_name(data: dict) -> str:
    return ", ".join(data["data_files"]) if "data_files" in data else data["path"]


def metric_name(metrics: dict, name: str) -> str:
    return name_with(metrics["protocol"]["distance"], name)


def network_name(protocol: dict) -> str:
    """The network that the features come from."""
    network = protocol["network"]
    which = next((public_name(network[key]) for key in ("model", "file", "folder") if network.get(key)), None)
    return network["kind"] + (f" ({which})" if which else "")
