"""Exported statistics: all metrics but memorisation from one file, whose damage is one sentence."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from cardiff.errors import UserError
from cardiff.evaluation.features.extraction import RealImages
from cardiff.evaluation.features.networks import load_network
from cardiff.evaluation.features.statistics import DIGEST, RECORD, export_reference, import_reference


@pytest.fixture
def network():
    return load_network("pixels", device=torch.device("cpu"))


@pytest.fixture
def real(network):
    features = np.random.default_rng(0).random((7, 3), dtype=np.float32)
    data = {"path": "café", "split": "train", "images": 7, "resolution": 8, "channels": 1}
    record = {"data": data, "network": network.record, "key": "abc"}
    return RealImages(features, None, np.arange(7) % 3 - 1, ["ant", "bee"], record)


@pytest.fixture
def file(real, tmp_path):
    export_reference(real, tmp_path / "new/statistics.safetensors", with_features=True)
    return tmp_path / "new/statistics.safetensors"


def content(file):
    with safe_open(file, "np") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()


def test_what_is_exported_is_imported(real, file, network, caplog):
    found = import_reference(file, network)
    np.testing.assert_array_equal(found.features, real.features)
    np.testing.assert_array_equal(found.labels, real.labels)
    np.testing.assert_array_equal(found.gaussian.covariance, real.gaussian.covariance)
    assert (found.class_names, found.record, found.count) == (real.class_names, real.record, 7)
    assert not caplog.text and [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.stat().st_mode & 0o044  # as the folder, and not for the owner alone


def test_a_bit_anywhere_is_one_sentence_or_nothing(file, network, real, tmp_path, caplog):
    whole, damaged = file.read_bytes(), tmp_path / "damaged.safetensors"
    for bit in range(0, 8 * len(whole), 7):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(content)
        try:
            found = import_reference(damaged, network)
        except UserError:
            continue
        assert found.record == real.record and (found.features == real.features).all()  # such as \u00E9 for \u00e9


def test_a_part_that_is_zero_or_missing_is_one_sentence(file, network):
    whole = file.read_bytes()
    for damaged in (whole[:-100] + bytes(100), whole[:100], whole[:-1], b"", bytes(1000), b"\xff" * 1000):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="does not match its checksum|cannot be read as reference statistics"):
            import_reference(file, network)


def test_a_file_of_an_earlier_version_is_read(file, network, real, caplog):
    tensors, metadata = content(file)
    record = json.loads(metadata[RECORD])
    digest = record.pop(DIGEST)
    save_file(tensors, file, {RECORD: json.dumps(record)})
    np.testing.assert_array_equal(import_reference(file, network).features, real.features)
    assert "was exported by an earlier version, without a checksum" in caplog.text
    save_file(tensors, file, {RECORD: json.dumps({**record, "sha257": digest})})  # a flipped bit
    with pytest.raises(UserError, match="is damaged"):
        import_reference(file, network)


def few(found, record):
    """Statistics alone, of one image."""
    record["data"].update(images=1)
    for name in ("features", "labels"):
        del found[name]


def changed(**tensors):
    return lambda found, record: found.update(tensors)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (changed(mean=np.full(3, np.nan)), "do not fit each other or are no numbers"),
        (changed(mean=np.zeros(2)), "do not fit each other"),
        (changed(covariance=np.full((3, 3), np.inf)), "are no numbers"),
        (changed(covariance=np.zeros((3, 4))), "do not fit each other"),
        (changed(features=np.zeros((6, 3), np.float32)), "do not fit each other"),
        (changed(features=np.full((7, 3), np.nan, np.float32)), "are no numbers"),
        (changed(labels=np.zeros(7)), "do not fit each other"),
        (changed(labels=np.full(7, 2)), "labels of classes that it does not name"),
        (changed(labels=np.full(7, -2)), "labels of classes that it does not name"),
        (changed(surprise=np.zeros(3)), "do not fit each other"),
        (lambda found, record: found.pop("covariance"), "does not contain reference statistics"),
        (lambda found, record: record.pop("data"), "does not say of which data"),
        (lambda found, record: record.pop("key"), "does not say of which data"),
        (lambda found, record: record.update(data=[]), "does not say of which data"),
        (lambda found, record: record["data"].update(images="7"), "do not fit each other"),
        (lambda found, record: record["data"].update(images=1), "do not fit each other"),
        (lambda found, record: few(found, record), "do not fit each other"),
        (lambda found, record: record["data"].update(path=None), "do not fit each other"),
        (lambda found, record: record.update(class_names=[1, 2]), "do not fit each other"),
        (lambda found, record: record.update(network="pixels"), "do not fit each other"),
    ],
)
def test_statistics_of_anybody_are_refused(change, sentence, file, network):
    tensors, metadata = content(file)
    record = json.loads(metadata[RECORD])
    del record[DIGEST]
    change(tensors, record)
    save_file(tensors, file, {RECORD: json.dumps(record)})
    with pytest.raises(UserError, match=sentence):
        import_reference(file, network)


@pytest.mark.parametrize("record", ["[" * 100_000, "null", "[]", "{", '{"data": NaN}'])
def test_a_record_of_anybody_is_refused(record, file, network):
    save_file(content(file)[0], file, {RECORD: record})
    with pytest.raises(UserError, match="The record in .*statistics.safetensors"):
        import_reference(file, network)


def test_a_full_disk_is_one_sentence_and_leaves_the_file(real, file, small_files):
    before = file.read_bytes()
    real.features = np.zeros((10_000, 3), np.float32)
    with pytest.raises(OSError) as error:
        export_reference(real, file, with_features=True)
    assert error.value.filename == str(file) and file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
