"""Files written aside: whole, or as before; no leftovers; checksums and permissions."""

import hashlib
import os
from pathlib import Path

import pytest

from cardiff.files import ASIDE, apply_folder_permissions, file_hash, remove, write_text, written_aside


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
