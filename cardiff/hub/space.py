"""A Space for a published model: its app, requirements and front matter, pushed or written to a folder."""

import re
import shutil
import tempfile
from importlib.metadata import requires
from pathlib import Path

import yaml

import cardiff.pipelines.pipeline_class_conditional as pipeline_file
from cardiff.errors import UserError
from cardiff.files import disk_errors, written_aside
from cardiff.hub.client import check_access, push_space
from cardiff.hub.options import PublishOptions
from cardiff.hub.serialization import find_model, load_pipeline
from cardiff.outputs import check_folder

NEEDED = ("torch", "diffusers", "huggingface_hub", "accelerate", "safetensors", "numpy", "gradio")
"""What the app of a Space imports, itself or through diffusers."""
SOURCE = Path(__file__).with_name("space_app.txt")
"""A program, but no module of this package: it runs beside the pipeline's file, and without this package."""


def publish_space(options: PublishOptions) -> str:
    """Push a Space that shows a published model, or write it to a folder; returns a sentence that says which.

    Args:
        options: `space` is the Space; `model` the model, or a folder that is published as `hub_model_id`.

    Raises:
        UserError: The model is a classifier or not named, an option has no effect, or the upload is not possible.
        OSError: The disk is full or not writable.
    """
    options.check()
    _refuse_others(options)
    if options.output is not None:
        check_folder("--output", options.output)
        if Path(options.output).exists() and any(Path(options.output).iterdir()):
            raise UserError(f"--output {options.output} is not empty: name another folder.")
    else:
        check_access()
    repository = repository_of(options)
    load_pipeline(find_model(options.model, options.hub_revision if _is_on_hub(options) else None))
    if options.output is not None:
        output = Path(options.output)
        with written_aside(output) as aside:
            write_space(aside, repository, options)
        return f"Wrote {output}; nothing was uploaded. pip install -r requirements.txt and python app.py run it there."
    assert options.space is not None
    with tempfile.TemporaryDirectory() as folder, disk_errors(Path(folder)):
        write_space(Path(folder), repository, options)
        return f"Published {push_space(Path(folder), options.space, options.hub_private)}"


def write_space(folder: Path, repository: str, options: PublishOptions) -> None:
    """Write the files of a Space.

    Args:
        folder: Where.
        repository: Full name of the model's repository.
        options: Whose `hub_revision` and `hub_license` are named in them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    app = SOURCE.read_text(encoding="utf-8")
    for line, value in (('MODEL = "OWNER/NAME"', repository), ("REVISION = None", options.hub_revision)):
        assert app.count(f"\n{line}\n") == 1
        app = app.replace(line, f"{line.partition(' ')[0]} = {value!r}")
    (folder / "app.py").write_text(app, encoding="utf-8")
    shutil.copyfile(Path(pipeline_file.__file__), folder / "pipeline_class_conditional.py")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()), encoding="utf-8")
    (folder / "README.md").write_text(_readme(repository, options), encoding="utf-8")


def requirements() -> list[str]:
    """The packages that a Space needs, with the ranges of this one."""
    found = {}
    for line in requires("cardiff") or []:
        required, _, _ = line.partition(";")
        name = re.split(r"[<>=!~\[ ]", required)[0]
        if name in NEEDED:
            found[name] = required.strip()
    return [found[name] for name in NEEDED]


def sdk_version() -> str:
    """The version of gradio that a Space runs on: the oldest of the range, which is sure to be there."""
    (needed,) = (line for line in requirements() if line.startswith("gradio"))
    return re.findall(r">=([0-9.]+)", needed)[0] + ".0"


def repository_of(options: PublishOptions) -> str:
    """The repository of the model that the Space shows.

    Raises:
        UserError: It is not named with its owner.
    """
    repository = options.model if _is_on_hub(options) else options.hub_model_id
    if repository is None or "/" not in repository:
        raise UserError(
            f"A Space shows a published model, and --model {options.model} is a folder: give the repository to which "
            "it was published as --hub_model_id OWNER/NAME."
        )
    return repository


def _is_on_hub(options: PublishOptions) -> bool:
    """Whether the model is named by its repository."""
    return not Path(options.model).exists() and "/" in options.model


def _refuse_others(options: PublishOptions) -> None:
    """Refuse options that are about the upload of a model."""
    for name in ("metrics", "samples", "hub_resume_id"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name} has no effect with --space, which pushes no model: leave it out.")
    if options.variants or options.weights != "float32":
        raise UserError("--variants and --weights have no effect with --space, which pushes no model: leave them out.")


def _readme(repository: str, options: PublishOptions) -> str:
    """The front matter that the Hub reads, and a sentence."""
    front = {
        "title": repository.partition("/")[2],
        "sdk": "gradio",
        "sdk_version": sdk_version(),
        "app_file": "app.py",
        "models": [repository],
        "pinned": False,
    }
    if options.hub_license is not None:
        front["license"] = options.hub_license
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return (
        f"---\n{text}---\n\n# {front['title']}\n\nDraws from [{repository}](https://huggingface.co/{repository}), a "
        "class-conditional diffusion model, with classifier-free guidance.\n\nOn your own machine:\n\n```bash\n"
        "pip install -r requirements.txt\npython app.py\n```\n"
    )
