"""Saving and loading models: folders that load without this project, and loading that executes no code from them."""

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import diffusers
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, ModelMixin, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from cardiff.errors import DISK_ERRORS, UserError
from cardiff.files import apply_folder_permissions
from cardiff.hub.client import download
from cardiff.hub.provenance import RUN_RECORD, read_record, write_record
from cardiff.hub.trust import check_network, check_noise, read_arguments, refuse_links
from cardiff.integrity import CHECKSUMS, check_model, read_json
from cardiff.layout import shipped_model
from cardiff.pipelines import ClassConditionalPipeline, NoisyClassifier

Network = TypeVar("Network", bound=ModelMixin)
Scheduler = TypeVar("Scheduler", bound=SchedulerMixin)
VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Half-precision weights by their names in diffusers, from_pretrained(variant=…)."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
MODEL_FILES = ["model_index.json", "unet/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"]
MODEL_FILES += ["classifier/config.json", f"classifier/{WEIGHTS}", RUN_RECORD, CHECKSUMS]
"""The files that are read of a model, by name: a pattern would also match names such as unet/../../x.json."""


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write a pipeline so that from_pretrained loads it where this project is not installed.

    A DDPMPipeline needs nothing beyond diffusers. A ClassConditionalPipeline writes its own source file too, which
    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` runs.
    """
    pipeline.save_pretrained(folder, safe_serialization=True)
    apply_folder_permissions(weights_file(folder))
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        _forget_origin(Path(folder, name))


def _forget_origin(file: Path) -> None:
    """Remove the path that a part was loaded from, which diffusers writes into its configuration."""
    content = json.loads(file.read_text())
    content.pop("_name_or_path", None)
    file.write_text(json.dumps(content, indent=2) + "\n")


def export_model(
    folder: Path,
    target: Path,
    variants: Sequence[str] = (),
    weights: str = "float32",
    change: Callable[[ModelMixin], object] = lambda network: None,
) -> None:
    """Load the model of a folder and save it to another, without any other files or source code of the first.

    Args:
        folder: As `load_pipeline` and `load_classifier` take it.
        target: Folder to write.
        variants: Half-precision weights to write beside the others: "fp16", "bf16".
        weights: Precision of the weights themselves, "float32", "fp16" or "bf16"; half of float32's size. Loading
            converts them to float32.
        change: Is called with the network before it is saved.

    Raises:
        UserError: The folder holds no model of this project, or a damaged one, or a file of it lies elsewhere.
    """
    refuse_links([folder / name for name in MODEL_FILES], folder)
    if _classifier_config(folder).is_file() and not Path(folder, "model_index.json").is_file():
        network, scheduler = load_classifier(folder)
        change(network)
        save_classifier(_rounded(network, weights), scheduler, target)
    else:
        pipeline = load_pipeline(folder)
        network = pipeline.unet
        change(network)
        if network.config.num_class_embeds is None:
            pipeline = DDPMPipeline(network, pipeline.scheduler)
        pipeline.unet = _rounded(network, weights)
        save_pipeline(pipeline, target)
    part = "unet" if isinstance(network, UNet2DModel) else "classifier"
    for variant in variants:
        config = Path(target, part, "config.json").read_text()
        smaller = torch.nn.Module.to(copy.deepcopy(network), VARIANTS[variant])
        smaller.save_pretrained(target / part, variant=variant)
        apply_folder_permissions(target / part / variant_name(variant))
        Path(target, part, "config.json").write_text(config)
    record = read_record(folder)
    if record is not None:
        write_record(target, record)


def _rounded(network: Network, weights: str) -> Network:
    """The network itself for float32, or a copy of it in half precision."""
    return network if weights == "float32" else torch.nn.Module.to(copy.deepcopy(network), VARIANTS[weights])


def find_model(model: str, revision: str | None = None) -> Path:
    """The local folder of a model; from a Hub repository, only configurations and weights are downloaded.

    Args:
        model: A folder, RUN@WIDTH for an average of a run's snapshots, the bare name of a shipped model, or a Hub
            repository.
        revision: Branch, tag or commit of the repository.

    Raises:
        UserError: `model` is neither a folder nor a readable repository.
    """
    return find_files(model, revision, MODEL_FILES)


def find_files(model: str, revision: str | None, names: list[str]) -> Path:
    """As `find_model`, but these files are fetched of a repository, if it has them."""
    if Path(model).is_dir():
        return Path(model)
    run, _, width = model.rpartition("@")
    if run and Path(run).is_dir():
        from cardiff.hub.averages import average_of

        return average_of(Path(run), width)
    return shipped_model(model) or download(model, names, revision)


def load_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> ClassConditionalPipeline:
    """Load a pipeline of this project, conditional or not, without executing code from its folder.

    Args:
        folder: Output folder of a run, or one of its checkpoints.
        dtype: Weights are converted to it.

    Returns:
        A ClassConditionalPipeline; around an unconditional UNet it samples without labels.

    Raises:
        UserError: The folder holds no pipeline of this project, or a damaged one.
    """
    folder = Path(folder)
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        if _classifier_config(folder).is_file():
            raise UserError(f"{folder} is a classifier, not a diffusion model: name the folder of a diffusion model.")
        raise UserError(
            f"{folder} has no model_index.json: name the output folder of a training run, one of its checkpoints, "
            "or a Hub repository."
        )
    check_model(folder)
    index = read_json(index_file)
    try:
        name = index["_class_name"]
        scheduler_library, scheduler_name = index["scheduler"]
        unet_library, unet_name = index["unet"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{index_file} does not describe a pipeline of this project ({error!r}): name another folder."
        ) from error
    name = name[-1] if isinstance(name, list) else name
    scheduler_class = getattr(diffusers, str(scheduler_name), None)
    known_scheduler = inspect.isclass(scheduler_class) and issubclass(scheduler_class, SchedulerMixin)
    if (
        name not in (ClassConditionalPipeline.__name__, "DDPMPipeline")
        or (unet_library, unet_name) != ("diffusers", "UNet2DModel")
        or scheduler_library != "diffusers"
        or scheduler_class is None
        or not known_scheduler
    ):
        raise UserError(
            f"{index_file} names a {name} of {unet_name} and {scheduler_name}; this project loads "
            "ClassConditionalPipeline and DDPMPipeline with a UNet2DModel and a scheduler of diffusers."
        )
    with _damage_in_one_sentence(folder):
        unet = load_network(UNet2DModel, folder / "unet", dtype)
        scheduler = load_scheduler(scheduler_class, folder / "scheduler")
        return ClassConditionalPipeline(unet, scheduler, index.get("id2label"))


def save_classifier(classifier: NoisyClassifier, scheduler: DDPMScheduler, folder: Path) -> None:
    """Write a classifier, its source file, and a scheduler with the noise levels that it was trained on.

    Without this project, diffusers loads it with `AutoModel.from_pretrained(folder, subfolder="classifier",
    trust_remote_code=True)`, which runs the source file.
    """
    classifier.save_pretrained(Path(folder, "classifier"), safe_serialization=True)
    apply_folder_permissions(classifier_weights_file(folder))
    scheduler.save_pretrained(Path(folder, "scheduler"))
    _forget_origin(Path(folder, "scheduler", "scheduler_config.json"))
    _forget_origin(_classifier_config(folder))


def load_classifier(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[NoisyClassifier, DDPMScheduler]:
    """Load a classifier of this project without executing code from its folder.

    Args:
        folder: Output folder of a run of train_classifier.py, or one of its checkpoints.
        dtype: Weights are converted to it.

    Returns:
        The classifier, in evaluation mode, and a scheduler with the noise levels that it was trained on.

    Raises:
        UserError: The folder holds no classifier of this project, or a damaged one.
    """
    folder = Path(folder)
    config_file = _classifier_config(folder)
    if not config_file.is_file():
        if Path(folder, "model_index.json").is_file():
            raise UserError(
                f"{folder} is a diffusion model, not a classifier: name the output folder of train_classifier.py."
            )
        raise UserError(
            f"{folder} has no classifier/config.json: name the output folder of train_classifier.py, one of its "
            "checkpoints, or a Hub repository."
        )
    check_model(folder)
    with _damage_in_one_sentence(folder):
        name = read_json(config_file)["_class_name"]
        if name != NoisyClassifier.__name__:
            raise UserError(f"{config_file} describes a {name}, not a {NoisyClassifier.__name__}.")
        classifier = load_network(NoisyClassifier, folder / "classifier", dtype)
        scheduler = load_scheduler(DDPMScheduler, folder / "scheduler")
        if scheduler.alphas_cumprod.tolist() != list(classifier.config.alphas_cumprod):
            raise UserError("classifier and scheduler have different noise levels.")
        return classifier, scheduler


def _classifier_config(folder: Path) -> Path:
    return Path(folder, "classifier", "config.json")


@contextmanager
def _damage_in_one_sentence(folder: Path) -> Iterator[None]:
    """Raise a UserError for whatever safetensors, torch or diffusers raise on damaged files."""
    try:
        yield
    except Exception as error:
        if (isinstance(error, UserError) and str(folder) in str(error)) or getattr(error, "errno", 0) in DISK_ERRORS:
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} is damaged or incomplete: {reason} Copy or train it again.") from error


def load_network(network: type[Network], folder: Path, dtype: torch.dtype = torch.float32) -> Network:
    """Load a network from one safetensors file, which must contain exactly its weights.

    An index of several files is refused: it could name pickles, and files outside the folder.

    Raises:
        UserError: The file is missing, or its weights are not those of the network.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder.name}/{WEIGHTS} is missing.")
    for index in folder.glob("*.index.json"):
        raise UserError(
            f"{folder.name}/{index.name} splits the weights into several files; this project reads a single one."
        )
    check_network(network, read_arguments(network, folder / "config.json"), folder / WEIGHTS)
    return network.from_pretrained(folder, use_safetensors=True, torch_dtype=dtype)


def load_scheduler(kind: type[Scheduler], folder: Path) -> Scheduler:
    """Load a scheduler.

    Raises:
        UserError: Its configuration is damaged, or its noise levels are none.
    """
    read_arguments(kind, folder / "scheduler_config.json")
    scheduler = kind.from_pretrained(folder)
    check_noise(scheduler)
    return scheduler


def variant_name(variant: str) -> str:
    """diffusers' name for the file of a variant's weights."""
    return f"diffusion_pytorch_model.{variant}.safetensors"


def weights_file(folder: Path) -> Path:
    """The file of the UNet's weights in a pipeline's folder."""
    return Path(folder, "unet", WEIGHTS)


def classifier_weights_file(folder: Path) -> Path:
    """The file of a classifier's weights in its folder."""
    return Path(folder, "classifier", WEIGHTS)
