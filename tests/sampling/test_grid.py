"""Labelled grids."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cardiff.diffusion.randomness import image_seed
from cardiff.distributed import this_process
from cardiff.errors import UserError
from cardiff.hub.serialization import load_pipeline
from cardiff.sampling.draw import draw, make_plan
from cardiff.sampling.grid import grid_of
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


def test_a_grid_knows_what_each_of_its_images_cost(model, tmp_path):
    """Two evaluations a step where both predictions are needed, one at a scale of 1."""
    options = SampleOptions(
        str(model), grid="x.png", labels="bee,ant", num_images=4, guidance_scale=[1, 2.5], steps=STEPS, seed=7
    )
    grid = grid_of(make_plan(options), this_process())
    entries = grid.entries()
    assert [(e["name"], e["column"], e["index"]) for e in entries[:4]] == [
        *(("bee", 0, 0), ("bee", 1, 1), ("ant", 0, 2), ("ant", 1, 3)),
    ]
    assert [e["evaluations"] for e in entries] == [{"unet": STEPS}] * 4 + [{"unet": 2 * STEPS}] * 4
    assert [e["seed"] for e in entries] == [image_seed(7, i) for i in range(4)] * 2
    assert [entries[i]["guidance"] for i in (0, 4)] == [f"classifier-free guidance {w}" for w in ("1", "2.5")]
    grid.save(tmp_path / "grid.png")
    run(replace(options, grid=str(tmp_path / "same.png")))
    assert (tmp_path / "grid.png").read_bytes() == (tmp_path / "same.png").read_bytes()


def test_every_step_of_every_batch_is_seen(model):
    plan = make_plan(SampleOptions(str(model), grid="x.png", labels="bee", num_images=5, steps=STEPS, batch_size=2))
    seen = []
    plan.on_step = lambda step, timestep, tensors: seen.append((step, timestep, tensors["latents"].shape[0]))
    grid_of(plan, this_process())
    timesteps = plan.pipeline.scheduler.timesteps.tolist()
    assert seen == [(i, t, count) for count in (2, 2, 1) for i, t in enumerate(timesteps)]
