"""Files made by somebody who means harm: none runs, none is followed out of its folder, none becomes a figure.

Each attack spoils a copy of a model, cache or folder, with checksums that fit, and names the command that meets it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.campaign import hostile_files as bad
from benchmarks.campaign.commands import Command
from benchmarks.campaign.trials import Trial, copy, difference, fingerprint, judge
from benchmarks.campaign.world import World

NAME = "hostile"
Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Attack:
    """What somebody made, and who reads it.

    Args:
        what: In words.
        spoil: Changes the folder of the trial, which holds copies.
        reader: One of READERS.
        harmless: Whether the command may succeed with the result of the sound folder, since it does not look there.
        sealed: Whether the checksums are made to fit.
    """

    what: str
    spoil: Spoil
    reader: str
    harmless: bool = True
    sealed: bool = True


COPIES = ("run", "interrupted_run", "classifier", "samples", "comparison", "cache", "statistics.safetensors", "report")
GUIDED = ("--guidance_scale", 2)
READERS: dict[str, tuple[Callable[[World, Path], Command], str]] = {
    "sample": (lambda w, f: w.grid(f / "run", f / "out.png"), "out.png"),
    "evaluate": (lambda w, f: w.evaluate("model", f / "run", f / "out", cache=f / "cache"), "out"),
    "compare": (lambda w, f: w.compare(f / "out", f / "run", cache=f / "cache"), "out"),
    "publish": (lambda w, f: w.publish(f / "run", f / "out"), "out"),
    "publish with figures": (lambda w, f: w.publish(f / "run", f / "out").also("--metrics", f / "report"), "out"),
    "resume": (lambda w, f: w.train(f / "interrupted_run"), "interrupted_run"),
    "resume from": (lambda w, f: w.train(f / "out", steps=20).also("--resume_from", f / "run"), "out"),
    "train": (lambda w, f: w.train(f / "out", steps=2, every=2, cache=f / "cache"), "out"),
    "classifier": (
        lambda w, f: w.grid(w.path("run"), f / "out.png").also("--classifier", f / "classifier"),
        "out.png",
    ),
    "worse model": (
        lambda w, f: w.grid(w.path("run"), f / "out.png").also(*GUIDED, "--guidance_model", f / "run"),
        "out.png",
    ),
    "statistics": (
        lambda w, f: w.evaluate("images", f / "samples", f / "out", "--reference", f / "statistics.safetensors"),
        "out",
    ),
    "samples": (
        lambda w, f: w.evaluate("images", f / "samples", f / "out", "--reference", w.path("run") / "config.yaml"),
        "out",
    ),
    "more samples": (lambda w, f: w.sample(w.path("run"), f / "samples"), "samples"),
    "compare again": (lambda w, f: w.compare(f / "comparison"), "comparison"),
    "config": (lambda w, f: w.sample(w.path("run"), f / "out", 4).also("--config", f / "options.yaml"), "out"),
    "train config": (lambda w, f: w.train(f / "out", 2, 2).also("--config", f / "options.yaml"), "out"),
    "timesteps": (
        lambda w, f: w.sample(w.path("run"), f / "out", 4).also("--timesteps_from", f / "options.yaml"),
        "out",
    ),
    "network": (
        lambda w, f: w.command(
            *(
                "evaluate",
                "--images",
                f / "samples",
                "--reference",
                w.path("run") / "config.yaml",
                "--output",
                f / "out",
            ),
            *("--network", f / "network", "--metrics", "fid", "--num_images", 24),
        ),
        "out",
    ),
    "judge": (
        lambda w, f: w.evaluate("images", f / "samples", f / "out", "--reference", w.path("run") / "config.yaml").also(
            "--metrics", "fid,accuracy", "--accuracy_classifier", f / "network"
        ),
        "out",
    ),
}

UNET, CONFIG = "run/unet/diffusion_pytorch_model.safetensors", "run/unet/config.json"
SCHEDULER, INDEX = "run/scheduler/scheduler_config.json", "run/model_index.json"
NEWEST, INTERRUPTED = "run/checkpoints/step-00000016", "interrupted_run/checkpoints/step-00000012"
ATTACKS = [
    # Pickles, under every name that a library might look for.
    Attack("a pickle beside the weights", bad.pickled("run/unet/diffusion_pytorch_model.bin"), "sample"),
    Attack("a pickle in the place of the weights", bad.pickled(UNET), "sample", False),
    Attack("only a pickle", bad.only_pickle(UNET), "sample", False),
    Attack("an index of pickles", bad.index(UNET, "diffusion_pytorch_model.bin"), "sample", False),
    Attack("an index of files elsewhere", bad.index(UNET, "../../../secret.safetensors"), "publish", False),
    Attack("a pickle as optimizer", bad.pickled(f"{NEWEST}/training/optimizer.bin"), "resume from"),
    Attack(
        "a pickle named optimizer.safetensors", bad.pickled(f"{NEWEST}/training/optimizer.safetensors"), "resume from"
    ),
    Attack("a pickle as weights of the checkpoint", bad.pickled(f"{NEWEST}/training/unet.safetensors"), "resume from"),
    Attack("objects in images.npy", bad.object_array("images.npy"), "train"),
    Attack("objects in labels.npy", bad.object_array("labels.npy"), "train"),
    Attack("objects in the feature cache", bad.object_array("features.npy"), "evaluate"),
    Attack("a pickle as classifier", bad.pickled("classifier/classifier/diffusion_pytorch_model.bin"), "classifier"),
    Attack("a pickle as statistics", bad.pickled("statistics.safetensors"), "statistics", False),
    Attack("a pickle as network", bad.pickled("network/pytorch_model.bin"), "network", False),
    Attack("a pickle as judge", bad.pickled("network/model.pt"), "judge", False),
    # Code.
    Attack("code as the pipeline's source", bad.code("run/pipeline_class_conditional.py"), "sample"),
    Attack("code as the pipeline's source", bad.code("run/pipeline_class_conditional.py"), "publish"),
    Attack("code as the checkpoint's source", bad.code(f"{NEWEST}/pipeline_class_conditional.py"), "resume from"),
    Attack("code of the classifier", bad.code("classifier/classifier/noisy_classifier.py"), "classifier"),
    Attack("a class of one's own in the index", bad.edit(INDEX, unet=["evil", "Evil"]), "sample", False),
    Attack("a pipeline of one's own", bad.edit(INDEX, _class_name=["evil", "Evil"]), "sample", False),
    Attack("a scheduler of one's own", bad.edit(INDEX, scheduler=["evil", "Evil"]), "publish", False),
    Attack("auto_map in the configuration", bad.edit(CONFIG, auto_map={"AutoModel": "evil.Evil"}), "sample"),
    Attack("a transformers model with code", bad.network_with_code, "network", False),
    Attack("an object in YAML", bad.yaml_object, "config", False),
    Attack("an object in a run's YAML", bad.yaml_object, "train config", False),
    Attack("a schedule's function in YAML", bad.yaml_schedule, "timesteps", False),
    Attack("a guidance function in YAML", bad.yaml_guidance, "config", False),
    Attack("a schedule's function in a run's YAML", bad.yaml_schedule, "train config", False),
    # JSON of another form, depth or size.
    Attack("a configuration that is a string", bad.text(CONFIG, '"../../secret"'), "sample", False),
    Attack("a configuration that is a string", bad.text(SCHEDULER, '"../../secret"'), "evaluate", False),
    Attack("a configuration that is a list", bad.text(CONFIG, '["../../secret"]'), "publish", False),
    Attack("a configuration that is a list", bad.text(SCHEDULER, "[1, 2]"), "compare", False),
    Attack("an index that is a string", bad.text(INDEX, '"../../secret"'), "sample", False),
    Attack(
        "a classifier that is a string", bad.text("classifier/classifier/config.json", '"x/y"'), "classifier", False
    ),
    Attack("deep nesting in the index", bad.nested(INDEX), "sample", False),
    Attack("deep nesting in the configuration", bad.nested(CONFIG), "publish", False),
    Attack("deep nesting in run.json", bad.nested("run/run.json"), "publish", False),
    Attack("deep nesting in the checksums", bad.nested("run/checksums.json"), "sample", False, sealed=False),
    Attack("deep nesting in the state", bad.nested(f"{NEWEST}/training/state.json"), "resume from", False),
    Attack("deep nesting in options.json", bad.nested("samples/options.json"), "more samples"),
    Attack("deep nesting in the manifest", bad.nested("samples/manifest.jsonl"), "samples", False),
    Attack("deep nesting in the trials", bad.nested("comparison/trials.jsonl"), "compare again"),
    Attack("deep nesting in the figures", bad.nested("report/metrics.json"), "publish with figures", False),
    Attack("deep nesting in YAML", bad.text("options.yaml", "[" * 50_000), "train config", False),
    Attack("a number too large in the index", bad.edit(CONFIG, sample_size=10**30), "sample", False),
    Attack("a billion channels", bad.edit(CONFIG, block_out_channels=[2**30, 2**30]), "sample", False),
    Attack("names of classes that are no text", bad.edit(INDEX, id2label={"0": [1], "x": None}), "sample", False),
    Attack("a run.json of other types", bad.text("run/run.json", '{"config": [], "step": "x"}'), "publish", False),
    Attack("a run.json of other types", bad.text("run/run.json", '{"config": 3}'), "evaluate", False),
    Attack(
        "a state of other types", bad.edit(f"{NEWEST}/training/state.json", step="12", config=[]), "resume from", False
    ),
    # Tensors of absurd sizes, and numbers that are none.
    Attack("a safetensors header of exabytes", bad.header(UNET, None), "sample", False),
    Attack("a safetensors header of a tensor too large", bad.header(UNET, [2**40, 2**20]), "sample", False),
    Attack(
        "a header in the checkpoint", bad.header(f"{INTERRUPTED}/training/unet.safetensors", None), "resume", False
    ),
    Attack("an array header of exabytes", bad.npy_header("images.npy"), "train"),
    Attack("a feature header of exabytes", bad.npy_header("features.npy"), "evaluate"),
    Attack("weights that are not numbers", bad.tensors(UNET, float("nan")), "sample", False),
    Attack("weights that are infinite", bad.tensors(UNET, float("inf")), "evaluate", False),
    Attack("a worse model without numbers", bad.tensors(UNET, float("nan")), "worse model", False),
    Attack(
        "statistics that are not numbers", bad.tensors("statistics.safetensors", float("nan")), "statistics", False
    ),
    Attack("statistics of another shape", bad.reshaped("statistics.safetensors"), "statistics", False),
    Attack("features that are not numbers", bad.feature_nan, "evaluate"),
    Attack("a beta of 1.5", bad.betas(1.5), "sample", False),
    Attack("a beta below 0", bad.betas(-0.1), "evaluate", False),
    Attack("a beta that is no number", bad.betas(float("nan")), "sample", False),
    Attack("betas that are words", bad.edit(SCHEDULER, trained_betas=["a", "b"]), "publish", False),
    Attack(
        "a trillion timesteps", bad.edit(SCHEDULER, num_train_timesteps=10**12, trained_betas=None), "sample", False
    ),
    Attack("no timesteps", bad.edit(SCHEDULER, num_train_timesteps=0, trained_betas=None), "sample", False),
    # Links and names that lead out of the folder.
    Attack("weights that are a link", bad.link(UNET, "secret.safetensors"), "publish", False),
    Attack("a run.json that is a link", bad.link("run/run.json", "secret.json"), "publish", False),
    Attack("a grid that is a link", bad.link("run/samples/step-00000016.png", "secret.txt"), "publish", False),
    Attack("a folder that is a link", bad.link("run/scheduler", "elsewhere"), "publish", False),
    Attack("a checksum of a file elsewhere", bad.checksum_elsewhere, "sample", False, sealed=False),
    Attack("a checksum of a file elsewhere", bad.checksum_elsewhere, "resume from", sealed=False),
    Attack("a manifest of files elsewhere", bad.manifest_elsewhere, "samples", False),
    Attack("a sample that is a link", bad.link("samples/000003.png", "secret.txt"), "samples", False),
    Attack("a picture of billions of pixels", bad.huge_picture, "samples", False),
]
COUNT = len(ATTACKS)
IS_LIST = True


def trial(world: World, number: int, random: Random) -> Trial:
    """Spoil copies and run the command that reads them."""
    attack = ATTACKS[number % COUNT]
    command_of, name = READERS[attack.reader]
    key = f"hostile {attack.reader}"
    if key not in world.references and attack.reader not in (
        "config",
        "train config",
        "timesteps",
        "network",
        "judge",
    ):
        folder = _set_up(world, world.trial(f"{NAME}-{attack.reader.replace(' ', '-')}", -1))
        outcome = world.run(command_of(world, folder))
        assert outcome.status == 0, f"{attack.reader}: {outcome.errors}"
        world.references[key] = fingerprint(folder / name)
    folder = _set_up(world, world.trial(NAME, number))
    attack.spoil(folder)
    if attack.sealed:
        for sealed in (
            "run",
            NEWEST,
            INTERRUPTED,
            "classifier",
            *(p.parent for p in folder.glob("cache/**/checksums.json")),
        ):
            bad.seal(folder / sealed)
    command = command_of(world, folder)
    outcome = world.run(command)
    verdict, detail = judge(outcome, _other(folder, name, attack, world.references.get(key, {})))
    if (folder / bad.MARKER).exists():
        verdict, detail = "executed", "the code that the file carries was run"
    elif bad.SECRET in outcome.output + outcome.errors or _carries_secret(folder / name):
        verdict, detail = "executed", "a file outside its folder was read and passed on"
    return Trial(NAME, number, f"{attack.reader}: {attack.what}", verdict, str(command), detail)


def _other(folder: Path, name: str, attack: Attack, expected: dict[str, str]) -> str | None:
    """In what the result differs from that of the sound folder; always something if that must not succeed."""
    if not attack.harmless:
        return "it was accepted"
    return difference(fingerprint(folder / name), expected)


def _set_up(world: World, folder: Path) -> Path:
    for name in COPIES:
        copy(world.path(name), folder / name)
    bad.lay_out(folder)
    return folder


def _carries_secret(result: Path) -> bool:
    files = [result] if result.is_file() else [path for path in result.rglob("*") if path.is_file()]
    return any(bad.SECRET.encode() in path.read_bytes() for path in files)
