"""What every kind of guidance does to the digits' model: class accuracy, distance to held-out images, diversity, cost.

python benchmarks/guidance.py --output runs/guidance --report docs/guidance
python benchmarks/guidance.py --output runs/guidance --report docs/guidance --checkpoint 200 --kinds plain,interval

For each seed it trains the demo's configuration and its classifier on three quarters of the digits, draws from the
model with every setting, and measures the samples against the quarter that nothing was trained on. It adds to what the
folder has, so it can be stopped and started again; about 20 minutes a seed on one core. Seconds are measured at the
end, all settings in turn, so keep the machine free then, or run it again after removing seconds.json.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent.parent))

import train_classifier
import train_conditional
from benchmarks.schedule_pilot import classifier_features
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.evaluation.features.image_classifier import fit_image_classifier
from cardiff.evaluation.metrics.classes import diversity
from cardiff.evaluation.metrics.frechet import frechet_distance
from cardiff.hub.serialization import load_classifier, load_pipeline
from cardiff.plotting import BLUE, GREEN, GREY, ORANGE, PINK
from cardiff.sampling.draw import draw
from cardiff.sampling.solvers import make_solver
from cardiff.training.checkpoint import checkpoint_dir

ROOT = Path(__file__).parent.parent
WORSE = 200  # the checkpoint that autoguidance steers away from, of 600 steps
INTERVAL = (-1.0, 2.0)
PLAIN = (0, 0.5, 1, 1.1, 1.25, 1.5, 2, 3, 4, 6)


def settings(worse=None, classifier=None) -> dict[tuple[str, str], dict]:
    """(kind, setting): the pipeline's arguments. Kinds with several settings are swept."""
    found = {("plain", f"w = {w:g}"): {"guidance_scale": float(w)} for w in PLAIN}
    for w in (1.25, 1.5, 2, 3, 4, 6):
        found["interval", f"w = {w:g}"] = {"guidance_scale": float(w), "guidance_interval": INTERVAL}
    for w in (1.5, 2, 3):
        found["autoguidance", f"w = {w:g}"] = {"guidance_scale": float(w), "guidance_unet": worse}
    for w in (0.2, 0.3, 0.5):
        found["CFG++", f"λ = {w:g}"] = {"guidance_scale": float(w), "cfg_plus_plus": True}
    for phi in (0.7, 1.0):
        found["rescale", f"w = 3, φ = {phi:g}"] = {"guidance_scale": 3.0, "guidance_rescale": phi}
    found["dynamic thresholding", "w = 3, 0.95"] = {"guidance_scale": 3.0, "dynamic_thresholding": 0.95}
    found["w over log-SNR", "1 to 2 to 1"] = {"guidance_scale": triangle}
    for s in (1, 4, 8):
        arguments = {"guidance_scale": 0.0, "classifier": classifier, "classifier_scale": float(s)}
        found["classifier, no label in the UNet", f"s = {s}"] = arguments
    for s in (0.25, 0.5, 1):
        arguments = {"guidance_scale": 1.0, "classifier": classifier, "classifier_scale": float(s)}
        found["classifier and label", f"s = {s:g}"] = arguments
    return found


def triangle(log_snr: float) -> float:
    """w = 2 at log-SNR 0.5, falling to 1 at −2.5 and 3.5."""
    return 1 + max(0.0, 1 - abs(log_snr - 0.5) / 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/guidance"))
    parser.add_argument("--report", type=Path, default=Path("runs/guidance"), help="where tables and figures go")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of training and sampling (default: 0,1,2)")
    parser.add_argument("--images", type=int, default=600, help="samples of each setting (default: 600)")
    parser.add_argument("--checkpoint", type=int, help="sample the model of this step (default: the finished one)")
    parser.add_argument("--kinds", help="only these, with commas (default: all)")
    parser.add_argument("--solver", default="dpm")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)

    name = "trained" if options.checkpoint is None else f"trained_{options.checkpoint}"
    results = options.output / f"{name}_{options.solver}_{options.steps}.jsonl"
    chosen = [key for key in settings() if options.kinds is None or key[0] in options.kinds.split(",")]
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(entry["seed"], entry["kind"], entry["setting"]) for entry in known}
    judge = Judge(options.output)
    for seed in map(int, options.seeds.split(",")):
        todo = [key for key in chosen if (seed, *key) not in done]
        if not todo:
            continue
        train(options.output, seed)
        pipeline, arguments = load(options, seed)
        for kind, setting in todo:
            entry = {"seed": seed, "kind": kind, "setting": setting}
            entry |= measure(pipeline, arguments[kind, setting], seed, options, judge)
            with open(results, "a") as file:
                file.write(json.dumps(entry) + "\n")
            print(entry, flush=True)
    entries = [json.loads(line) for line in results.read_text().splitlines()]
    seconds_file = options.output / "seconds.json"
    if not seconds_file.exists():
        seconds_file.write_text(json.dumps(seconds_an_image(options), indent=1) + "\n")
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / f"{name}.md").write_text(table(entries, judge, json.loads(seconds_file.read_text())))
    if options.kinds is None:
        draw_sweeps(entries, options.report / f"{name}.png")


def halves(folder: Path) -> dict[str, Path]:
    """Files of the digits that are trained on, three quarters of each class, and of those that are held out."""
    files = {"train": folder / "train.parquet", "test": folder / "held_out.parquet"}
    if not all(file.exists() for file in files.values()):
        folder.mkdir(parents=True, exist_ok=True)
        digits = datasets.load_dataset("parquet", data_files=str(ROOT / "data/digits.parquet"), split="train")
        parts = digits.train_test_split(test_size=0.25, seed=0, stratify_by_column="label")
        for name, file in files.items():
            parts[name].to_parquet(str(file))
    return files


def train(folder: Path, seed: int) -> None:
    """The demo's model and classifier; what is already trained is left as it is."""
    files = halves(folder)
    common = ["--data.data_files", str(files["train"]), "--train.seed", str(seed), "--train.trackers", "[]"]
    model = ["--config", str(ROOT / "configs/digits_16_conditional.yaml"), "--output_dir", f"{folder}/digits_{seed}"]
    model += ["--train.keep_checkpoints_every", str(WORSE)]
    train_conditional.main([*model, *common])
    classifier = ["--config", str(ROOT / "configs/digits_16_classifier.yaml"), "--train.validation_fraction", "0"]
    train_classifier.main([*classifier, "--output_dir", f"{folder}/classifier_{seed}", *common])


class Judge:
    """Measures samples with networks that had no part in drawing them."""

    def __init__(self, folder: Path):
        files = halves(folder)
        seen, held_out = (
            open_store(DataConfig(data_files=str(files[name]), resolution=16, channels=1, upscale=True), True)
            for name in ("train", "test")
        )
        self.features = classifier_features(np.asarray(seen.images), seen.labels)
        self.classifier = fit_image_classifier(np.asarray(seen.images), seen.labels)
        self.reference = self.features(np.asarray(held_out.images))
        self.spread = diversity(self.reference, held_out.labels)
        self.real = self.measure(np.asarray(seen.images), seen.labels)
        """The same measures of the training images: what a perfect model would reach."""
        self.held_out = self.classifier.accuracy(np.asarray(held_out.images), held_out.labels)

    def measure(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Of uint8 images (N, C, H, W)."""
        features = self.features(images)
        return {
            "accuracy": self.classifier.accuracy(images, labels),
            "distance": frechet_distance(features, self.reference),
            "diversity": diversity(features, labels) / self.spread,
        }


def load(options, seed: int) -> tuple:
    """The model of a seed under the solver, and the arguments of each setting."""
    folder = options.output / f"digits_{seed}"
    finished = options.checkpoint is None
    pipeline = load_pipeline(folder if finished else checkpoint_dir(folder / "checkpoints", options.checkpoint))
    pipeline.scheduler = make_solver(pipeline.scheduler, options.solver)
    worse = load_pipeline(checkpoint_dir(folder / "checkpoints", WORSE)).unet
    return pipeline, settings(worse, load_classifier(options.output / f"classifier_{seed}")[0])


def measure(pipeline, arguments: dict, seed: int, options, judge: Judge) -> dict:
    """Draw as many of each class and measure them."""
    labels = np.resize(np.arange(10), options.images)
    how = {"seed": seed, "labels": labels.tolist(), "steps": options.steps, "batch_size": 100}
    images, cost = draw(pipeline, range(options.images), **how, **arguments)
    evaluations = {name: sum(c.get(name, 0) for c in cost) / len(cost) for name in {k for c in cost for k in c}}
    return {**judge.measure(images.transpose(0, 3, 1, 2), labels), "evaluations": evaluations}


def seconds_an_image(options, images: int = 100, rounds: int = 3) -> dict[str, float]:
    """Median over rounds in which all settings take their turn, so that a busy moment falls on all alike."""
    pipeline, arguments = load(options, int(options.seeds.split(",")[0]))
    how = {"seed": 0, "labels": np.resize(np.arange(10), images).tolist(), "steps": options.steps}
    found = {f"{kind}, {setting}": [] for kind, setting in arguments}
    for _ in range(rounds):
        for name, guidance in zip(found, arguments.values()):
            started = time.perf_counter()
            draw(pipeline, range(images), batch_size=images, **how, **guidance)
            found[name].append((time.perf_counter() - started) / images)
    return {name: float(np.median(times)) for name, times in found.items()}


def rows_of(entries: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """The entries of each setting, one a seed, in the order of `settings`."""
    return {key: [e for e in entries if (e["kind"], e["setting"]) == key] for key in settings()}


def table(entries: list[dict], judge: Judge, seconds: dict[str, float]) -> str:
    """One row per setting: means and standard deviations over seeds."""
    real = judge.real
    lines = [
        "| kind | setting | classified as requested | distance | diversity | UNet evaluations | seconds an image |",
        "|---|---|---|---|---|---|---|",
        f"| training images | | {real['accuracy']:.1%} | {real['distance']:.2f} | {real['diversity']:.2f} | | |",
    ]
    for (kind, setting), found in rows_of(entries).items():
        if not found:
            continue
        cells = []
        for name, digits, scale in (("accuracy", 1, 100), ("distance", 2, 1), ("diversity", 2, 1)):
            values = np.array([entry[name] for entry in found]) * scale
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.{digits}f}{spread}" + ("%" if scale == 100 else ""))
        cost = found[0]["evaluations"]
        names = {"unet": "", "guidance_unet": " of the worse one", "classifier": " of the classifier"}
        cells.append(" + ".join(f"{cost[name]:g}{what}" for name, what in names.items() if cost.get(name)))
        cells.append(f"{seconds[f'{kind}, {setting}']:.3f}")
        lines.append(f"| {kind} | {setting} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


STYLES = {
    "plain": (GREY, "o-"),
    "interval": (BLUE, "s-"),
    "autoguidance": (ORANGE, "^-"),
    "CFG++": (GREEN, "D--"),
    "classifier and label": (PINK, "v--"),
}


def draw_sweeps(entries: list[dict], path: Path) -> None:
    """Accuracy over w, and the distance and the diversity that it is bought with."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = rows_of(entries)
    for kind, (colour, style) in STYLES.items():
        found = [(setting, group) for (k, setting), group in rows.items() if k == kind and group]
        if not found:
            continue
        if kind == "plain":
            found = found[2:]  # w below 1 is not guidance
        values = {n: np.array([[e[n] for e in g] for _, g in found]) for n in ("accuracy", "distance", "diversity")}
        means = {name: value.mean(1) for name, value in values.items()}
        look = {"color": colour, "markersize": 4, "linewidth": 1.2, "label": kind}
        if kind in ("plain", "interval", "autoguidance"):
            w = [float(setting.split("= ")[1]) for setting, _ in found]
            error = values["accuracy"].std(axis=1, ddof=1) * 100 if values["accuracy"].shape[1] > 1 else None
            left.errorbar(w, means["accuracy"] * 100, error, fmt=style, capsize=2, **look)
        middle.plot(means["accuracy"] * 100, means["distance"], style, **look)
        right.plot(means["accuracy"] * 100, means["diversity"], style, **look)
    left.set(xlabel="guidance scale w", ylabel="classified as requested, %")
    middle.set(xlabel="classified as requested, %", ylabel="distance to held-out images", yscale="log")
    right.set(xlabel="classified as requested, %", ylabel="diversity within a class, real = 1")
    middle.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    middle.minorticks_off()
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    middle.legend(fontsize=8)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
