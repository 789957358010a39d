"""compare.py: several runs, with the same seeds, noise, classes, number of images and reference, over settings."""

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from pathlib import Path

from tqdm.auto import tqdm

from cardiff.devices import batch_size_for, evaluation_dtype, record_of
from cardiff.distributed import on_main, one_first, this_process
from cardiff.errors import UserError
from cardiff.evaluation.compare.candidates import Candidate, Setting, Trial, base_setting, file_name
from cardiff.evaluation.compare.trials import append_trial, keep_whole, read_trials
from cardiff.evaluation.evaluate import check_seeds, class_shares
from cardiff.evaluation.images import read_folder
from cardiff.evaluation.options import CompareOptions
from cardiff.evaluation.protocol import Protocol
from cardiff.evaluation.samples import ModelFacts, draw_folder, labels_as_in, sample_options
from cardiff.hub.serialization import find_model
from cardiff.sampling.draw import make_plan, settle_precision
from cardiff.sampling.options import DrawOptions, GuidanceOptions
from cardiff.sampling.solvers import SOLVERS

# Increase it when the same images give other figures.
METHOD_VERSION = 1


class Comparison:
    """The runs, the protocol, and the measurements so far.

    Raises:
        UserError: Options, runs or data cannot be used or compared.
    """

    def __init__(self, options: CompareOptions):
        options.check()
        self.options, self.state = options, this_process()
        self.output = Path(options.output)
        check_seeds(options.seeds)
        settle_precision(options)
        self.seeds = options.seeds
        self.candidates = self._candidates()
        models = [model for candidate in self.candidates for model in candidate.models]
        size = models[0].resolution, models[0].channels
        for candidate in self.candidates:  # options are refused before anything is computed
            for setting in candidate.settings:
                make_plan(sample_options(candidate.models[0].folder, self.output, _draw_options(options, setting)))
        for model in models:
            if (model.resolution, model.channels) != size:
                raise UserError(
                    f"{model.folder} draws images of {model.resolution} pixels and {model.channels} channels and "
                    f"{models[0].folder} of {size[0]} and {size[1]}: only models of one image size can be compared."
                )
        if options.reference is None:
            files = [model.config_file for model in models if model.config_file is not None]
            if not files:
                raise UserError("No run has a config.yaml that names its training data: give --reference.")
            options.reference = str(files[0])
        self.batch_size = batch_size_for(options.batch_size, size[0], self.state.device)
        with tqdm(desc="real images", unit="img", disable=not self.state.is_main_process, leave=False) as bar:
            self.protocol = Protocol(options, *size, self.batch_size, options.num_images, bar.update)
        if options.rank_by not in self.protocol.names:
            raise UserError(
                f"--rank_by is {options.rank_by!r}, which is not measured: choose from "
                f"{', '.join(self.protocol.names)}."
            )
        unlabelled = [candidate.name for candidate in self.candidates if not candidate.conditional]
        by_class = ["accuracy"] if self.protocol.estimator.columns is not None else ["accuracy", "diversity"]
        if unlabelled and options.rank_by in by_class:
            raise UserError(
                f"--rank_by {options.rank_by} cannot rank the settings of {unlabelled[0]}, whose samples have no "
                "labels: choose another metric."
            )
        self.counts = self._counts()
        for count in self.counts:
            self.protocol.check_count(count)
        self.labels = None
        if any(candidate.conditional for candidate in self.candidates):
            names = self.protocol.reference.class_names
            for model in models:
                if model.classes and model.class_names != names:
                    raise UserError(
                        f"{model.folder} has other classes than the reference: give the data that it was trained on."
                    )
            self.labels = labels_as_in(class_shares(self.protocol), self.counts[-1])
        self.file = self.output / "trials.jsonl"
        self.known = self._read_known()

    def _candidates(self) -> list[Candidate]:
        """The runs by name, with their settings."""
        options = self.options
        folders: dict[str, list[str]] = {}
        if not options.runs:
            raise UserError("Name the runs to compare: compare.py RUN_A RUN_B …")
        for text in options.runs:
            name, equals, folder = text.partition("=")
            named = equals and "/" not in name
            if not named:
                name, folder = Path(text).name, text
                if name in ("", ".."):
                    name = Path(text).resolve().name
            if not name.strip() or not folder:
                raise UserError(f"The run {text!r} has no name or no folder: give FOLDER or NAME=FOLDER.")
            if not named and name in folders:
                raise UserError(
                    f"Two runs are called {name}: give them names, one={folders[name][0]} other={folder}, or the same "
                    "name if they are trainings of one configuration."
                )
            folders.setdefault(name, []).append(folder)
        candidates = []
        unknown = [solver for solver in options.solver if solver not in SOLVERS]
        if unknown:
            raise UserError(f"--solver names {unknown[0]!r}, which is not a solver: choose from {', '.join(SOLVERS)}.")
        for name, paths in folders.items():
            with one_first():
                models = [ModelFacts(find_model(path, options.revision)) for path in paths]
            if len({bool(model.classes) for model in models}) > 1:
                raise UserError(
                    f"The runs called {name} are conditional and unconditional: give them different names."
                )
            guided = [float(scale) for scale in options.guidance_scale] if models[0].classes else [None]
            settings = list(dict.fromkeys(Setting(*parts) for parts in product(options.solver, options.steps, guided)))
            candidates.append(Candidate(name, models, settings))
        return candidates

    def _counts(self) -> list[int]:
        """Number of images in each round, multiples of the batch size so that no image is drawn twice."""
        options = self.options
        total = options.num_images or min(self.protocol.reference.count, 10_000)
        size = self.batch_size
        counts = [max(size, total // 2**h // size * size) for h in range(options.halving_rounds, 0, -1)]
        if sorted(set(counts)) != counts or (counts and counts[-1] >= total):
            raise UserError(
                f"{total} images are too few for {options.halving_rounds} halving rounds in batches of {size}: give "
                "fewer --halving_rounds, or a smaller --batch_size."
            )
        return [*counts, total]

    def run(self) -> None:
        """Draw and measure everything that is not measured yet."""
        with tqdm(unit="eval", unit_scale=True, desc="comparing", disable=not self.state.is_main_process) as bar:
            alive = {candidate.name: list(candidate.settings) for candidate in self.candidates}
            before = 0
            for turn, count in enumerate(self.counts):
                bar.total = bar.n + self._work(alive, turn)
                bar.refresh()
                for candidate in self.candidates:
                    for setting in alive[candidate.name]:
                        candidate.trials[setting] = list(self._trials(candidate, setting, count, before, bar))
                    if turn == 0:
                        candidate.first = dict(candidate.trials)
                    if turn + 1 < len(self.counts):
                        alive[candidate.name] = self._better_half(candidate, alive[candidate.name])
                before = count

    def _work(self, alive: dict[str, list[Setting]], turn: int) -> float:
        """Network evaluations to come, if the better half costs as much as the worse."""
        work = 0.0
        for candidate in self.candidates:
            cost = sum(setting.cost for setting in alive[candidate.name]) * len(candidate.models) * len(self.seeds)
            before = self.counts[turn - 1] if turn else 0
            for later, count in enumerate(self.counts[turn:]):
                work += cost / 2**later * (count - before)
                before = count
        return work

    def _better_half(self, candidate: Candidate, settings: list[Setting]) -> list[Setting]:
        """The better half by `rank_by`, and always the setting that all runs share."""
        by = self.options.rank_by
        ranked = sorted(settings, key=lambda s: candidate.loss(s, by, self.protocol.names[by]))
        kept = ranked[: -(-len(ranked) // 2)]
        return [setting for setting in settings if setting in kept or setting == base_setting(candidate)]

    def _trials(self, candidate: Candidate, setting: Setting, count: int, before: int, bar: tqdm) -> Iterator[Trial]:
        options = self.options
        labels = self.labels if candidate.conditional else None
        for number, model in enumerate(candidate.models):
            for seed in self.seeds:
                folder = (
                    self.output / "images" / f"{file_name(candidate.name)}-{number}" / setting.folder / f"seed-{seed}"
                )
                key = self._key(model, setting, seed, count)
                share = setting.cost * (count - before)
                if key in self.known:
                    bar.update(share)
                    yield Trial.from_dict(self.known[key], folder)
                    continue
                bar.set_postfix_str(f"{candidate.name}: {setting}, {count} images")
                drawing = _draw_options(options, setting)
                # The sampler also counts the images that are in the folder already.
                skip = [before]

                def progress(drawn: int, skip: list[int] = skip, cost: float = setting.cost) -> None:
                    skipped = min(drawn, skip[0])
                    skip[0] -= skipped
                    bar.update((drawn - skipped) * cost * self.state.num_processes)

                draw_folder(model.folder, folder, drawing, count=count, seed=seed, labels=labels, progress=progress)
                drawn = read_folder(folder)
                measured = self.protocol.measure(drawn.images, drawn.labels, seed=seed)
                trial = Trial(
                    count=count,
                    estimates=measured.estimates,
                    evaluations=drawn.evaluations,
                    per_class=measured.per_class,
                    terms=measured.terms,
                    balanced=measured.balanced,
                    memorisation=None if measured.memorisation is None else measured.memorisation.to_dict(),
                    folder=folder,
                )
                on_main(functools.partial(append_trial, self.file, key, trial))
                yield trial

    @property
    def precision(self) -> dict[str, object]:
        """In which precision images are drawn, where it is not float32, and whether the networks are compiled."""
        return record_of(evaluation_dtype(self.options.precision, self.state.device), self.options.compile)

    def _key(self, model: ModelFacts, setting: Setting, seed: int, count: int) -> str:
        """Digest of everything that a trial's figures depend on."""
        drawing = vars(_draw_options(self.options, setting))  # of this setting alone, so that a sweep can be widened
        how = {name: drawing[name] for name in drawing if name not in ("batch_size", "precision", "compile")}
        how |= self.precision
        protocol = {name: value for name, value in self.protocol.record().items() if name not in ("cardiff", "device")}
        what = [
            model.record["weights_sha256"],
            str(setting),
            seed,
            count,
            how,
            protocol,
            self.counts[-1],
            METHOD_VERSION,
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def _read_known(self) -> dict[str, dict]:
        """Measurements of an earlier command, by key."""

        def read() -> dict[str, dict]:
            self.output.mkdir(parents=True, exist_ok=True)
            known, damaged = read_trials(self.file)
            keep_whole(self.file, known, damaged)
            return known

        return on_main(read)  # the same in every process, since they skip what is known


def _draw_options(options: CompareOptions, setting: Setting) -> DrawOptions:
    """The options of sample.py for one setting."""
    shared = {f.name: getattr(options, f.name) for f in fields(DrawOptions)}
    if setting.guidance_scale is None:  # whatever guides the others
        shared |= vars(GuidanceOptions())
    else:
        shared["guidance_scale"] = [setting.guidance_scale]
    return DrawOptions(**{**shared, "solver": setting.solver, "steps": setting.steps})
