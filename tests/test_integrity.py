"""What is read: files that changed are found, once per modification, and JSON of any form is refused in a sentence."""

import json
import math
from pathlib import Path

import pytest

from cardiff import integrity
from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.integrity import (
    CHECKSUMS,
    check_model,
    find_damage,
    listed_files,
    read_json,
    read_json_as,
    write_checksums,
)

BAD_JSON = {
    "cut": (b'{"a": ', "is damaged"),
    "no text": (b"\xff\xfe\x00", "is damaged"),
    "empty": (b"", "is damaged"),
    "deep": (b"[" * 200_000 + b"]" * 200_000, "is nested too deeply"),
    "a list": (b"[1]", "must contain an object, not list"),
    "a string": (b'"../elsewhere"', "must contain an object, not str"),
    "null": (b"null", "must contain an object, not NoneType"),
    "NaN": (b'{"a": NaN}', "it contains NaN, which is not a finite number"),
    "infinite": (b'{"a": -Infinity}', "it contains -Infinity, which is not a finite number"),
    "too large a number": (b'{"a": 1e999}', "it contains 1e999, which is not finite"),
    "digits without end": (b'{"a": ' + b"9" * 100_000 + b"}", "is damaged"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_is_refused(content, reason, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=f"a.json .*{reason}") as error:
        read_json(tmp_path / "a.json")
    assert str(error.value).endswith(": copy or create it again.") and len(str(error.value)) < 500


def test_json_that_is_read(tmp_path):
    content = {"names": ["é", "日"], "nested": {"a": [1, 2.5, None, True, 1e-300]}}
    (tmp_path / "a.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert read_json(tmp_path / "a.json") == content
    (tmp_path / "a.json").write_text("[1, 2]")
    assert read_json_as(list, tmp_path / "a.json") == [1, 2]
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(integrity.LARGEST_JSON + 1)  # takes no room
    monkeypatch.setattr(Path, "read_text", None)
    with pytest.raises(UserError, match="a.json is larger than 64 MiB and was not read"):
        read_json(tmp_path / "a.json")


def test_a_folder_in_the_place_of_json(tmp_path):
    with pytest.raises(UserError, match="is damaged"):
        read_json(tmp_path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/weights.fp16.safetensors").write_bytes(bytes(1000))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("anybody's")
    write_checksums(tmp_path, leave_out=["README.md"])
    return tmp_path


def test_what_is_listed(folder):
    assert listed_files(folder).keys() == {"unet/weights.fp16.safetensors", "config.json"}
    assert find_damage(folder) is None
    (folder / "README.md").write_text("changed")
    (folder / "more.json").write_text("[]")
    assert find_damage(folder) is None
    check_model(folder)


@pytest.mark.parametrize("position", [0, 500, 999])
def test_a_flipped_bit(position, folder):
    check_model(folder)
    content = bytearray((folder / "unet/weights.fp16.safetensors").read_bytes())
    content[position] ^= 8
    (folder / "unet/weights.fp16.safetensors").write_bytes(content)
    assert find_damage(folder) == "unet/weights.fp16.safetensors does not match its checksum"
    with pytest.raises(UserError, match="is damaged .*safetensors does not match its checksum.*: copy, download"):
        check_model(folder)


def test_a_folder_without_checksums_is_taken_as_it_is(folder):
    (folder / CHECKSUMS).unlink()
    check_model(folder)
    assert find_damage(folder) == "checksums.json is missing"


def test_a_folder_that_was_downloaded_in_part(folder):
    (folder / "unet/weights.fp16.safetensors").unlink()
    assert find_damage(folder) == "unet/weights.fp16.safetensors is missing"
    assert find_damage(folder, partial=True) is None
    check_model(folder)


def test_a_file_is_hashed_once_per_modification(folder, monkeypatch):
    hashed = []
    monkeypatch.setattr(integrity, "file_hash", lambda file: (hashed.append(file.name), file_hash(file))[1])
    for _ in range(3):
        check_model(folder)
    assert sorted(hashed) == ["config.json", "weights.fp16.safetensors"]
    (folder / "config.json").write_text("{} ")
    assert find_damage(folder) is not None
    assert hashed[2:] == ["config.json"]


@pytest.mark.parametrize(
    "listed",
    ['{"../a.json": "x"}', '{"a.json": 1}', '{"a.pkl": "x"}', '{"a.json.exe": "x"}', '["a.json"]', '"a"', "{"],
)
def test_lists_that_are_not_ours(listed, folder):
    (folder / CHECKSUMS).write_text(listed)
    with pytest.raises(UserError, match="checksums.json"):
        listed_files(folder)
    with pytest.raises(UserError, match="is damaged"):
        check_model(folder)


def test_what_was_read_is_noted_for_other_processes(folder, monkeypatch):
    """Until the file is modified; a note that is damaged, or cannot be written, costs a reading and nothing else."""
    hashed = []
    monkeypatch.setattr(integrity, "file_hash", lambda file: (hashed.append(file.name), file_hash(file))[1])

    def reads() -> tuple:
        integrity._verified.clear()  # as another process
        hashed.clear()
        return find_damage(folder, remember=True), len(hashed)

    assert reads() == (None, 2) and reads() == (None, 0)
    (folder / "unet/weights.fp16.safetensors").write_bytes(bytes(999) + b"1")
    assert reads() == ("unet/weights.fp16.safetensors does not match its checksum", 1)
    (folder / "unet/weights.fp16.safetensors").write_bytes(bytes(1000))
    assert reads() == (None, 1) and reads() == (None, 0)
    (folder / integrity.VERIFIED).write_text("{")
    assert reads() == (None, 2)
    monkeypatch.setattr(integrity, "write_text", _full)
    (folder / integrity.VERIFIED).unlink()
    assert reads() == (None, 2) and reads() == (None, 2)


def _full(*arguments, **more):
    raise OSError(28, "No space left on device")


def test_infinite_numbers_where_they_may_be(tmp_path):
    """As the ends of the intervals of sample.py; NaN is no number anywhere."""
    (tmp_path / "a.json").write_text('{"interval": [-Infinity, 1e999], "one": 1.5}')
    assert read_json(tmp_path / "a.json", infinite=True) == {"interval": [-math.inf, math.inf], "one": 1.5}
    (tmp_path / "a.json").write_text('{"a": NaN}')
    with pytest.raises(UserError, match="it contains NaN, which is not a finite number"):
        read_json(tmp_path / "a.json", infinite=True)
