"""The options of analyze_schedules.py; importing them needs no torch, so that --help is quick."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from cardiff.cli import CommandLine
from cardiff.config.files import data_section
from cardiff.config.limits import check_limits, limited
from cardiff.config.sections import DataConfig
from cardiff.config.types import Ints
from cardiff.errors import UserError
from cardiff.layout import shipped_config
from cardiff.outputs import check_folder

DIGITS = "digits_16_conditional"
"""The configuration whose data are measured by default."""

MAX_FITTED = 50
"""Most steps of --fit_timesteps: the work of a fit grows with their square."""


@dataclass
class AnalysisOptions:
    """What is compared, and where the results are written."""

    schedules: str = "all"
    """Schedules with commas: names of the tables, of registered schedules, YAML files with a scheduler section, or
    FILE.py:FUNCTION; all stands for every published schedule and ours."""
    output: str = "runs/analysis"
    """Folder of the table, the report, the figures and the scheduler files."""
    num_train_timesteps: int = limited(1000, least=10)
    """Timesteps T of every schedule."""
    max_images: int = limited(50_000, least=2)
    """Images to measure; of a larger data set, a random subset."""
    steps: int = limited(50, least=2)
    """Sampling steps for the ranking and for the optimum."""
    solver: Literal["ddpm", "ddim"] = "ddpm"
    """Solver for the ranking and for the optimum."""
    kappa: float = limited(0.0, least=0)
    """Weight of structure against the logarithm of the error, in spectral.yaml and optimal.yaml."""
    model: str | None = None
    """Trained model: sampling steps that suit it are written to local_error.yaml, for sample.py --timesteps_from.
    Without --data, the data that it was trained on are measured."""
    fit_timesteps: Ints | None = limited(None, least=2, most=MAX_FITTED)
    """Numbers of steps n with commas, such as 5,10,20: for each, the n noise levels whose images are nearest to those
    of many steps are fitted to --model and written to fitted_SOLVER_n.yaml, for sample.py --timesteps_from."""
    fit_solver: Literal["dpm", "ddim"] = "dpm"
    """Solver of --fit_timesteps; ddim is euler in sample.py."""
    seed: int = limited(0, least=0)
    """Seed of the choice of images and of the noise."""
    allow_code: bool = False
    """Run functions that a YAML file names as FILE.py:FUNCTION, though the command line does not show them."""

    def check(self) -> None:
        """Refuse what can be seen to be wrong before anything is opened.

        Raises:
            UserError: In one sentence.
        """
        check_limits(self, "--")
        check_folder("--output", self.output)
        if self.steps > self.num_train_timesteps:
            raise UserError(
                f"--steps {self.steps} is more than the {self.num_train_timesteps} timesteps of the schedules: "
                "lower it or raise --num_train_timesteps."
            )
        if self.fit_timesteps and self.model is None:
            raise UserError("--fit_timesteps fits the steps of a trained model: give --model.")


def parse_analysis(argv: Sequence[str] | None, description: str) -> tuple[AnalysisOptions, DataConfig, dict | None]:
    """Parse the command line: the options, the data section, and the scheduler section of a configuration."""
    parser = CommandLine(description)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file of a training run, of which the sections data and scheduler are used.",
    )
    parser.add_options(AnalysisOptions, flags=("allow_code",))
    parser.add_argument("--data", type=DataConfig, default=DataConfig())
    parser.add_argument("--scheduler", type=dict | None, default=None, help="A schedule to compare with the others.")
    ignored = "Ignored: of a training configuration."
    for section in ("unet", "classifier", "train"):
        parser.add_argument(f"--{section}", type=dict | None, default=None, help=ignored)
    parser.add_argument("--kind", type=str | None, default=None, help=ignored)
    argv = sys.argv[1:] if argv is None else list(argv)
    parsed = parser.parse_args(argv).as_dict()
    data = DataConfig(**parsed["data"])
    options = AnalysisOptions(**{name: parsed[name] for name in asdict(AnalysisOptions())})
    options.check()
    if data == DataConfig():  # nothing was said about the data
        data = _data_of_digits() if options.model is None else _data_of_model(options.model)
    return options, data, parsed["scheduler"]


def _data_of_digits() -> DataConfig:
    file = shipped_config(DIGITS)
    assert file is not None
    return data_section(file)


def _data_of_model(model: str) -> DataConfig:
    """What a model was trained on.

    Raises:
        UserError: Its folder does not say.
    """
    from cardiff.hub.serialization import find_model
    from cardiff.training.checkpoint import run_of

    file = run_of(find_model(model)) / "config.yaml"
    if not file.is_file():
        raise UserError(f"{model} has no config.yaml that says what it was trained on: give --config or --data.path.")
    return data_section(file)
