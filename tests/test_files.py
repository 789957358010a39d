"""Files written aside: whole, or as before; no leftovers; checksums and permissions."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cardiff import files
from cardiff.files import (
    ASIDE,
    REMOVING,
    append_text,
    apply_folder_permissions,
    copy_together,
    disk_errors,
    file_hash,
    remove,
    remove_leftovers,
    write_file,
    write_text,
    written_aside,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "log.txt"
    target.write_text("before")
    with written_aside(target) as aside:
        aside.write_text("half")
        assert target.read_text() == "before" and aside.name == f"{ASIDE}log.txt"
    assert target.read_text() == "half" and names(tmp_path) == ["log.txt"]


def test_a_folder_replaces_the_one_in_its_place(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("x")
    with written_aside(target) as aside:
        aside.mkdir()
        (aside / "new").write_text("y")
        assert names(target) == ["old"]
    assert names(target) == ["new"] and names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path, error):
    for name in ("file", "folder/part"):
        target = tmp_path / name.split("/")[0]
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
        with pytest.raises(type(error)), written_aside(target) as aside:
            if target.is_dir():
                aside.mkdir()
                (aside / "part").write_text("half")
            else:
                aside.write_text("half")
            raise error
        assert (tmp_path / name).read_text() == "before"
    assert names(tmp_path) == ["file", "folder"]


def test_what_a_killed_process_left_is_no_hindrance(tmp_path):
    (tmp_path / f"{ASIDE}model/deep").mkdir(parents=True)
    with written_aside(tmp_path / "model") as aside:
        aside.mkdir()
    assert names(tmp_path) == ["model"] and not names(tmp_path / "model")


def test_processes_do_not_share_a_path(tmp_path):
    with written_aside(tmp_path / "a.txt", per_process=True) as aside:
        assert aside.name == f"{ASIDE}a.txt.{os.getpid()}"
        aside.write_text("a")
    write_text(tmp_path / "b.txt", "ü\n", per_process=True)
    assert names(tmp_path) == ["a.txt", "b.txt"] and (tmp_path / "b.txt").read_text() == "ü\n"


def test_remove_follows_no_link_and_takes_what_does_not_exist(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    remove(tmp_path / "nothing")
    assert names(tmp_path) == ["kept"] and names(tmp_path / "kept") == ["file"]


def test_file_hash_is_sha256(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "data").write_bytes(content)
    assert file_hash(tmp_path / "data") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "folder, before, after",
    [(0o755, 0o600, 0o644), (0o750, 0o600, 0o640), (0o700, 0o600, 0o600), (0o700, 0o644, 0o644)],
)
def test_who_may_read_a_folder_may_read_its_file(tmp_path, folder, before, after):
    tmp_path.chmod(folder)
    file = tmp_path / "weights"
    file.write_text("x")
    file.chmod(before)
    apply_folder_permissions(file)
    assert file.stat().st_mode & 0o777 == after


WRITERS = {
    "text": ("a.txt", lambda path: path.write_text("x" * 100_000)),
    "numpy": ("a.npy", lambda path: np.save(path, np.zeros(100_000))),
    "safetensors": ("a.safetensors", lambda path: save_file({"w": torch.zeros(100_000)}, path)),
    "picture": ("a.png", lambda path: Image.fromarray(noise()).save(path)),
}


def noise():
    return np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_an_os_error_that_names_the_file(name, write, tmp_path, small_files):
    """Whichever library meets it, in its own words."""
    (tmp_path / name).write_text("before")
    with pytest.raises(OSError) as error:
        write_file(tmp_path / name, write)
    assert error.value.errno in (errno.EFBIG, errno.ENOSPC) and error.value.filename == str(tmp_path / name)
    assert names(tmp_path) == [name] and (tmp_path / name).read_text() == "before"


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(ValueError, match="^mine$"), disk_errors(tmp_path):
        raise ValueError("mine")
    with pytest.raises(OSError) as error, disk_errors(tmp_path):
        open(tmp_path / "nowhere")
    assert error.value.filename == str(tmp_path / "nowhere")
    with pytest.raises(OSError, match="^of no number$"), disk_errors(tmp_path):
        raise OSError("of no number")


def test_a_file_is_written_with_its_folder_and_the_format_of_its_name(tmp_path):
    write_file(tmp_path / "new/a.png", Image.new("L", (2, 2)).save)
    assert names(tmp_path / "new") == ["a.png"] and Image.open(tmp_path / "new/a.png").format == "PNG"


def test_text_is_added_whole_or_not_at_all(tmp_path, small_files):
    append_text(tmp_path / "log", "one\n")
    with pytest.raises(OSError) as error:
        append_text(tmp_path / "log", "x" * 10_000)
    assert error.value.filename == str(tmp_path / "log")
    assert (tmp_path / "log").read_text() == "one\n"
    append_text(tmp_path / "log", "é\n")
    assert (tmp_path / "log").read_text() == "one\né\n"


def test_files_are_copied_together(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, content in ((source, "new"), (target, "old")):
        (folder / "deep").mkdir(parents=True)
        for name in ("a", "deep/b"):
            (folder / name).write_text(content)
    copies = [source / "a", source / "deep/b"]
    replaced = []
    monkeypatch.setattr(os, "replace", lambda a, b, replace=os.replace: (replaced.append(b), replace(a, b)))
    (source / "c").mkdir()
    with pytest.raises(IsADirectoryError):
        copy_together([*copies, source / "c"], source, target)
    assert not replaced and (target / "a").read_text() == "old" and names(target) == ["a", "deep"]
    copy_together(copies, source, target)
    assert [(target / name).read_text() for name in ("a", "deep/b")] == ["new", "new"]
    assert names(target / "deep") == ["b"]


def test_a_kill_while_a_folder_is_replaced_leaves_no_half_of_it(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old").write_text("x")

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "remove", lambda path: None if path.name.startswith(ASIDE) else killed(path))
    with pytest.raises(KeyboardInterrupt), written_aside(tmp_path / "model") as aside:
        aside.mkdir()
        (aside / "new").write_text("y")
    assert names(tmp_path / "model") == ["new"]
    monkeypatch.undo()
    assert names(tmp_path) == [f"{REMOVING}model.{os.getpid()}", "model"]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["model"]


RACE = """
import os, sys, time
from pathlib import Path
from cardiff.files import written_aside

target, end = Path(sys.argv[1]), time.monotonic() + 1.5
while time.monotonic() < end:
    with written_aside(target, per_process=True) as aside:
        aside.mkdir()
        for name in "ab":
            (aside / name).write_text(str(os.getpid()))
"""


def test_processes_replace_the_same_folder_at_once(tmp_path):
    """None fails, and the folder is that of one of them."""
    command = [sys.executable, "-c", RACE, str(tmp_path / "folder")]
    racers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for racer in racers:
        assert racer.communicate(timeout=60) == (None, "") and racer.returncode == 0
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["a", "b"]
    assert (tmp_path / "folder/a").read_text() == (tmp_path / "folder/b").read_text()


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old").write_text("x")
    replace = os.replace

    def stopped(source, target):
        if Path(source).name.startswith(ASIDE):
            raise KeyboardInterrupt  # between the two renames
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt), written_aside(tmp_path / "model") as aside:
        aside.mkdir()
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["old"]
