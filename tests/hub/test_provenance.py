"""What a model's record says of where it was made: of paths the last part, of addresses no secret, of the rest all."""

import json

import pytest

from cardiff.errors import UserError
from cardiff.hub.provenance import RUN_RECORD, public_name, read_record, without_paths, write_record

RECORD = {
    **{"kind": "conditional", "step": 6, "images_seen": 384},
    "config": {
        "data": {"path": "/home/someone/cats", "split": "train", "cache_dir": "/scratch/someone"},
        "scheduler": {"name": "cosine"},
        "train": {"batch_size": 64},
    },
}


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("cifar10", "cifar10"),
        ("owner/cats", "owner/cats"),
        ("train[:90%]", "train[:90%]"),
        ("/home/someone/cats", "cats"),
        ("~/cats/images", "images"),
        ("../someone/cats", "cats"),
        ("C:\\Users\\someone\\cats", "cats"),
        ("here/cats", "cats"),  # a folder that exists
        ("https://someone:secret@example.org:8443/cats.zip?token=secret", "https://example.org/cats.zip"),
        ("x" * 5000, "x" * 5000),  # too long for a path
    ],
)
def test_public_names(text, public, tmp_path, monkeypatch):
    (tmp_path / "here/cats").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name(text) == public


def test_paths_are_cut_at_every_depth():
    config = {
        "data": {"path": "/home/someone/cats", "data_files": ["/home/someone/a.parquet", "b.parquet"]},
        "train": {"steps": 10, "trackers": [], "resume": None, "rate": 1e-4},
        "cache_dir": "/scratch/someone",
    }
    config["data"]["cache_dir"] = "/scratch/someone"
    assert without_paths(config) == {
        "data": {"path": "cats", "data_files": ["a.parquet", "b.parquet"]},
        "train": {"steps": 10, "trackers": [], "resume": None, "rate": 1e-4},
    }


def test_a_record_is_read_without_what_others_need_not_know(tmp_path):
    """Also one that was written with it, by hand or by another version."""
    assert read_record(tmp_path) is None
    write_record(tmp_path, RECORD)
    assert "someone" in (tmp_path / RUN_RECORD).read_text()
    record = read_record(tmp_path)
    assert record["config"]["data"] == {"path": "cats", "split": "train"}
    assert {key: record[key] for key in ("kind", "step", "images_seen")} == {
        **{"kind": "conditional", "step": 6, "images_seen": 384}
    }


@pytest.mark.parametrize(
    "damage",
    [{"kind": "sculpture"}, {"step": 6.5}, {"images_seen": None}, {"config": {**RECORD["config"], "train": {}}}],
)
def test_damaged_records(damage, tmp_path):
    (tmp_path / RUN_RECORD).write_text(json.dumps({**RECORD, **damage}))
    with pytest.raises(UserError, match="run.json is damaged or was not written by this project .*: copy it again"):
        read_record(tmp_path)
