"""The labelled grid: every image where its row and column say, every text whole, and a file of a sensible size."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from cardiff.markup import FONT
from cardiff.plotting import LARGEST, PAPER, SCREEN, TEXT, save_labelled_grid, wrapped


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


def grid(path, rows, blocks=1, columns=8, size=8, names=None, titles=None, **options):
    """A grid whose image n, in the order of blocks, rows and columns, has the colour (n // 250, n % 250, 255)."""
    n = np.arange(blocks * rows * columns)
    colours = np.stack([n // 250, n % 250, np.full_like(n, 255)], axis=1).astype(np.uint8)  # the text is grey
    images = np.broadcast_to(colours.reshape(blocks, rows * columns, 1, 1, 3), (blocks, rows * columns, size, size, 3))
    save_labelled_grid(images, names or [f"class {i}" for i in range(rows)], titles or [""] * blocks, path, **options)
    return np.asarray(Image.open(path)).astype(np.int16)


def found(picture):
    """Upper left corners of all images by number."""
    image = picture[..., 2] - picture[..., 1] > 3
    corner = image.copy()
    corner[1:] &= ~image[:-1]
    corner[:, 1:] &= ~image[:, :-1]
    return {int(picture[y, x, 0]) * 250 + int(picture[y, x, 1]): (int(y), int(x)) for y, x in np.argwhere(corner)}


def ink(picture):
    """Where there is text."""
    return (picture.max(2) < 200) & (np.ptp(picture, 2) < 3)


@pytest.mark.parametrize(
    ("rows", "blocks", "size", "largest"),
    [(345, 1, 8, LARGEST), (196, 1, 64, 5_000_000), (56, 4, 16, LARGEST), (1, 8, 32, LARGEST)],
)
def test_many_classes_and_blocks_make_a_readable_sheet(rows, blocks, size, largest, tmp_path, monkeypatch):
    """All images are there, each row beside the others of its block, and the sheet is neither a tower nor a ribbon."""
    monkeypatch.setattr("cardiff.plotting.LARGEST", largest)
    picture = grid(tmp_path / "grid.png", rows, blocks, size=size, titles=["classifier-free guidance 2"] * blocks)
    height, width, _ = picture.shape
    assert height * width <= largest
    assert max(height, width) <= SCREEN or 0.5 < width / height < 3
    corners = found(picture)
    assert corners.keys() == set(range(blocks * rows * 8))
    for row in range(blocks * rows):
        line = [corners[8 * row + column] for column in range(8)]
        assert len({y for y, _ in line}) == 1 and len(set(np.diff([x for _, x in line]))) == 1
    shown = corners[1][1] - corners[0][1] - 1
    assert 16 <= shown < 64 if largest < LARGEST else shown >= 64
    # Every row has its name to the left of it, or to the left of the blocks beside it.
    text = ink(picture)
    for row in range(rows):
        y, x = corners[8 * row]
        assert text[y : y + shown, x - 50 : x - 8].any()


def test_rows_in_panels_keep_their_names(tmp_path):
    """What is to the left of a row is its own name, rendered alone."""
    names = [f"{i:03d}" for i in range(196)]
    picture = grid(tmp_path / "grid.png", 196, names=names)
    corners = found(picture)
    assert len({x for _, x in corners.values()}) > 8  # panels
    font = ImageFont.truetype(str(FONT), 16)
    for row in (0, 57, 195):
        y, x = corners[8 * row]
        alone = Image.new("RGB", (x, picture.shape[0]), PAPER)
        centre = y + 32 - sum(font.getmetrics()) / 2
        ImageDraw.Draw(alone).text((x - 8, centre), names[row], TEXT, font, anchor="ra")
        np.testing.assert_array_equal(picture[y : y + 64, x - 40 : x], np.asarray(alone)[y : y + 64, x - 40 : x])


def test_names_are_drawn_in_a_font_that_has_their_letters(tmp_path):
    """Each letter has a shape of its own; PIL's built-in font draws one box for all of them."""
    letters = "éüšñкΩ"
    drawn = {c: ink(grid(tmp_path / "grid.png", 1, columns=1, names=[c])).tobytes() for c in letters + "\U0010ffff"}
    assert len(set(drawn.values())) == len(letters) + 1
    lacking = grid(tmp_path / "grid.png", 1, columns=1, names=["日"])
    np.testing.assert_array_equal(lacking, grid(tmp_path / "grid.png", 1, columns=1, names=["[U+65E5]"]))


LONG = "Chevrolet Silverado 1500 Hybrid Crew Cab with an Extremely Long Wheelbase of Year 2012"


@pytest.mark.parametrize("name", [LONG, LONG.replace(" ", "_"), LONG.replace(" ", ""), "W" * 300])
@pytest.mark.parametrize("size", [8, 32, 64])
def test_long_texts_end_before_the_edge(name, size, tmp_path):
    """There is room around them on every side, and nothing of them lies under an image."""
    picture = grid(tmp_path / "grid.png", 2, 2, columns=1, size=size, names=[name, "b"], titles=[name, "b"], zoom=1)
    text = ink(picture)
    assert text.any() and not (text[:2].any() or text[-2:].any() or text[:, :2].any() or text[:, -2:].any())
    for y, x in found(picture).values():
        assert (picture[y : y + size, x : x + size, 2] == 255).all()


def test_wrapped_text():
    font = ImageFont.truetype(str(FONT), 16)

    def together(lines):
        return "".join("".join(lines).split())

    for name in (LONG, LONG.replace(" ", "_"), LONG.replace(" ", "")):
        lines = wrapped(name, font, 160)
        assert together(lines) == "".join(name.split()) and len(lines) > 3
        assert all(font.getlength(line) <= 160 for line in lines)
        short = wrapped(name, font, 160, most=3)
        assert len(short) == 3 and all(font.getlength(line) <= 160 for line in short)
        begin, end = together(short).split("…")
        assert "".join(name.split()).startswith(begin) and "".join(name.split()).endswith(end)
        assert end.endswith("2012") and len(begin + end) > 35 and abs(len(begin) - len(end)) < 5
    assert wrapped("AM General Hummer SUV 2000", font, 160) == ["AM General", "Hummer SUV 2000"]
    assert wrapped("two words", font, 160, most=1) == ["two words"]
    assert wrapped("", font, 160) == []


def test_few_blocks_stay_on_one_line_and_few_rows_below_each_other(tmp_path):
    corners = found(grid(tmp_path / "grid.png", 3, 3, columns=4))
    assert len({y for y, _ in corners.values()}) == 3
    corners = found(grid(tmp_path / "grid.png", 28, 1, columns=2))
    assert len({x for _, x in corners.values()}) == 2
