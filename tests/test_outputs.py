"""Where commands write: refused before the work if it cannot be, and one owner at a time."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cardiff import outputs
from cardiff.errors import UserError
from cardiff.outputs import LOCK, FolderLock, check_file, check_folder, owned

OWNER = """
import sys, time
from cardiff.outputs import FolderLock
lock = FolderLock(sys.argv[1])
print("locked", flush=True)
time.sleep(100)
"""


def test_folders_that_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "a/b/c", "new", "new/deeper", ".", "with spaces é"):
        check_folder("--output", folder)
    (tmp_path / "link").symlink_to(tmp_path)
    check_folder("--output", tmp_path / "link/new")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]  # nothing was made


def test_folders_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused = {
        "": "--output is empty: give a folder.",
        "  ": "--output is empty: give a folder.",
        "a\0b": "--output has a null character",
        "x" * 300: r"--output x{60}… cannot be a folder \(File name too long\): choose another name.",
        str(tmp_path / "file"): "cannot be written, since .*/file is a file: choose another folder.",
        str(tmp_path / "file/deeper"): "cannot be written, since .*/file is a file: choose another folder.",
        str(tmp_path / "broken"): "since .*/broken is a broken link: remove the link.",
        str(tmp_path / "broken/deeper"): "since .*/broken is a broken link: remove the link.",
        str(tmp_path / "loop"): "is a broken link",
    }
    for folder, sentence in refused.items():
        with pytest.raises(UserError, match=sentence):
            check_folder("--output", folder)


def test_a_name_that_leaves_no_room_for_the_unfinished_file(tmp_path):
    """Found before the work and not when the file is written."""
    with pytest.raises(UserError, match=r"x… cannot be a file \(File name too long\): choose another name"):
        check_file("--grid", "x" * 240 + ".png", [".png"])
    check_file("--grid", tmp_path / ("x" * 200 + ".png"), [".png"])


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: os.fspath(path) != str(tmp_path))  # root may do anything
    with pytest.raises(UserError, match="--output .*/new cannot be written: choose another folder"):
        check_folder("--output", tmp_path / "new")
    with pytest.raises(UserError, match="--grid .* cannot be written"):
        check_file("--grid", tmp_path / "a.png", [".png"])


def test_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.png").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for name in ("new.png", "old.png", "UPPER.PNG", "deep/new.png"):
        check_file("--grid", name, [".png"])
    refused = {
        "": "--grid is empty: give a file.",
        "grid": "--grid grid must end in .png: change the extension.",
        "grid.jpg": "must end in .png",
        ".png": "must end in .png",
        "folder.png": "is a folder: give a file.",
        "old.png/new.png": "since .*old.png is a file",
        "y" * 300 + ".png": "File name too long",
    }
    for name, sentence in refused.items():
        with pytest.raises(UserError, match=sentence):
            check_file("--grid", name, [".png"])


@pytest.fixture
def owner(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_owner_is_refused_and_told_who_the_first_is(owner, tmp_path):
    with pytest.raises(
        UserError, match=rf"run is in use by another command \(process {owner.pid} on .*, since .*\): "
    ):
        FolderLock(tmp_path / "run")
    FolderLock(tmp_path / "other").release()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    with FolderLock(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / LOCK).read_text()
    assert (tmp_path / "run" / LOCK).read_text() == ""


def test_another_name_of_the_folder_is_the_same_folder(owner, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(UserError, match="link is in use"):
        FolderLock(tmp_path / "link")
    (tmp_path / "mine").mkdir()
    (tmp_path / "to_mine").symlink_to(tmp_path / "mine")
    with FolderLock(tmp_path / "mine"), FolderLock(tmp_path / "to_mine"):
        pass


def test_a_released_folder_can_be_taken_by_another_process(tmp_path):
    lock = FolderLock(tmp_path)
    inner = FolderLock(tmp_path)  # by what this command calls
    inner.release()
    (tmp_path / "link").symlink_to(tmp_path)
    FolderLock(tmp_path / "link").release()
    code = f"from cardiff.outputs import FolderLock\nFolderLock({str(tmp_path)!r})"
    held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is in use by another command" in held.stderr
    lock.release()
    subprocess.run([sys.executable, "-c", code], check=True)
    lock.release()  # twice is once


def test_a_forked_worker_does_not_keep_the_folder(tmp_path):
    """A worker process outlives its killed parent for some seconds, in which the same command is started again."""
    code = (
        "import os, sys, time\nfrom cardiff.outputs import FolderLock\nlock = FolderLock(sys.argv[1])\n"
        "child = os.fork()\nif child == 0: time.sleep(100)\nprint(child, flush=True)\nos.kill(os.getpid(), 9)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.wait()
    try:
        time.sleep(0.1)
        os.kill(child, 0)  # it lives
        FolderLock(tmp_path).release()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_disk_without_locks_is_used_without(tmp_path, monkeypatch):
    def refuse(descriptor, mode):
        raise OSError(outputs.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(outputs.fcntl, "flock", refuse)
    FolderLock(tmp_path).release()


def test_a_folder_is_owned_while_a_command_works_on_it(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    for name in (".writing-a.json", ".removing-b.1/c"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of a killed command")
    code = f"from cardiff.outputs import FolderLock\nFolderLock({str(folder)!r})"
    with owned(folder):
        assert [path.name for path in folder.iterdir()] == [LOCK]
        held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "is in use by another command" in held.stderr
    assert folder.is_dir()  # it was there before
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_into_which_nothing_was_written_is_removed_again(tmp_path):
    with pytest.raises(UserError, match="refused"), owned(tmp_path / "new"):
        raise UserError("An option is refused.")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), owned(tmp_path / "new"):
        (tmp_path / "new/figure.png").write_text("x")
        raise KeyboardInterrupt
    assert (tmp_path / "new/figure.png").exists()
    with owned(tmp_path / "other", main=False):
        assert not (tmp_path / "other").exists()
