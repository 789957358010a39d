"""The same noise under several kinds of guidance, and the grid of it."""

import numpy as np
import pytest

from cardiff.hub.serialization import load_pipeline
from cardiff.sampling.draw import draw
from cardiff.sampling.kinds import draw_kinds, grid_blocks
from cardiff.sampling.solvers import make_solver


@pytest.fixture
def pipeline(model):
    found = load_pipeline(model)
    found.scheduler = make_solver(found.scheduler, "dpm")
    return found


def test_every_kind_starts_from_the_same_noise_and_fewer_images_are_the_first_of_more(pipeline):
    kinds = {"many": {"guidance_scale": 1.0}, "few": {"guidance_scale": 1.0}, "guided": {"guidance_scale": 3.0}}
    drawn = draw_kinds(pipeline, kinds, {"many": 3, "few": 1, "guided": 1}, steps=2, seed=5, batch_size=4)
    classes = len(pipeline.class_names())
    assert {kind: len(images) for kind, (images, _) in drawn.items()} == {
        "many": 3 * classes,
        "few": classes,
        "guided": classes,
    }
    np.testing.assert_array_equal(drawn["many"][1], list(range(classes)) * 3)
    np.testing.assert_allclose(drawn["many"][0][:classes].astype(int), drawn["few"][0], atol=1)
    assert (drawn["guided"][0] != drawn["few"][0]).any()
    alone, _ = draw(
        pipeline, [1], seed=5, labels=[1], guidance_scale=3.0, steps=2, batch_size=1, progress=lambda count: None
    )
    np.testing.assert_allclose(drawn["guided"][0][1].astype(int), alone[0], atol=1)


def test_a_block_has_a_row_for_each_class():
    classes, shown = 3, 2
    labels = np.resize(np.arange(classes), 9)
    images = (10 * labels + np.arange(9) // classes).astype(np.uint8).reshape(9, 1, 1, 1)
    blocks = grid_blocks({"a": (images, labels), "b": (images + 100, labels)}, classes, shown)
    assert blocks.shape == (2, 6, 1, 1, 1)
    assert blocks[0].ravel().tolist() == [0, 1, 10, 11, 20, 21]
    assert blocks[1].ravel().tolist() == [100, 101, 110, 111, 120, 121]
