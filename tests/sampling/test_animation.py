"""Frames, and the files that show them in turn."""

import sys

import av
import numpy as np
import pytest
from PIL import Image, ImageColor

import sample
from cardiff.plotting import ORANGE, PAPER
from cardiff.sampling.animation import ENDINGS, FIRST, FORMATS, HIGHEST, LAST, WIDEST, _Stage, durations, frame, save
from cardiff.sampling.grid import Grid
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run
from cardiff.sampling.trajectory import Trajectory
from tests.support.sampled import STEPS

LONG = "Mercedes-Benz 300-Class Convertible 1993"


def made_up(names=("ant", "bee"), scales=1, channels=3, size=8, steps=4):
    """A trajectory of noise, of which each image of each step is another."""
    random = np.random.default_rng(0)
    shape = (scales, len(names), size, size, channels)
    noisy, clean = (random.integers(0, 256, (n, *shape), np.uint8) for n in (steps + 1, steps))
    titles = [f"classifier-free guidance {w}" for w in range(scales)]
    grid = Grid(noisy[-1], [], list(names), 1, titles, 0)
    schedule = np.linspace(8, -9, 1000)
    timesteps = np.linspace(999, 0, steps, endpoint=False).astype(int)
    return Trajectory(grid, timesteps, schedule[timesteps], schedule, noisy, clean)


def stage_of(trajectory):
    names, titles = tuple(trajectory.grid.names), tuple(trajectory.grid.titles)
    levels = tuple(trajectory.schedule), tuple(trajectory.timesteps.tolist())
    return _Stage(trajectory.images.shape, names, titles, *levels)


def tile_of(picture, stage, *place):
    """An image in a frame, a pixel of it for each of its own."""
    x, y = stage._place(*place)
    half = int(stage.zoom) // 2
    return picture[y + half : y + stage.tile[1] : int(stage.zoom), x + half : x + stage.tile[0] : int(stage.zoom)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scales", [1, 3])
def test_a_frame_shows_x_t_on_the_left_and_the_estimate_on_the_right(scales, channels):
    trajectory = made_up(scales=scales, channels=channels)
    stage = stage_of(trajectory)
    for step in range(5):
        picture = frame(trajectory, step)
        assert picture.dtype == np.uint8 and picture.shape == (stage.size[1], stage.size[0], 3)
        for scale in range(scales):
            for image in range(2):
                left, right = (tile_of(picture, stage, scale, side, image) for side in (0, 1))
                estimate = trajectory.images if step == 4 else trajectory.clean[step]
                np.testing.assert_array_equal(left, trajectory.noisy[step, scale, image] + np.zeros(3, np.uint8))
                np.testing.assert_array_equal(right, estimate[scale, image] + np.zeros(3, np.uint8))
            assert stage._place(scale, 0, 0)[0] < stage._place(scale, 1, 0)[0]


def test_the_marker_goes_from_noise_to_image():
    """Right to left along the schedule, from its last level to its first."""
    trajectory = made_up()
    colour = np.array(ImageColor.getrgb(ORANGE))
    stage = stage_of(trajectory)
    found = []
    for step in range(5):
        picture = frame(trajectory, step)[: stage.top]
        rows, columns = np.nonzero((picture == colour).all(-1))
        found.append((columns.mean(), rows.mean()))
        timestep = 0 if step == 4 else trajectory.timesteps[step]
        np.testing.assert_allclose(found[-1], stage.places[timestep] + [12, stage.plot_top], atol=1.5)
    columns, rows = np.transpose(found)
    assert (np.diff(columns) < -100).all() and (np.diff(rows) < -10).all()
    # A straight line in log-SNR is one in pixels, and a quarter of the steps a quarter of the way.
    np.testing.assert_allclose(np.diff(columns), np.diff(columns).mean(), atol=2)


def test_the_text_says_which_step(monkeypatch):
    said = []
    monkeypatch.setattr(_Stage, "draw", lambda stage, noisy, clean, timestep, moment: said.append((timestep, *moment)))
    trajectory = made_up()
    trajectory.log_snr[0] = -np.inf
    for step in (0, 1, 4):
        frame(trajectory, step)
    assert said == [
        (999, "step 0 of 4", "t = 999", "log-SNR −∞"),
        (749, "step 1 of 4", "t = 749", "log-SNR −4.75"),
        (0, "step 4 of 4", "t = 0", "finished images"),
    ]


LAYOUTS = [
    *((count, scales, size, "class") for count in (1, 2, 7, 10, 16) for scales in (1, 2, 4) for size in (8, 32)),
    *((count, 1, size, name) for count in (1, 10, 16) for size in (16, 64, 256) for name in (LONG, "")),
]


@pytest.mark.parametrize(("count", "scales", "size", "name"), LAYOUTS)
def test_nothing_overlaps_or_is_cut(count, scales, size, name):
    trajectory = made_up([name] * count, scales, size=size, steps=1)
    stage = stage_of(trajectory)
    taken = np.zeros(stage.size[::-1], int)  # (H, W)
    for scale in range(scales):
        for side in (0, 1):
            for image in range(count):
                x, y = stage._place(scale, side, image)
                below = len(stage.captions[image]) * stage.small_line
                taken[y : y + stage.tile[1] + below, x : x + stage.tile[0]] += 1
                assert x >= 0 and y > stage.top and x + stage.tile[0] <= stage.size[0]
                assert y + stage.tile[1] + below <= stage.size[1]
                assert all(stage.small.getlength(line) <= stage.pitch[0] for line in stage.captions[image])
                assert " ".join(stage.captions[image]).replace("- ", "-") == name
    assert taken.max() == 1
    picture = frame(trajectory, 0).copy()
    picture[3:-3, 3:-3] = PAPER
    assert (picture == PAPER).all()
    assert min(stage.tile) >= 64
    if count * scales <= 16:
        assert stage.size[0] <= WIDEST and stage.size[1] <= HIGHEST


def test_durations():
    assert durations(1) == [FIRST, LAST]
    assert durations(10) == [FIRST, *[400] * 9, LAST]
    assert durations(30) == [FIRST, *[160] * 29, LAST]
    assert durations(1000) == [FIRST, *[40] * 999, LAST]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_has_a_frame_for_each_step(ending, tmp_path):
    """Lossless but for GIF, whose 256 colours include those of paper and marker."""
    trajectory, file = made_up(channels=1), tmp_path / "new" / f"film{ending.upper()}"
    save(trajectory, file)
    with Image.open(file) as film:
        assert (film.n_frames, film.info["loop"]) == (5, 0)
        for step, milliseconds in enumerate(durations(4)):
            film.seek(step)
            film.load()
            assert film.info["duration"] == milliseconds
            expected, found = frame(trajectory, step), np.asarray(film.convert("RGB"))
            if ending != ".gif":
                np.testing.assert_array_equal(found, expected)
                continue
            error = np.abs(found - expected.astype(int))
            assert error.max() < 64 and error.mean() < 1  # the largest at the edges of letters
            for colour in (PAPER, ImageColor.getrgb(ORANGE)):
                np.testing.assert_array_equal((found == colour).all(-1), (expected == colour).all(-1))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_film_shows_each_step_for_its_time(tmp_path):
    """H.264 in the colours that every player knows, close to the frames, and each time the same bytes."""
    trajectory = made_up(size=2, channels=1, steps=7)
    for name in "ab":
        save(trajectory, tmp_path / f"{name}.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    milliseconds = durations(7)
    with av.open(tmp_path / "a.mp4") as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.duration * stream.time_base) == pytest.approx(sum(milliseconds) / 1000, abs=0.05)
        shown = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in film.decode(stream)]
    begins = np.cumsum([0, *milliseconds]) / 1000
    assert [time for time, _ in shown] == pytest.approx(begins)
    for step, (_, found) in enumerate(shown):
        expected = frame(trajectory, min(step, 7))
        assert (found[len(expected) :] > 250).all() and (found[:, expected.shape[1] :] > 250).all()  # paper
        found = found[: len(expected), : expected.shape[1]]
        np.testing.assert_allclose(found.mean((0, 1)), expected.mean((0, 1)), atol=0.5)
        assert np.abs(found - expected.astype(int)).mean() < 0.5


def test_without_pyav_a_film_is_refused_before_anything_is_drawn(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    drawn = []
    monkeypatch.setattr("cardiff.sampling.sample.make_plan", drawn.append)
    with pytest.raises(SystemExit) as end:
        sample.main(["--model", str(model), "--animation", str(tmp_path / "film.MP4")])
    assert end.value.code == 1 and not drawn
    sentence = "this command needs av, which is not installed: pip install 'cardiff[video]'."
    assert capsys.readouterr().err.strip().endswith(sentence)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_cannot_be_written_leaves_the_old_one(ending, tmp_path, small_files):
    file = tmp_path / f"film{ending}"
    file.write_text("the one before")
    with pytest.raises(OSError, match="film"):
        save(made_up(), file)
    assert file.read_text() == "the one before" and list(tmp_path.iterdir()) == [file]


def test_the_command(launch, model, unconditional, tmp_path):
    """Its file, and one sentence without a traceback for what it does not know."""
    options = ["--labels", "bee", "--steps", STEPS, "--guidance_scale", "1,2", "--animation"]
    done = launch("sample.py", "--model", model, *options, tmp_path / "bee.gif")
    assert done.out.strip().endswith(f"Wrote {tmp_path / 'bee.gif'}")
    with Image.open(tmp_path / "bee.gif") as film:
        assert film.n_frames == STEPS + 1
    refused = launch("sample.py", "--model", model, *options, tmp_path / "bee.mov", check=False)
    assert refused.returncode != 0 and "Traceback" not in refused.err
    assert len(refused.err.strip().splitlines()) == 1 and "must end in .gif or .webp or .png or .apng" in refused.err
    assert run(SampleOptions(str(unconditional), animation=str(tmp_path / "grey.png"), steps=1)).exists()
