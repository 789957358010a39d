"""The features of real images on the disk: verified, computed again if damaged, shared by processes."""

import io
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from filelock import FileLock

from cardiff.errors import UserError
from cardiff.evaluation.features import cache
from cardiff.evaluation.features.cache import read_features, write_features
from cardiff.evaluation.protocol import Protocol
from cardiff.files import ASIDE, REMOVING
from cardiff.integrity import write_checksums

FEATURES, LOGITS = np.arange(12, dtype=np.float32).reshape(4, 3), np.ones((4, 2), np.float32)


@pytest.fixture
def entry(tmp_path):
    """A cached set of features with logits."""
    folder = tmp_path / "cache/features/abc"
    write_features(folder, FEATURES, LOGITS, {"key": "abc"})
    return folder


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    file.write_bytes(content)


def test_what_is_written_is_read(entry):
    features, logits = read_features(entry)
    np.testing.assert_array_equal(features, FEATURES)
    np.testing.assert_array_equal(logits, LOGITS)
    alone = entry.with_name("alone")
    write_features(alone, FEATURES, None, {})
    assert read_features(alone)[1] is None and read_features(entry.with_name("nothing")) is None


def test_damaged_features_are_computed_again(world, options, monkeypatch, tmp_path, caplog):
    """A single bit, noticed when another process opens them or they were changed since they were last verified."""
    monkeypatch.setenv("CARDIFF_CACHE", str(tmp_path / "cache"))
    reference = Protocol(options, 8, 1, 16).reference
    expected = np.array(reference.features)
    Protocol(options, 8, 1, 16)
    assert not caplog.text
    (file,) = (tmp_path / "cache").rglob("features.npy")
    flip(file, 8 * 1000)
    np.testing.assert_array_equal(Protocol(options, 8, 1, 16).reference.features, expected)
    assert "features.npy does not match its checksum), and are computed again" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(Protocol(options, 8, 1, 16).reference.features, expected)
    assert not caplog.text


@pytest.mark.parametrize("name", ["features.npy", "logits.npy", "meta.json", "checksums.json"])
def test_no_bit_is_flipped_unnoticed(name, entry):
    whole = (entry / name).read_bytes()
    for bit in range(0, 8 * len(whole), 37):
        flip(entry / name, bit)
        assert read_features(entry) is None
        (entry / name).write_bytes(whole)
    (entry / name).unlink()
    assert read_features(entry) is None


def header(shape) -> bytes:
    """Of an npy file with floats of this shape, and nothing more."""
    text = str({"descr": "<f4", "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def saved(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("features.npy", header((10**6, 10**6))),
        ("features.npy", header((10**15, 10**15))),
        ("features.npy", b""),
        ("features.npy", saved(np.array([[1, 2, 3], [np.nan, 1, 2], [1, 2, 3], [4, 5, 6]], np.float32))),
        ("features.npy", saved(np.zeros((3, 3), np.float32))),
        ("features.npy", saved(np.array([["a"]]))),
        ("logits.npy", saved(np.full((4, 2), np.inf, np.float32))),
        ("logits.npy", saved(np.zeros((3, 2), np.float32))),
        ("meta.json", b"[" * 100_000),
        ("meta.json", b"[]"),
        ("meta.json", b"{}"),
        ("meta.json", b'{"shape": [4, 4], "logits": false}'),
        ("meta.json", b'{"shape": NaN, "logits": false}'),
    ],
)
def test_features_of_anybody_are_computed_again(name, content, entry, caplog):
    """The checksums fit here."""
    (entry / name).write_bytes(content)
    write_checksums(entry)
    assert read_features(entry) is None
    assert "are damaged, or of an earlier version" in caplog.text


def test_features_of_an_earlier_version_are_computed_again(entry, caplog):
    (entry / "checksums.json").unlink()
    assert read_features(entry) is None and "of an earlier version (checksums.json is missing)" in caplog.text


def test_what_killed_processes_left_is_removed_unless_another_one_works_on_it(entry):
    for name in (f"{ASIDE}abc.1", f"{REMOVING}abc.2", f"{ASIDE}busy.3"):
        entry.with_name(name).mkdir()
    with FileLock(entry.with_name("busy.lock")):
        write_features(entry, FEATURES, None, {})
    left = sorted(path.name for path in entry.parent.iterdir() if not path.name.endswith(".lock"))
    assert left == [f"{ASIDE}busy.3", "abc"]


@pytest.mark.parametrize("when", ["save", "write_checksums"])
@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_a_cache_that_is_cleared_meanwhile_is_no_hindrance(when, error, entry, monkeypatch, caplog):
    def clear(*arguments):
        shutil.rmtree(entry.parent)
        raise error(2, "There is none, or there was one a moment ago")

    monkeypatch.setattr(cache.np if when == "save" else cache, when, clear)
    write_features(entry, FEATURES, None, {})
    assert "was cleared while features were written to it" in caplog.text and read_features(entry) is None


def test_a_file_in_the_place_of_the_cache_is_one_sentence(tmp_path):
    (tmp_path / "features").write_text("x")
    with pytest.raises(UserError, match="features cannot be written"):
        write_features(tmp_path / "features/abc", FEATURES, None, {})


def test_a_full_disk_is_one_sentence(entry, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.raises(UserError, match=r"The cache .* cannot be written \(No space left on device\): make room"):
        write_features(entry, FEATURES, None, {})
    np.testing.assert_array_equal(read_features(entry)[0], FEATURES)  # as it was
    assert sorted(path.name for path in entry.parent.iterdir()) == ["abc", "abc.lock"]


RACE = """
import random, shutil, sys, time
from pathlib import Path
import numpy as np
from cardiff.evaluation.features.cache import read_features, write_features

folder, seconds, what = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
features = np.random.default_rng(0).random((500, 64), dtype=np.float32)
end, reads = time.monotonic() + seconds, 0
while time.monotonic() < end:
    if what == "clear":
        shutil.rmtree(folder.parent, ignore_errors=True)
        time.sleep(random.random() / 50)
        continue
    found = read_features(folder)
    if found is not None:
        assert np.array_equal(found[0], features) and np.array_equal(found[1], features), "other features"
        reads += 1
    write_features(folder, features, features, {"key": "a"})
print(reads)
"""


def test_processes_build_and_clear_the_same_features_at_once(tmp_path):
    """None fails and none reads anything but the features; one of them is killed."""
    folder = tmp_path / "cache/features/abc"

    def start(what):
        command = [sys.executable, "-c", RACE, str(folder), "3", what]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    builders, others = [start("build") for _ in range(2)], [start("clear"), start("build")]
    try:
        others[1].communicate(timeout=1.5)
    except subprocess.TimeoutExpired:
        others[1].send_signal(signal.SIGKILL)
    for process in builders:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in err, err
    assert others[0].wait(timeout=60) == 0
    others[1].communicate()
    write_features(folder, FEATURES, None, {})
    np.testing.assert_array_equal(read_features(folder)[0], FEATURES)
    assert {path.name for path in folder.parent.iterdir()} <= {"abc", "abc.lock"}  # nothing of the killed one
