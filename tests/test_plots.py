"""The labelled grid: every image where its row and column say, and a file of the size that follows."""

import numpy as np
import pytest
from PIL import Image

from cardiff.plots import PAPER, save_labelled_grid


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_in_its_place(channels, tmp_path):
    """Two blocks of 3 rows by 2 columns, each image of one grey: reading order is block row by block row."""
    greys = np.arange(12, dtype=np.uint8).reshape(2, 6) * 20
    blocks = np.broadcast_to(greys[:, :, None, None, None], (2, 6, 8, 8, channels))
    save_labelled_grid(blocks, ["", "", ""], ["", ""], tmp_path / "new" / "grid.png", zoom=4)
    picture = np.asarray(Image.open(tmp_path / "new" / "grid.png"))
    # 32 pixels and a gap of 2 for each image, 12 between blocks, 8 around.
    assert picture.shape == (8 + 3 * 34 + 8, 8 + 2 * (2 * 34 + 12), 3)
    for block in range(2):
        for row in range(3):
            for column in range(2):
                top, left = 8 + row * 34, 8 + block * 80 + column * 34
                np.testing.assert_array_equal(
                    picture[top : top + 32, left : left + 32], greys[block, 2 * row + column]
                )
                assert tuple(picture[top + 33, left + 33]) == PAPER


def test_names_and_titles_make_room(tmp_path):
    blocks = np.full((1, 4, 8, 8, 1), 200, dtype=np.uint8)
    sizes = []
    for names, titles in ((["", ""], [""]), (["a long class name", ""], [""]), (["", ""], ["guidance 2"])):
        save_labelled_grid(blocks, names, titles, tmp_path / "grid.png")
        sizes.append(Image.open(tmp_path / "grid.png").size)
    (width, height), (wide, same_height), (same_width, high) = sizes
    assert wide > width + 50 and same_height == height
    assert high > height + 10 and same_width == width


def test_small_images_are_enlarged_to_64_pixels(tmp_path):
    for size, shown in ((8, 64), (32, 64), (64, 64), (100, 100)):
        save_labelled_grid(np.zeros((1, 1, size, size, 3), np.uint8), [""], [""], tmp_path / "grid.png")
        assert int((np.asarray(Image.open(tmp_path / "grid.png")) == 0).all(-1).any(0).sum()) == shown


def test_blocks_on_several_lines(tmp_path):
    """The third of three lies on the second line, where the first lies on the first."""
    red, green, blue = np.diag([200, 200, 200]).astype(np.uint8)  # the text is grey
    blocks = np.stack([np.broadcast_to(colour, (2, 4, 4, 3)) for colour in (red, green, blue)])
    save_labelled_grid(blocks, ["x", "y"], ["a", "b", "c"], tmp_path / "grid.png", zoom=8, blocks_per_line=2)
    save_labelled_grid(blocks[:2], ["x", "y"], ["a", "b"], tmp_path / "line.png", zoom=8)
    picture, line = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("grid", "line"))
    height = line.shape[0] - 8
    assert picture.shape == (2 * height + 8, line.shape[1], 3)
    np.testing.assert_array_equal(picture[:height], line[:height])
    where = [np.argwhere((part == colour).all(-1)) for part, colour in ((line, red), (picture[height:], blue))]
    np.testing.assert_array_equal(*where)
    assert len(where[0]) == 2 * 32**2
