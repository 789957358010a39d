"""Random damage to every kind of file that a command reads, followed by that command."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.campaign.commands import Command
from benchmarks.campaign.trials import Trial, copy, difference, fingerprint, judge
from benchmarks.campaign.world import World

NAME, COUNT = "mutations", 200


@dataclass(frozen=True)
class Scene:
    """A command that reads files of some kind.

    Args:
        name: What is read.
        files: Patterns of what is spoiled, relative to the folder of the trial.
        copies: What of the world is copied into that folder before.
        command: Of the world and the folder.
        result: What the command makes or changes, relative to the folder.
        unread: Whether the spoiled file need not be healed, since the command does not read it or only adds to it.
        deletable: Whether a missing file is damage: of a run without a grid of its last step, the one before counts.
    """

    name: str
    files: tuple[str, ...]
    copies: tuple[str, ...]
    command: Callable[[World, Path], Command]
    result: str
    unread: bool = False
    deletable: bool = True


MODEL = ("model_index.json", "run.json", "checksums.json", "unet/*", "scheduler/*", "pipeline_class_conditional.py")


def _in(folder: str, names: tuple[str, ...] = MODEL) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


NEWEST = "run/checkpoints/step-00000016"
SCENES = [
    Scene(
        "checkpoint, resumed",
        ("interrupted_run/checkpoints/step-00000012/**/*",),
        ("interrupted_run",),
        lambda w, f: w.train(f / "interrupted_run"),
        "interrupted_run",
    ),
    Scene(
        "folder of a run, resumed",
        _in("interrupted_run", ("logs/metrics.jsonl", "config.yaml", "samples/*", "best/evaluation.json", *MODEL)),
        ("interrupted_run",),
        lambda w, f: w.train(f / "interrupted_run"),
        "interrupted_run",
        unread=True,
    ),
    Scene("root model, sampled", _in("run"), ("run",), lambda w, f: w.grid(f / "run", f / "g.png"), "g.png"),
    Scene("best/, sampled", _in("run/best"), ("run",), lambda w, f: w.grid(f / "run/best", f / "g.png"), "g.png"),
    Scene("checkpoint, sampled", _in(NEWEST), ("run",), lambda w, f: w.sample(f / NEWEST, f / "s", 4), "s"),
    Scene("root model, evaluated", _in("run"), ("run",), lambda w, f: w.evaluate("model", f / "run", f / "e"), "e"),
    Scene("root model, compared", _in("run"), ("run",), lambda w, f: w.compare(f / "c", f / "run"), "c"),
    Scene("root model, published", _in("run"), ("run",), lambda w, f: w.publish(f / "run", f / "p"), "p"),
    Scene("best/, published", _in("run/best"), ("run",), lambda w, f: w.publish(f / "run/best", f / "p"), "p"),
    Scene(
        "grid and report, published",
        ("run/samples/step-00000016.png", "report/metrics.json"),
        ("run", "report"),
        lambda w, f: w.publish(f / "run", f / "p").also("--metrics", f / "report"),
        "p",
        deletable=False,
    ),
    Scene(
        "classifier, used",
        _in("classifier", ("classifier/*", "scheduler/*", "run.json", "checksums.json")),
        ("classifier",),
        lambda w, f: w.grid(w.path("unconditional"), f / "g.png").also(
            "--classifier", f / "classifier", "--classifier_scale", 2
        ),
        "g.png",
    ),
    Scene(
        "classifier, resumed",
        _in("interrupted_classifier", ("checkpoints/step-00000006/**/*", "reports/*", "logs/*")),
        ("interrupted_classifier",),
        lambda w, f: w.train_classifier(f / "interrupted_classifier"),
        "interrupted_classifier",
        unread=True,
    ),
    Scene(
        "decoded store, trained on",
        ("cache/[0-9a-f]*/*",),
        ("cache",),
        lambda w, f: w.train(f / "new", steps=2, every=2, cache=f / "cache"),
        "new",
    ),
    Scene(
        "decoded store, measured against",
        ("cache/[0-9a-f]*/*",),
        ("cache",),
        lambda w, f: w.evaluate("model", w.path("run"), f / "e", cache=f / "cache"),
        "e",
    ),
    Scene(
        "feature cache",
        ("cache/features/**/*",),
        ("cache",),
        lambda w, f: w.evaluate("model", w.path("run"), f / "e", cache=f / "cache"),
        "e",
    ),
    Scene(
        "exported statistics",
        ("statistics.safetensors",),
        ("statistics.safetensors",),
        lambda w, f: w.evaluate("model", w.path("run"), f / "e", "--reference", f / "statistics.safetensors"),
        "e",
    ),
    Scene(
        "folder of samples, sampled again",
        ("samples/*",),
        ("samples",),
        lambda w, f: w.sample(w.path("run"), f / "samples"),
        "samples",
    ),
    Scene(
        "folder of samples, measured",
        ("samples/*", "samples/manifest.jsonl", "samples/options.json"),
        ("samples",),
        lambda w, f: w.evaluate("images", f / "samples", f / "e", "--reference", w.path("run") / "config.yaml"),
        "e",
    ),
    Scene(
        "folder of a comparison",
        ("comparison/trials.jsonl", "comparison/comparison.json", "comparison/images/**/*"),
        ("comparison",),
        lambda w, f: w.compare(f / "comparison"),
        "comparison",
        unread=True,
    ),
    Scene(
        "config.yaml",
        ("run/config.yaml",),
        ("run",),
        lambda w, f: w.evaluate("model", f / "run", f / "e"),
        "e",
    ),
]


def trial(world: World, number: int, random: Random) -> Trial:
    """Spoil a file of the next scene and run its command."""
    scene = SCENES[number % len(SCENES)]
    if scene.name not in world.references:
        folder, _ = _set_up(scene, world, world.trial(f"{NAME}-undisturbed", number % len(SCENES)))
        outcome = world.run(scene.command(world, folder))
        assert outcome.status == 0, f"{scene.name}: {outcome.errors}"
        world.references[scene.name] = fingerprint(folder / scene.result)
    folder, files = _set_up(scene, world, world.trial(NAME, number))
    file = random.choice(files)
    what = f"{scene.name}: {file.relative_to(folder)} {spoil(file, random, scene.deletable)}"
    command = scene.command(world, folder)
    outcome = world.run(command)
    result = folder / scene.result
    spoiled = [file.relative_to(result).as_posix()] if scene.unread and file.is_relative_to(result) else []
    expected = {name: value for name, value in world.references[scene.name].items() if name not in spoiled}
    verdict, detail = judge(outcome, difference(fingerprint(result, spoiled), expected))
    return Trial(NAME, number, what, verdict, str(command), detail)


def _set_up(scene: Scene, world: World, folder: Path) -> tuple[Path, list[Path]]:
    for name in scene.copies:
        copy(world.path(name), folder / name)
    files = sorted({file for pattern in scene.files for file in folder.glob(pattern) if file.is_file()})
    assert files, scene.name
    return folder, files


OTHER_FORMS = (
    "[]",
    "{}",
    "null",
    '"text"',
    "7",
    "1e999",
    "[[1, 2], {}]",
    '{"a": NaN}',
    "{",
    "\ufeff{}",
    '["../x", "y"]',
)


def spoil(file: Path, random: Random, deletable: bool = True) -> str:
    """Damage a file in one of many ways, and say how."""
    content = file.read_bytes()
    ways = ["bit", "bit", "truncated", "emptied", "zeroed", "grown", *(["deleted"] if deletable else [])]
    if file.suffix in (".json", ".jsonl", ".yaml"):
        ways += ["form", "nested", "value", "value"]
    way = random.choice(ways)
    if way in ("bit", "zeroed") and content:
        place = random.randrange(len(content))
        length = 1 if way == "bit" else random.randint(1, 512)
        spoiled = bytearray(content)
        if way == "bit":
            spoiled[place] ^= 1 << random.randrange(8)
        else:
            spoiled[place : place + length] = bytes(len(spoiled[place : place + length]))
        file.write_bytes(spoiled)
        return f"({way} at {place} of {len(content)})"
    if way == "truncated":
        length = random.randrange(len(content) or 1)
        file.write_bytes(content[:length])
        return f"(truncated to {length} of {len(content)})"
    if way == "deleted":
        file.unlink()
        return "(deleted)"
    if way == "grown":
        file.write_bytes(content + random.randbytes(random.randint(1, 64)))
        return "(grown)"
    if way == "form":
        form = random.choice(OTHER_FORMS)
        file.write_text(form)
        return f"(replaced by {form!r})"
    if way == "nested":
        brackets = random.choice(["[", '{"a":', "- "])
        depth = random.choice([2000, 100_000])
        file.write_text(brackets * depth + "]" * depth * (brackets == "["))
        return f"({depth} times {brackets!r})"
    if way == "value":
        return _other_value(file, random)
    file.write_bytes(b"")
    return "(emptied)"


def _other_value(file: Path, random: Random) -> str:
    """Another type or size of one value of a JSON file, of one line of it, or of a YAML file."""
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    place = random.randrange(len(lines))
    if file.suffix == ".yaml":
        import yaml

        content = yaml.safe_load(lines[place])
    else:
        content = json.loads(lines[place])
    holder, key, path = content, None, []
    while isinstance(holder, dict | list) and holder:
        key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        path.append(str(key))
        if not isinstance(holder[key], dict | list) or not holder[key] or random.random() < 0.3:
            break
        holder = holder[key]
    value = random.choice([None, "", "text", "../../x", -1, 10**400, 1e308, True, [], {}, [[["x"]]], {"a": 1}, 0.5])
    if key is not None:
        holder[key] = value
    lines[place] = json.dumps(content, ensure_ascii=False)
    file.write_text("\n".join(lines) + "\n")
    return f"({'.'.join(path)} is {str(value)[:20]!r})"
