"""The Inception of the FID, in both forms of its weights."""

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as fidelity

from cardiff.errors import UserError
from cardiff.evaluation.features import inception
from cardiff.evaluation.features.network import class_columns
from cardiff.evaluation.features.networks import load_network
from cardiff.files import file_hash
from tests.support.tiny_networks import CPU, Identity, images, script

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning")


def test_inception_in_torchscript_sees_images_resized_as_by_tensorflow(tmp_path, monkeypatch):
    """Pixel j of 299 is at j·H/299 of the image, between its neighbours on a straight line; of a large one too."""
    file = script(Identity(), tmp_path / "renamed.bin")
    monkeypatch.setattr(inception, "INCEPTION_FILES", {file_hash(file): "default_1.pt"})
    network = load_network("inception", weights=file, device=CPU)
    assert (network.name, network.distance, network.id2label) == ("Inception-v3 (FID)", "FID", None)
    for size in (32, 500):
        batch = images(2, 3, size)
        seen = network(batch)[0].numpy()
        at = np.minimum(np.arange(299) * size / 299, size - 1)
        wide = np.array([[[np.interp(at, range(size), row) for row in c] for c in image] for image in batch.numpy()])
        both = np.array([[[np.interp(at, range(size), row) for row in c.T] for c in image] for image in wide])
        np.testing.assert_allclose(seen, (both.swapaxes(2, 3) - 128) / 128, atol=1e-4)


def test_inception_as_a_state_dict_is_torch_fidelity_s(tmp_path, monkeypatch):
    class Random(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            pass

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **options: {})
    own = Random("random", ["2048", "logits_unbiased"])
    file = tmp_path / "weights.pth"
    torch.save(own.state_dict(), file)
    monkeypatch.setattr(inception, "INCEPTION_FILES", {file_hash(file): "weights-inception.pth"})
    network = load_network("inception", weights=str(file), device=CPU)
    features, logits = network(images(2))
    assert features.shape == (2, 2048) and logits.shape == (2, 1008) and network.record["features"] == 2048
    for found, theirs in zip((features, logits), own(images(2))):
        torch.testing.assert_close(found, theirs)
    with pytest.raises(UserError, match="has no named classes"):
        class_columns(network, ["ant"])
