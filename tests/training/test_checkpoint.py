"""Checkpoints appear whole or not at all, damage is found, and old ones go when they should."""

import json
import shutil

import pytest
import torch

from cardiff.errors import UserError
from cardiff.files import remove_leftovers
from cardiff.hub.serialization import load_pipeline, save_pipeline
from cardiff.integrity import CHECKSUMS, check_model, find_damage, listed_files
from cardiff.training import checkpoint as checkpoints
from cardiff.training.checkpoint import good_checkpoints, list_checkpoints, read_tensors, save_tensors
from tests.support.tiny_models import tiny_pipeline


def fill(folder):
    save_tensors({"w": torch.arange(6.0).reshape(2, 3)}, folder / "training" / "unet.safetensors")
    (folder / "config.json").write_text('{"a": 1}')


def steps(root):
    return [checkpoints.step_of(path) for path in list_checkpoints(root)]


def everything(root):
    return sorted(path.name for path in root.iterdir())


@pytest.fixture
def root(tmp_path):
    """Checkpoints of the steps 10, 20 and 30."""
    for step in (10, 20, 30):
        checkpoints.write_checkpoint(tmp_path, step, fill)
    return tmp_path


def test_write_and_verify(root):
    path = checkpoints.write_checkpoint(root, 40, fill)
    assert path == checkpoints.checkpoint_dir(root, 40) and path.name == "step-00000040"
    assert steps(root) == [10, 20, 30, 40] and everything(root)[-1] == "step-00000040" and len(everything(root)) == 4
    assert find_damage(path) is None
    recorded = json.loads((path / CHECKSUMS).read_text())
    assert recorded.keys() == {"training/unet.safetensors", "config.json"}
    tensors = dict(read_tensors(path / "training/unet.safetensors"))
    torch.testing.assert_close(tensors, {"w": torch.arange(6.0).reshape(2, 3)}, rtol=0, atol=0)


def test_a_checkpoint_is_not_there_before_it_is_whole(root):
    def look(folder):
        fill(folder)
        assert steps(root) == [10, 20, 30]

    checkpoints.write_checkpoint(root, 40, look)


def test_steps_sort_as_numbers(tmp_path):
    for step in (99_999_999, 100_000_000, 5):
        checkpoints.write_checkpoint(tmp_path, step, fill)
    assert steps(tmp_path) == [5, 99_999_999, 100_000_000]


def test_no_checkpoints_at_all(tmp_path):
    assert list_checkpoints(tmp_path / "nowhere") == []
    assert list(good_checkpoints(tmp_path, print)) == []


def flip_one_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped byte": (lambda p: flip_one_byte(p / "training/unet.safetensors"), "does not match its checksum"),
    "truncated": (lambda p: (p / "config.json").write_text('{"a": '), "config.json does not match its checksum"),
    "deleted": (lambda p: (p / "training/unet.safetensors").unlink(), "training/unet.safetensors is missing"),
    "folder deleted": (lambda p: shutil.rmtree(p / "training"), "training/unet.safetensors is missing"),
    "no checksums": (lambda p: (p / "checksums.json").unlink(), "checksums.json is missing"),
    "cut checksums": (lambda p: (p / "checksums.json").write_text('{"conf'), ""),
    "no dictionary": (lambda p: (p / "checksums.json").write_text("[]"), ""),
    "binary checksums": (lambda p: (p / "checksums.json").write_bytes(b"\xff\xfe\x00"), ""),
    "folder for file": (lambda p: ((p / "config.json").unlink(), (p / "config.json").mkdir()), ""),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_the_one_before_used(damage, reason, root):
    damage(root / "step-00000030")
    reports = []
    assert [path.name for path in good_checkpoints(root, reports.append)] == ["step-00000020", "step-00000010"]
    assert len(reports) == 1 and reports[0].endswith("trying the previous one.")
    assert "step-00000030 is damaged (" in reports[0] and reason in reports[0]


def test_all_damaged(root):
    for path in list_checkpoints(root):
        flip_one_byte(path / "config.json")
    reports = []
    assert next(good_checkpoints(root, reports.append), None) is None
    assert len(reports) == 3


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_others_and_nothing_else(error, root):
    def fail(folder):
        fill(folder)
        raise error

    with pytest.raises(type(error)):
        checkpoints.write_checkpoint(root, 40, fail)
    assert everything(root) == ["step-00000010", "step-00000020", "step-00000030"]
    assert all(find_damage(path) is None for path in list_checkpoints(root))


def test_a_failed_rewrite_leaves_the_old_one(root):
    def fail(folder):
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        checkpoints.write_checkpoint(root, 30, fail)
    assert find_damage(root / "step-00000030") is None


def test_a_damaged_one_is_replaced(root):
    flip_one_byte(root / "step-00000030/config.json")
    (root / "step-00000030/stray").write_text("x")
    checkpoints.write_checkpoint(root, 30, fill)
    assert find_damage(root / "step-00000030") is None
    assert not (root / "step-00000030/stray").exists()


@pytest.mark.parametrize(
    ("newest", "every", "kept"),
    [
        (2, 0, [60, 70]),
        (1, 0, [70]),
        (2, 20, [20, 40, 60, 70]),
        (1, 30, [30, 60, 70]),
        (9, 0, [10, 20, 30, 40, 50, 60, 70]),
        (7, 50, [10, 20, 30, 40, 50, 60, 70]),
    ],
)
def test_prune(newest, every, kept, tmp_path):
    for step in range(10, 80, 10):
        checkpoints.write_checkpoint(tmp_path, step, fill)
    checkpoints.prune(tmp_path, newest, every)
    assert steps(tmp_path) == kept
    assert len(everything(tmp_path)) == len(kept)


def test_the_one_that_is_being_uploaded_is_left_for_the_next_time(root):
    used = checkpoints.checkpoint_dir(root, 10)
    checkpoints.prune(root, 1, 0, in_use=used)
    assert steps(root) == [10, 30] and find_damage(used) is None
    checkpoints.prune(root, 1, 0)
    assert steps(root) == [30]


def test_the_newest_in_a_folder(tmp_path):
    """Of a run's folder, of its checkpoints, or the checkpoint itself; a run's leftovers count for nothing."""
    made = [checkpoints.write_checkpoint(tmp_path / "run/checkpoints", step, fill) for step in (90, 100)]
    for folder in (tmp_path / "run", tmp_path / "run/checkpoints", made[1]):
        assert checkpoints.newest_in(folder) == made[1]
    assert checkpoints.newest_in(made[0]) == made[0]
    with pytest.raises(UserError, match="contains no checkpoint: give the output folder of a training run"):
        checkpoints.newest_in(tmp_path)


def test_the_run_of_a_model(tmp_path):
    for model in ("run", "run/best", "run/checkpoints/step-00000100"):
        assert checkpoints.run_of(tmp_path / model) == (tmp_path / "run").resolve()
    assert checkpoints.run_of(tmp_path / "run/other") == (tmp_path / "run/other").resolve()


def test_only_the_model_is_published(root, tmp_path):
    """Not the training state, and checksums of what is; an older file gives way."""
    (tmp_path / "out/unet").mkdir(parents=True)
    (tmp_path / "out/config.json").write_text("old")
    (tmp_path / "out/config.yaml").write_text("kept")
    checkpoints.publish(checkpoints.checkpoint_dir(root, 30), tmp_path / "out")
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"config.json", "config.yaml", "checksums.json"}
    assert (tmp_path / "out/config.json").read_text() == '{"a": 1}'
    assert find_damage(tmp_path / "out") is None and listed_files(tmp_path / "out").keys() == {"config.json"}


@pytest.mark.parametrize("failing", ["config.json", "other.json"])
def test_the_root_is_never_of_two_steps(failing, root, tmp_path, monkeypatch):
    """A disk that is full when the first or the last file is copied leaves the earlier model."""

    def two_files(folder):
        for name in ("config.json", "other.json"):
            (folder / name).write_text(f'"{folder.name[-2:]}"')

    for step in (50, 60):
        checkpoints.write_checkpoint(tmp_path, step, two_files)
    out = tmp_path / "out"
    out.mkdir()
    checkpoints.publish(checkpoints.checkpoint_dir(tmp_path, 50), out)
    copy = shutil.copyfile

    def full(source, target):
        if source.name == failing:
            raise OSError(28, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left on device: .*" + failing):
        checkpoints.publish(checkpoints.checkpoint_dir(tmp_path, 60), out)
    assert {path.name: path.read_text() for path in out.glob("*r.json")} == {"other.json": '"50"'}
    assert find_damage(out) is None and everything(out) == ["checksums.json", "config.json", "other.json"]


def test_a_kill_between_two_files_of_the_root_is_told(root, tmp_path):
    checkpoints.publish(checkpoints.checkpoint_dir(root, 30), tmp_path / "out")
    (tmp_path / "out/config.json").write_text('{"a": 2}')  # of the next step, whose checksums.json never came
    with pytest.raises(UserError, match=r"out is damaged \(config.json does not match its checksum\): copy, download"):
        check_model(tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["../evil.json", "unet/model.bin", "a/b/c.json", "/etc/passwd.json", "config.json.py2"]
)
def test_names_that_no_checkpoint_has(name, root):
    path = checkpoints.checkpoint_dir(root, 30)
    (path / CHECKSUMS).write_text(json.dumps({"config.json": "0", name: "0"}))
    with pytest.raises(UserError, match="which Cardiff never writes"):
        listed_files(path)


def test_leftovers_are_never_checkpoints_and_are_removed(root):
    for name in (".writing-step-00000040", ".removing-step-00000005"):
        (root / name).mkdir()
        fill(root / name)
    (root / "step-5").mkdir()  # someone else's
    assert steps(root) == [10, 20, 30]
    remove_leftovers(root)
    assert everything(root) == ["step-00000010", "step-00000020", "step-00000030", "step-5"]


def test_a_killed_write_does_not_stop_the_next(root):
    (root / ".writing-step-00000040").mkdir()
    (root / ".writing-step-00000040/half").write_text("x")
    path = checkpoints.write_checkpoint(root, 40, fill)
    assert find_damage(path) is None and not (path / "half").exists()


def test_a_pipeline_with_training_state_holds_nothing_to_unpickle(tmp_path):
    def whole(folder):
        save_pipeline(tiny_pipeline(), folder)
        fill(folder)

    path = checkpoints.write_checkpoint(tmp_path, 1, whole)
    suffixes = {file.suffix for file in path.rglob("*") if file.is_file()}
    assert suffixes == {".json", ".safetensors", ".py"}
    load_pipeline(path)
    assert find_damage(path) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_tensors_keep_their_bits(dtype, tmp_path):
    scalar, strided = torch.tensor(3).to(dtype), torch.arange(12).reshape(3, 4).to(dtype).t()
    tensors = {"a/step": scalar, "b": strided, "c": torch.nn.Parameter(torch.ones(2))}
    save_tensors(tensors, tmp_path / "new" / "t.safetensors")
    loaded = dict(read_tensors(tmp_path / "new" / "t.safetensors"))
    torch.testing.assert_close(loaded, {k: v.detach() for k, v in tensors.items()}, rtol=0, atol=0)


def test_an_unwritable_tensor_file_is_an_os_error(tmp_path):
    (tmp_path / "t.safetensors").mkdir()
    with pytest.raises(OSError):
        save_tensors({"w": torch.ones(2)}, tmp_path / "t.safetensors")
