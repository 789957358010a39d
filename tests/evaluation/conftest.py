"""What tests of whole measurements share."""

import pytest

from cardiff.evaluation.options import EvaluateOptions
from tests.support.tiny_set import write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture
def options(world, tmp_path):
    return EvaluateOptions(
        output=str(tmp_path / "report"), reference=str(world["train"]), network="pixels",
        metrics="fid,kid,prdc,diversity", replicates=20, steps=2, batch_size=16,
    )  # fmt: skip
