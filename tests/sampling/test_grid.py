"""Labelled grids."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cardiff.errors import UserError
from cardiff.hub.serialization import load_pipeline
from cardiff.sampling.draw import draw
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run
from cardiff.sampling.solvers import make_solver
from tests.support.sampled import STEPS


def test_a_grid_of_images_that_are_not_finite_is_refused(unclipped, tmp_path):
    options = SampleOptions(str(unclipped), grid=str(tmp_path / "grid.png"), num_images=3, steps=STEPS)
    with pytest.raises(UserError, match=r"NaN or infinite after the last step: 0, 1, 2\."):
        run(replace(options, guidance_scale=[1, 1e38]))
    assert not (tmp_path / "grid.png").exists()


def test_a_grid_shows_the_series_of_its_seed(model, tmp_path):
    """Row by row and scale by scale, the images that draw gives; one seed for all scales."""
    path = tmp_path / "new" / "grid.png"
    options = SampleOptions(
        str(model), grid=str(path), labels="bee,ant", num_images=6, guidance_scale=[0, 2.5], steps=STEPS, batch_size=4
    )
    assert run(options) == path
    picture = np.asarray(Image.open(path)).astype(int)
    pipeline = load_pipeline(model)
    pipeline.scheduler = make_solver(pipeline.scheduler, "dpm")
    # 8 pixels at zoom 8 with a gap of 4; the rest of the width is the names.
    height, width, _ = picture.shape
    left = width - 2 * (3 * 68 + 12)
    top = height - 2 * 68 - 8
    assert left > 8 and top > 8
    for block, scale in enumerate((0.0, 2.5)):
        expected, _ = draw(
            pipeline, range(6), seed=0, labels=[1, 1, 1, 0, 0, 0], guidance_scale=scale, batch_size=64, steps=STEPS
        )
        for i in range(6):
            y, x = top + (i // 3) * 68, left + block * 216 + (i % 3) * 68
            shown = picture[y + 4 : y + 64 : 8, x + 4 : x + 64 : 8]
            assert np.abs(shown - expected[i].astype(int)).max() <= 1


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 2, 2), (7, 3, 3), (9, 3, 3), (12, 4, 3)])
def test_a_grid_without_labels_is_about_a_square(count, columns, rows, unconditional, tmp_path):
    """All images of the series in reading order, and nothing after the last."""
    run(SampleOptions(str(unconditional), grid=str(tmp_path / "grid.png"), num_images=count, steps=2))
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("L")).astype(int)
    pipeline = load_pipeline(unconditional)
    pipeline.scheduler = make_solver(pipeline.scheduler, "dpm")
    images, _ = draw(pipeline, range(count), seed=0, labels=None, guidance_scale=1.0, batch_size=64, steps=2)
    assert picture.shape[1] >= 8 + columns * 68 + 12  # or more, for the title
    tiles = picture[-8 - rows * 68 : -8, 8 : 8 + columns * 68].reshape(rows, 68, columns, 68).transpose(0, 2, 1, 3)
    tiles = tiles.reshape(rows * columns, 68, 68)[:, 4:64:8, 4:64:8]
    assert np.abs(tiles[:count] - images[..., 0].astype(int)).max() <= 1
    assert (tiles[count:] == 255).all()
