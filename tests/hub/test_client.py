"""A Hub that fails, refuses or is hostile: a server on the loopback address, the client of huggingface_hub itself."""

import json
import warnings

import pytest
from huggingface_hub import constants

from cardiff.errors import UserError
from cardiff.hub import client
from cardiff.hub.serialization import find_model, load_pipeline
from cardiff.training import checkpoint as checkpoints
from tests.support.pushed import PIPELINE_FILES, push
from tests.support.tiny_models import NAMES


def test_a_private_repository_is_private_from_its_first_moment(hub, folder):
    push(folder, hub_private=True)
    created = next(json.loads(r.body) for r in hub.requests if r.path == "/api/repos/create")
    assert created["visibility"] == "private" and hub.repositories["user/model"].private
    hub.clear()
    push(folder, hub_private=True)  # again
    hub.add("user/open", {})
    with pytest.raises(UserError, match="user/open exists and is public: make it private"):
        push(folder, "user/open", hub_private=True)
    assert hub.repositories["user/open"].files() == {}


def test_without_a_token_nothing_is_asked(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    with pytest.raises(UserError, match="no token for the Hub: run `hf auth login`"):
        push(folder)
    assert not hub.requests


COMMIT = "POST /api/models/user/model/commit"
PASSING = {
    "busy": (COMMIT, 500),
    "rate limit": (COMMIT, 429),
    "somebody else's commit": (COMMIT, 412),
    "conflict": (COMMIT, 409),
    "lost answer": ("POST /api/models/user/model/preupload", 503),
    "broken upload": ("PUT /lfs/", "cut"),
    "broken commit": (COMMIT, "cut"),
    "silence": (COMMIT, "hang"),
    "busy at the start": ("POST /api/repos/create", 500),
}


@pytest.mark.parametrize(("what", "fault"), PASSING.values(), ids=PASSING)
def test_a_passing_fault_is_overcome(what, fault, hub, folder, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", 0.5)
    hub.fail(what, fault, times=2)
    push(folder)
    assert PIPELINE_FILES <= set(hub.repositories["user/model"].files())
    assert hub.faults[0].left == 0


LASTING = {
    "token refused": ("POST", 401, "does not accept the token .401.: run `hf auth login` again"),
    "no right": (COMMIT, 403, "lacks permission .403.: use one with write access"),
    "no right to create": ("repos/create|GET /api/models", 403, "lacks permission .403."),
    "out of order": (COMMIT, 500, "returned an error .500."),
    "rate limit": ("preupload", 429, "is rate limiting .429."),
    "conflict": (COMMIT, 409, "another commit to it is in progress .409."),
    "cut": ("PUT /lfs/", "cut", "cannot be reached, or the connection was lost"),
    "silence": (COMMIT, "hang", "did not answer in time"),
}


@pytest.mark.parametrize(("what", "fault", "sentence"), LASTING.values(), ids=LASTING)
def test_a_lasting_fault_is_one_sentence(what, fault, sentence, hub, folder, monkeypatch, caplog):
    monkeypatch.setattr(client, "TIMEOUT", 0.3)
    hub.add("user/model", {"old": b"1"})
    hub.fail(what, fault, times=float("inf"))
    with pytest.raises(UserError, match=sentence) as error:
        push(folder)
    assert "\n" not in str(error.value) and "hf_writer" not in str(error.value) + caplog.text
    assert hub.repositories["user/model"].files() == {"old": b"1"}  # a commit is whole or not at all


def test_a_token_that_may_only_read_and_one_that_is_unknown(hub, folder, monkeypatch):
    for token, sentence in (("hf_reader", "403"), ("hf_stranger", "401")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError, match=sentence) as error:
            push(folder)
        assert token not in str(error.value)


@pytest.mark.parametrize(("fault", "sentence"), [("cut", "the connection was lost"), (500, ".500."), (403, ".403.")])
def test_a_download_that_fails_is_one_sentence(fault, sentence, hub, folder):
    push(folder)
    hub.fail("GET /user/model/resolve|GET /api/models", fault, times=float("inf"))
    with pytest.raises(UserError, match=sentence) as error:
        find_model("user/model")
    assert "\n" not in str(error.value)


def test_a_private_model_needs_its_token(hub, folder, monkeypatch):
    push(folder, hub_private=True)
    assert load_pipeline(find_model("user/model")).id2label == NAMES
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "empty"))
    with pytest.raises(UserError, match="user/model is neither a folder nor a Hub repository that can be read"):
        find_model("user/model")


def test_a_hostile_repository_achieves_nothing(hub, folder, tmp_path, monkeypatch):
    """Names that climb out, pickles, an index of them and source files are not even fetched."""
    marker = tmp_path / "executed"
    good = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    bomb = f"open({str(marker)!r}, 'w')".encode()
    hostile = dict.fromkeys(("../../../outside.json", "unet/../../up.json", "unet/x.safetensors", "a.py"), bomb)
    hostile |= {"unet/diffusion_pytorch_model.safetensors.index.json": b"{}", "unet/model.bin": bomb}
    hub.add("user/evil", {**good, **hostile, "pipeline_class_conditional.py": bomb})
    snapshot = find_model("user/evil")
    assert load_pipeline(snapshot).id2label == NAMES
    fetched = {p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()}
    assert fetched == {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json"} | {
        "unet/diffusion_pytorch_model.safetensors"
    }
    sums = json.dumps({"../../outside.json": "0", "training/state.json": "0"}).encode()
    hub.add("user/state", {"step-00000001/checksums.json": sums, "step-00000001/../outside.json": bomb})
    with pytest.raises(
        ValueError, match="--resume_from user/state: step-00000001 is damaged .*which Cardiff never writes"
    ):
        client.download_checkpoint("user/state")
    assert not [p for p in tmp_path.rglob("*") if p.name in ("outside.json", "up.json")] and not marker.exists()


def checkpoint_of(folder, step):
    """A checkpoint of one small file."""

    def fill(aside):
        (aside / "training").mkdir()
        (aside / "training" / "state.json").write_text(str(step))

    return checkpoints.write_checkpoint(folder, step, fill)


def test_a_checkpoint_replaces_those_before_it_and_itself(hub, tmp_path):
    hub.add("user/state", {"README.md": b"mine"})
    for step in (1, 2, 2):
        checkpoint = checkpoint_of(tmp_path, step)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a commit that removes what it adds
            client.push_checkpoint(checkpoint, "user/state", client.Order(None, step))
    there = hub.repositories["user/state"].files()
    assert set(there) == {"README.md", "step-00000002/checksums.json", "step-00000002/training/state.json"}


def test_of_several_checkpoints_the_newest_is_taken(hub, tmp_path):
    files = {}
    for step in (9, 10, 2):
        checkpoint = checkpoint_of(tmp_path, step)
        files |= {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in checkpoint.rglob("*") if p.is_file()}
    hub.add("user/state", files)
    found = client.download_checkpoint("user/state")
    assert found.name == "step-00000010" and (found / "training/state.json").read_text() == "10"


def test_a_revision_is_downloaded(hub, folder):
    push(folder, hub_revision="small")
    main = hub.repositories["user/model"].files()
    assert "model_index.json" not in main  # all is on the branch
    assert load_pipeline(find_model("user/model", "small")).id2label == NAMES
    with pytest.raises(UserError, match="it has no such revision"):
        find_model("user/model", "large")
