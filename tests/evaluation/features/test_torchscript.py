"""Networks in TorchScript files."""

import pytest
import torch
from torch import nn

from cardiff.errors import UserError
from cardiff.evaluation.features.networks import load_network
from tests.support.tiny_networks import CPU, Moments, images, load, script

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning")


def test_torchscript_gets_the_pixels_as_they_are(folder, tmp_path):
    batch = images().float()
    torch.testing.assert_close(
        load(folder, "moments.pt")(images())[0], torch.cat([batch.mean((2, 3)), batch.amax((2, 3))], 1)
    )
    maps = load_network(script(Moments(spatial=True), tmp_path / "maps.ts"), device=CPU)
    torch.testing.assert_close(maps(images())[0], batch[:, :, ::2, ::2].mean((2, 3)))
    assert maps.name == "maps" and maps.record["file"] == "maps.ts"


def test_torchscript_that_returns_something_else(tmp_path):
    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean()

    with pytest.raises(UserError, match=r"wrong.pt must return one tensor of features, \(B, D\) or"):
        load_network(script(Wrong(), tmp_path / "wrong.pt"), device=CPU)(images())
