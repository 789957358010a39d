"""Measurements that are stopped, that meet a full disk, or another command in their folder."""

import json
import resource
import signal
import subprocess
import sys
import time

import pytest

import analyze_schedules
import compare
import demo
import evaluate
from cardiff.files import ASIDE, REMOVING
from cardiff.outputs import LOCK
from tests.conftest import ROOT

MEASURED = ["--network", "pixels", "--metrics", "fid,kid", "--replicates", 5, "--num_images", 24, "--batch_size", 8]
DIGITS = ["--data.path", "parquet", "--data.data_files", ROOT / "data/digits.parquet", "--data.resolution", 8]
DIGITS += ["--data.channels", 1, "--schedules", "linear", "--num_train_timesteps", 20]
DIGITS += ["--steps", 5, "--max_images", 40]


def arguments_of(command, world, output) -> list[str]:
    """A short measurement of each kind."""
    reference = ["--reference", world["train"], *MEASURED, "--output", output]
    arguments = {
        evaluate: [
            "--model",
            world["model"],
            "--steps",
            2,
            *reference,
            "--export_reference",
            output / "s.safetensors",
        ],
        compare: [world["model"], "--steps", 2, "--guidance_scale", "1,2", *reference],
        analyze_schedules: [*DIGITS, "--output", output],
        demo: ["--output_dir", output],
    }
    return [str(argument) for argument in arguments[command]]


def results(folder) -> dict[str, bytes]:
    """Every file of a folder but those that begin with a dot."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in files.items() if not name.name.startswith(".")}


def leftovers(folder) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name.startswith((ASIDE, REMOVING))]


def refused(command, arguments, capsys) -> str:
    """What a command says that ends with one sentence."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_of:
        command.main(arguments)
    said = capsys.readouterr().err
    assert exit_of.value.code == 1 and "Traceback" not in said and said.count("error: ") == 1
    return said.rpartition("error: ")[2]


@pytest.mark.parametrize(
    ("command", "moments"), [(evaluate, 4), (compare, 2), pytest.param(analyze_schedules, 3, marks=pytest.mark.slow)]
)
def test_a_full_disk_at_any_moment(command, moments, world, tmp_path, monkeypatch, capsys):
    """Whichever file does not fit: one sentence, nothing torn, and the same command goes on once there is room."""
    monkeypatch.setenv("CARDIFF_CACHE", str(tmp_path / "whole_cache"))
    command.main(arguments_of(command, world, tmp_path / "whole"))
    expected = results(tmp_path / "whole")
    written = [path for folder in ("whole", "whole_cache") for path in (tmp_path / folder).rglob("*")]
    sizes = sorted({path.stat().st_size for path in written if path.is_file() and path.name != LOCK})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sentences = set()
    for number, size in enumerate(sizes[1 :: len(sizes) // moments]):
        output = tmp_path / f"output{number}"
        arguments = arguments_of(command, world, output)
        monkeypatch.setenv("CARDIFF_CACHE", str(tmp_path / f"cache{number}"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))
        try:
            sentences.add(refused(command, arguments, capsys))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not leftovers(tmp_path)
        found = results(output) if output.exists() else {}
        assert all(expected[name].startswith(data) for name, data in found.items())  # of trials.jsonl the beginning
        command.main(arguments)
        assert results(output) == expected
    signal.signal(signal.SIGXFSZ, ignored)
    assert len(sentences) > 1 and all("File too large" in said or "cannot be written" in said for said in sentences)


@pytest.mark.parametrize("command", [evaluate, compare, analyze_schedules, demo])
def test_the_second_command_in_a_folder_is_refused(command, world, tmp_path, capsys):
    code = (
        f"from cardiff.outputs import FolderLock\nlock = FolderLock({str(tmp_path)!r})\nprint(1, flush=True)\ninput()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as owner:
        assert owner.stdout.readline() == "1\n"
        said = refused(command, arguments_of(command, world, tmp_path), capsys)
        assert f"{tmp_path} is in use by another command (process {owner.pid}" in said
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        owner.communicate("\n")


@pytest.mark.parametrize("command", [evaluate, compare, analyze_schedules, demo])
@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("", "is empty: give a folder."),
        ("x" * 300, "(File name too long): choose another name."),
        ("setup.cfg", "setup.cfg is a file: choose another folder."),
        ("setup.cfg/deeper", "setup.cfg is a file: choose another folder."),
    ],
)
def test_outputs_are_checked_before_the_work(command, output, sentence, world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = arguments_of(command, world, tmp_path)
    place = arguments.index("--output_dir" if command is demo else "--output") + 1
    arguments[place : place + 1] = [output]
    said = refused(command, arguments, capsys)
    assert said.startswith("--output") and sentence in said


def test_what_killed_commands_left_is_removed_by_the_next(world, tmp_path):
    for name in (f"{ASIDE}report.md", f"{ASIDE}samples.png.123", f"{REMOVING}images.5/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    evaluate.main(arguments_of(evaluate, world, tmp_path))
    assert not leftovers(tmp_path) and (tmp_path / "report.md").exists()


def begun(process, folder, pattern) -> None:
    """Wait until there is such a file."""
    end = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("command", "number", "pattern"),
    [(evaluate, signal.SIGTERM, "images/*/*.png"), (compare, signal.SIGINT, "trials.jsonl")],
)
def test_a_stopped_measurement_goes_on(command, number, pattern, world, tmp_path, launch):
    """With the status of the signal, no traceback, and nothing lost or drawn twice."""
    output = tmp_path / "stopped"
    arguments = arguments_of(command, world, output)
    arguments[arguments.index("24")] = "120"
    process = launch(f"{command.__name__}.py", *arguments, wait=False)
    begun(process, output, pattern)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert err.rstrip().endswith(f"Stopped by {number.name}.") and "Traceback" not in err and "Look at" not in out
    assert not leftovers(output) and not (output / "report.md").exists()
    kept = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    assert kept
    command.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    whole = tmp_path / "whole"
    command.main([str(whole) if argument == str(output) else argument for argument in arguments])
    name = "metrics.json" if command is evaluate else "comparison.json"
    assert json.loads((output / name).read_text())["protocol"] == json.loads((whole / name).read_text())["protocol"]
    assert (output / "report.md").read_text() == (whole / "report.md").read_text()
