"""The configuration of a run, and the command line of the training scripts.

A run is four sections: `data` and `train` (sections.py), `unet` or in its place `classifier` (network.py), and
`scheduler` (schedule.py).
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml

from cardiff.cli import CommandLine, config_file, say_note
from cardiff.config.code import ALLOW_CODE, refuse_hidden_code
from cardiff.config.data_set import fit_to_data_set
from cardiff.config.files import ConfigFile, ConfigFileOption, FileParser, parse_with_files
from cardiff.config.limits import OnResume, Option
from cardiff.config.network import ClassifierConfig, NetworkConfig, UNetConfig
from cardiff.config.schedule import add_scheduler, choose_schedule, fit_to_schedule, make_schedule
from cardiff.config.sections import (
    ClassifierTrainConfig,
    ConditionalTrainConfig,
    DataConfig,
    DiffusionTrainConfig,
    HubOptions,
    TrainConfig,
)
from cardiff.errors import UserError

if TYPE_CHECKING:
    from cardiff.hub.source import Source

Kind = Literal["unconditional", "conditional", "classifier"]


class Sections(NamedTuple):
    """The sections that depend on the kind of run."""

    network_name: str
    """Name of the network that the run trains, and of the section that describes it."""
    network: type[NetworkConfig]
    train: type[TrainConfig]


SECTIONS: dict[str, Sections] = {
    "unconditional": Sections(UNetConfig.section, UNetConfig, DiffusionTrainConfig),
    "conditional": Sections(UNetConfig.section, UNetConfig, ConditionalTrainConfig),
    "classifier": Sections(ClassifierConfig.section, ClassifierConfig, ClassifierTrainConfig),
}


@dataclass
class RunConfig:
    """The complete configuration of a run, as written to `config.yaml` in the output folder."""

    output_dir: str
    kind: Kind
    data: DataConfig
    network: NetworkConfig
    """The section `unet` or `classifier`."""
    scheduler: dict
    """`name` of the schedule and the arguments of its class."""
    train: TrainConfig
    hub: HubOptions = field(default_factory=HubOptions)
    resume_from: str | None = None
    """Folder or Hub repository whose newest checkpoint the run resumes from."""
    init_from: str | None = None
    """Model whose weights, network and noise levels the run starts from: a folder, a shipped model, a repository."""
    init_revision: str | None = None
    """Branch, tag or commit of that repository."""

    @property
    def network_name(self) -> str:
        """Name of the section that describes the network: `unet` or `classifier`."""
        return SECTIONS[self.kind].network_name

    @property
    def labelled(self) -> bool:
        """Whether the run needs the labels of the images."""
        return self.kind != "unconditional"

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The four sections, as in the YAML file."""
        sections = asdict(self)
        sections[self.network_name] = sections["network"]
        return {name: sections[name] for name in ("data", self.network_name, "scheduler", "train")}

    def _repr_html_(self) -> str:
        """What a notebook shows: what is trained, where and for how long, and the four sections when unfolded."""
        steps = f"{self.train.max_steps:,} steps" if self.train.max_steps else f"{self.train.epochs:g} epochs"
        head = (
            f"{self.kind} run in {self.output_dir}: {self.data.resolution}×{self.data.resolution} images, schedule "
            f"{self.scheduler['name']}, {steps}, batches of {self.train.batch_size}"
        )
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        return f"<details><summary>{html.escape(head)}</summary><pre>{html.escape(text)}</pre></details>"

    def on_resume(self, key: str) -> OnResume:
        """What a resumed run does if an option such as `train.seed` differs from the checkpoint's.

        A change is refused for the network, the schedule, the options declared with on_resume="refuse", and the seed
        of a classifier, since it chooses the validation images.
        """
        section, _, name = key.partition(".")
        if section not in ("data", "train"):
            return "refuse"
        if key == "train.seed" and isinstance(self.train, ClassifierTrainConfig) and self.train.validation_fraction:
            return "refuse"
        declared = {field.name: Option.of(field).on_resume for field in fields(getattr(self, section))}
        return declared.get(name, "report")

    def check(self) -> None:
        """Check the ranges of the numbers, and that the sections fit together, before any image is decoded.

        Raises:
            UserError: A check fails; the message names the option and the remedy.
        """
        self.data.check()
        self.network.check(self.data)
        schedule = make_schedule(self.scheduler)
        self.train.check(self.data, schedule.config["num_train_timesteps"])
        self.hub.check()


def configure(config: str, output_dir: str, **options: Any) -> RunConfig:
    """The configuration of a run, as from the command line of its training script.

    Args:
        config: A YAML file, or the bare name of a shipped configuration, such as digits_16_conditional.
        output_dir: Folder of the run; an existing run in it is resumed.
        options: Any other option of the script, by its full name: `**{"train.max_steps": 100}`.

    Raises:
        UserError: An option or the configuration is invalid.
    """
    file = config_file(config)
    kind = ConfigFile.read(file).content.get("kind")
    if kind not in SECTIONS:
        raise UserError(f"{config} has no valid `kind`: add a line `kind: …` with one of {', '.join(SECTIONS)}.")
    argv = ["--config", file, "--output_dir", str(output_dir)]
    for name, value in options.items():
        argv += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return parse_run(argv, kind=kind, description="", parser=FileParser(""))


def parse_run(
    argv: Sequence[str] | None, *, kind: Kind, description: str, parser: CommandLine | None = None
) -> RunConfig:
    """Parse the command line of a training script; prints help or an error and exits if it describes no run.

    The arguments in `scheduler` depend on the schedule, and some options of a file apply only to its data set. So the
    files and three options are read first, and then the whole command line.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    network_name, network_section, train_section = SECTIONS[kind]
    parser = CommandLine(description) if parser is None else parser
    try:
        first = _first_look(argv)
        files = [ConfigFile.read(name) for name in first["config"] if name is not None]
        source, notes = _source(files, first), list[str]()
        for file in files:
            refuse_hidden_code(file.content, file.name, argv)
            _check_kind(file, kind)
            for section in ("data", network_name, "scheduler", "train"):
                file.section(section)
        if source is not None:
            source.refuse_kind(kind)
            fitted = [source.fit(file) for file in files]
            files, notes = [file for file, _ in fitted], [note for _, of_file in fitted for note in of_file]
            files.insert(0, ConfigFile(f"--init_from {source.name}", source.sections()))
        name, arguments = choose_schedule(files, first["scheduler.name"])
        files = [fit_to_schedule(file, arguments) for file in files]
        files, left = fit_to_data_set(files, first["data.path"], first["data.data_files"])

        parser.add_argument("--config", action=ConfigFileOption, help="YAML file with the sections below.")
        parser.add_argument(
            "--output_dir", type=str, required=True, help="Folder of the run; an existing run in it is resumed."
        )
        parser.add_argument(
            "--resume_from", type=str, help="Folder or Hub repository whose newest checkpoint to resume from."
        )
        parser.add_argument(
            "--init_from",
            type=str,
            help="Start from the weights of this model, and take over its network and noise levels: folder, Hub "
            "repository, or the name of a shipped model.",
        )
        parser.add_argument("--init_revision", type=str, help="Branch, tag or commit of that repository.")
        parser.add_argument("--allow_code", type=bool, nargs="?", const=True, default=False, help=ALLOW_CODE)
        parser.add_options(HubOptions, flags=("push_to_hub", "hub_private"))
        parser.add_argument(
            "--kind", type=Literal[kind], default=kind, help="In a configuration file: the kind of run it is for."
        )
        parser.add_argument("--data", type=DataConfig, default=DataConfig())
        parser.add_argument(f"--{network_name}", type=network_section, default=network_section())
        add_scheduler(parser, name, arguments)
        parser.add_argument("--train", type=train_section, default=train_section())
        parsed = parse_with_files(parser, files, argv)

        config = RunConfig(
            output_dir=parsed.output_dir,
            kind=kind,
            data=DataConfig(**parsed.data.as_dict()),
            network=network_section(**parsed[network_name].as_dict()),
            scheduler=parsed.scheduler.as_dict(),
            train=train_section(**parsed.train.as_dict()),
            hub=HubOptions(**{option.name: parsed[option.name] for option in fields(HubOptions)}),
            resume_from=parsed.resume_from,
            init_from=None if source is None else parsed.init_from,
            init_revision=None if source is None else parsed.init_revision,
        )
        if source is not None:
            source.refuse_contradictions(config)
        elif parsed.init_from is None and parsed.init_revision is not None:
            raise UserError("--init_revision is given without --init_from: name the model too, or leave both out.")
        config.check()
    except UserError as error:
        parser.error(str(error))
    for options in left:
        options.report(config.data)
    for note in notes:
        say_note(note)
    return config


def _first_look(argv: Sequence[str]) -> dict[str, Any]:
    """The options that determine how the others are parsed; errors in them are reported later."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", action="append", default=[], nargs="?")
    for name in ("output_dir", "init_from", "init_revision", "scheduler.name", "data.path", "data.data_files"):
        early.add_argument(f"--{name}", nargs="?")
    given = vars(early.parse_known_args(argv)[0])
    try:
        given["data.data_files"] = yaml.safe_load(given["data.data_files"] or "null")
    except yaml.YAMLError:
        pass  # a pattern such as *.parquet
    return given


def _source(files: Sequence[ConfigFile], first: dict[str, Any]) -> Source | None:
    """The model that the run starts from, as the command line or else the last file names it; None for none."""
    given = {}
    for name in ("init_from", "init_revision"):
        of_files = [file.content[name] for file in files if file.content.get(name) is not None]
        given[name] = first[name] if first[name] is not None else next(reversed(of_files), None)
    if given["init_from"] is None:
        return None
    from cardiff.hub.read_source import read_source  # imports torch, which --help need not wait for

    try:
        return read_source(str(given["init_from"]), given["init_revision"])
    except UserError as error:
        if not list(Path(first["output_dir"] or "", "checkpoints").glob("step-*")):
            raise
        say_note(f"{error} The run goes on from its own checkpoint.")
        return None


def _check_kind(file: ConfigFile, kind: Kind) -> None:
    """Refuse a configuration for another kind of run, by its `kind` or by options that only other kinds have.

    Raises:
        UserError: The configuration is for another script, which the message names.
    """
    if "kind" in file.content:
        fitting = [name for name in SECTIONS if name == file.content["kind"]]
    else:
        networks = file.content.keys() & {sections.network_name for sections in SECTIONS.values()}
        options = file.section("train").keys()
        fitting = [
            name
            for name, sections in SECTIONS.items()
            if networks <= {sections.network_name} and options <= {option.name for option in fields(sections.train)}
        ]
    if fitting and kind not in fitting:
        scripts = " or ".join(f"train_{other}.py" for other in fitting)
        raise UserError(
            f"{file.name} is a configuration for {scripts}, not for train_{kind}.py: use that script, or another file."
        )
