"""What a model card is made from: the folder that is published, and the reports given with it."""

from dataclasses import dataclass
from pathlib import Path

from diffusers import DDPMScheduler, UNet2DModel

from cardiff.evaluation.reports.wording import name_with
from cardiff.hub.provenance import RunRecord, public_name
from cardiff.pipelines import NoisyClassifier

FORMATS = ("parquet", "arrow", "csv", "json", "webdataset", "imagefolder")
"""Values of data.path that are no data set's name."""


@dataclass
class Card:
    """What the sections read."""

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
    def data(self) -> dict:
        """The data section of the run, empty if it is not known."""
        return self.run["config"]["data"] if self.run else {}

    @property
    def data_set(self) -> str:
        """What the data set is called."""
        if not self.data:
            return "a data set that the model does not record"
        files = self.data.get("data_files")
        if self.data["path"] not in FORMATS or not files:
            return self.data["path"]
        return ", ".join(Path(file).name for file in ([files] if isinstance(files, str) else files))


def short_protocol(metrics: dict) -> dict:
    """What decides the figures, in short."""
    sampling = metrics.get("sampling") or {}
    kept = {name: sampling[name] for name in ("solver", "steps", "guidance_scale") if sampling.get(name) is not None}
    if sampling.get("timesteps") is not None:
        kept["steps"] = len(sampling["timesteps"])  # of another schedule's, which can be fewer than were asked for
    reference = metrics["protocol"]["reference"]["data"]
    return {"images": metrics["images"], "reference_images": reference["images"], **kept, "seeds": metrics["seeds"]}


def reference_name(data: dict) -> str:
    return ", ".join(data["data_files"]) if "data_files" in data else data["path"]


def metric_name(metrics: dict, name: str) -> str:
    return name_with(metrics["protocol"]["distance"], name)


def network_name(protocol: dict) -> str:
    """What the features are of."""
    network = protocol["network"]
    which = next((public_name(network[key]) for key in ("model", "file", "folder") if network.get(key)), None)
    return network["kind"] + (f" ({which})" if which else "")
