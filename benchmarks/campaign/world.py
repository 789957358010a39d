"""What the trials start from: a small set of digits, models, samples, statistics and a comparison, all made once."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.campaign.commands import ROOT, Command, Outcome, run
from benchmarks.campaign.trials import copy, fingerprint

UNET = (
    "--unet.block_out_channels [8,16] --unet.norm_num_groups 4 --unet.layers_per_block 1 --unet.attention_head_dim 8"
)
UNET += " --unet.down_block_types [DownBlock2D,AttnDownBlock2D] --unet.up_block_types [AttnUpBlock2D,UpBlock2D]"
CLASSIFIER = UNET.replace("--unet.", "--classifier.").partition(" --classifier.up_block_types")[0]
CLASSIFIER = CLASSIFIER.replace(" --classifier.layers_per_block 1", "")
RUN = "--data.resolution 8 --data.upscale false --train.batch_size 8 --train.log_every 1 --train.lr_warmup_steps 2"
RUN += " --train.trackers []"
DRAWN = "--train.sample_images 10 --train.sample_steps 2 --train.evaluate_images 20 --train.evaluate_network pixels"
IMAGES = 200
"""Digits in the set."""


@dataclass
class World:
    """Where everything lies. Commands take what they write to from the trial and the rest from here."""

    folder: Path
    hub: dict[str, str] = field(default_factory=dict)
    """Environment of commands that talk to the loopback Hub."""
    references: dict[str, dict[str, str]] = field(default_factory=dict)
    """Fingerprints of what undisturbed commands leave."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long these took."""

    @property
    def data(self) -> Path:
        return self.folder / "digits.parquet"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def scratch(self) -> Path:
        """Of the outputs of commands."""
        return self.folder / "outputs"

    def path(self, name: str) -> Path:
        """One of the things that were made: run, classifier, samples, …"""
        return self.folder / name

    def trial(self, part: str, number: int) -> Path:
        """An empty folder for a trial."""
        folder = self.folder / "trials" / f"{part}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    # The commands.

    def train(self, output: Path, steps: int = 16, every: int = 4, cache: Path | None = None) -> Command:
        """A conditional run with a checkpoint, a grid and an evaluation every few steps."""
        options = f"{UNET} {RUN} {DRAWN} --train.max_steps {steps} --train.keep_checkpoints 3"
        options += "".join(f" --train.{name}_every {every}" for name in ("checkpoint", "sample", "evaluate"))
        return self._training("train_conditional", "conditional", options, output, cache)

    def train_classifier(self, output: Path, steps: int = 8, every: int = 2, cache: Path | None = None) -> Command:
        """A classifier."""
        options = f"{CLASSIFIER} {RUN} --train.max_steps {steps} --train.checkpoint_every {every}"
        return self._training("train_classifier", "classifier", f"{options} --train.report_every 3", output, cache)

    def train_unconditional(self, output: Path, cache: Path | None = None) -> Command:
        """A run without labels."""
        where = (
            "--data.path",
            "parquet",
            "--data.data_files",
            self.data,
            "--data.channels",
            1,
            "--output_dir",
            output,
        )
        options = f"{UNET} {RUN} {DRAWN} --train.max_steps 3 --train.sample_every 0"
        return self.command("train_unconditional", *where, *options.split(), cache=cache)

    def train_on_folder(self, output: Path, cache: Path) -> Command:
        """A conditional run that is told its data by `also`."""
        options = f"{UNET} {RUN} {DRAWN} --train.max_steps 2 --data.channels 1"
        return self.command("train_conditional", *options.split(), "--output_dir", output, cache=cache)

    def _training(self, script: str, config: str, options: str, output: Path, cache: Path | None) -> Command:
        where = ("--config", f"{ROOT}/configs/digits_16_{config}.yaml", "--data.data_files", str(self.data))
        return self.command(script, *where, *options.split(), "--output_dir", output, cache=cache)

    def sample(self, model: Path | str, output: Path, count: int = 24, batch: int = 4) -> Command:
        """A folder of samples."""
        how = ("--num_images", count, "--batch_size", batch, "--steps", 2)
        return self.command("sample", "--model", model, "--output", output, *how)

    def grid(self, model: Path | str, file: Path) -> Command:
        """A labelled grid."""
        return self.command(
            "sample", "--model", model, "--grid", file, "--num_images", 4, "--labels", "0,1", "--steps", 2
        )

    def evaluate(
        self, what: str, given: Path | str, output: Path, *more: object, cache: Path | None = None
    ) -> Command:
        """A report of `--model` or `--images`."""
        how = ("--network", "pixels", "--metrics", "fid,kid,prdc", "--replicates", 5, "--batch_size", 50)
        how += ("--num_images", 24, *(("--steps", 2) if what == "model" else ()))
        return self.command("evaluate", f"--{what}", given, "--output", output, *how, *more, cache=cache)

    def compare(self, output: Path, *runs: object, cache: Path | None = None) -> Command:
        """A comparison of two guidance scales."""
        how = ("--network", "pixels", "--metrics", "fid", "--replicates", 5, "--num_images", 20, "--steps", 2)
        how += ("--guidance_scale", "1,2", "--batch_size", 10)
        return self.command("compare", *(runs or (self.path("run"),)), "--output", output, *how, cache=cache)

    def publish(self, model: Path, output: Path) -> Command:
        """What would be uploaded."""
        return self.command("publish", "--model", model, "--hub_model_id", "user/model", "--output", output)

    def command(self, script: str, *arguments: object, cache: Path | None = None) -> Command:
        """Any command, with the cache of the world or of a trial."""
        return Command(script, tuple(map(str, arguments)), {"CARDIFF_CACHE": str(cache or self.cache)})

    def run(self, command: Command) -> Outcome:
        """Run a command to its end."""
        return run(command, self.scratch)

    # How it is made.

    def make(self) -> None:
        """Make all of it anew.

        Raises:
            RuntimeError: An undisturbed command fails.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if not self.data.exists():
            import pyarrow.parquet as parquet

            parquet.write_table(parquet.read_table(ROOT / "data/digits.parquet").slice(0, IMAGES), self.data)
        run_folder = self.path("run")
        self._make("run", self.train(run_folder))
        self._make("classifier", self.train_classifier(self.path("classifier")))
        self._make("unconditional", self.train_unconditional(self.path("unconditional")))
        self._make("samples", self.sample(run_folder, self.path("samples")))
        self._make("grid.png", self.grid(run_folder, self.path("grid.png")))
        export = ("--export_reference", self.path("statistics.safetensors"))
        self._make("report", self.evaluate("model", run_folder, self.path("report"), *export))
        self._make("comparison", self.compare(self.path("comparison")))
        self._make("published", self.publish(run_folder, self.path("published")))
        for name, newest in (("run", "step-00000016"), ("classifier", "step-00000008")):
            interrupted = copy(self.path(name), self.path(f"interrupted_{name}"))
            shutil.rmtree(interrupted / "checkpoints" / newest)

    def _make(self, name: str, command: Command) -> None:
        target = self.path(name)
        outcome = self.run(command)
        if outcome.status:
            raise RuntimeError(f"{command}\nends with {outcome.status}:\n{outcome.output}{outcome.errors}")
        self.references[name], self.seconds[name] = fingerprint(target), outcome.seconds
