"""The written comparison: numbers against measures made anew, the ranking, the files, and what is refused."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import yaml

from cardiff.analysis import catalogue
from cardiff.analysis.analyze import load_images, run
from cardiff.analysis.figures.draw import FIGURES
from cardiff.analysis.measures import measure_data, measure_schedule, merged
from cardiff.analysis.optimum import Optimum, point_of
from cardiff.analysis.options import AnalysisOptions, parse_analysis
from cardiff.analysis.ranking import OPTIMUM, OWN_CONFIG
from cardiff.config import schedules_by_name
from cardiff.config.run import parse_run
from cardiff.config.schedule import make_schedule
from cardiff.config.schedules_by_name import PUBLISHED, alphas_cumprod_of
from cardiff.config.sections import DataConfig
from cardiff.diffusion.levels import log_snr_of
from cardiff.errors import UserError
from tests.conftest import ROOT

DIGITS = DataConfig(data_files=str(ROOT / "data/digits.parquet"), resolution=16, channels=1, upscale=True)
CONFIG = str(ROOT / "configs/digits_16_conditional.yaml")
SMALL = AnalysisOptions(schedules="linear,cosine,Laplace,octave geodesic", max_images=200, steps=10)

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run(replace(SMALL, output=str(tmp_path_factory.mktemp("analysis") / "new/folder"), kappa=2.0), DIGITS)


@pytest.fixture(scope="module")
def data():
    return measure_data(*load_images(DIGITS, SMALL.max_images, SMALL.seed))


def rows_of(folder) -> list[dict]:
    with (folder / "table.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_file_is_there(folder):
    files = {path.name: path for path in folder.glob("[!.]*")}
    others = {"table.md", "table.csv", "report.md", "measures.npz", "spectral.yaml", "optimal.yaml"}
    assert files.keys() == {*others, *FIGURES}
    assert all(path.stat().st_size > 100 for path in files.values())


@pytest.mark.parametrize("name", ["linear", "cosine", "Laplace"])
def test_the_table_has_the_measures(name, folder, data):
    (row,) = (row for row in rows_of(folder) if row["schedule"] == name)
    m = measure_schedule(name, alphas_cumprod_of(PUBLISHED[name]), data)
    expected = {
        "leak_nats": m.leak,
        "mean_structure": m.mean_structure,
        "half_life": m.half_life,
        "idle_noise_percent": 100 * m.idle_noise,
        "ddpm_50_pixels": m.errors["ddpm", 50].pixels,
        "ddim_250_octaves": m.errors["ddim", 250].octaves,
        "mean_ssim": m.ssim.mean(),
        "path_kl_nats": m.path_kl.sum(),
        "max_beta": m.max_beta,
        "last_log_snr": m.log_snr[-1],
    }
    np.testing.assert_allclose([float(row[key]) for key in expected], list(expected.values()), rtol=1e-6)
    assert row["leaks"] == str(m.leaks) and row["origin"] == "published"
    t = float(row["class_half_gone"])
    half = data.posterior.class_information.max() / 2
    before, after = (m.class_information[round(1000 * t) - k] for k in (2, 1))
    assert after < half <= before


def test_the_distance_is_that_of_the_front(folder, data):
    spectrum = merged(data.model.spectrum, 0.1)
    start = log_snr_of(alphas_cumprod_of(yaml.safe_load((folder / "spectral.yaml").read_text())["scheduler"]))
    target = point_of(spectrum, log_snr_of(alphas_cumprod_of({"name": "cosine"})), "ddpm", 10)
    distance = Optimum(spectrum, "ddpm", 10).distance(target, start)[0]
    (row,) = (row for row in rows_of(folder) if row["schedule"] == "cosine")
    assert float(row["distance_percent"]) == pytest.approx(100 * np.expm1(distance), rel=1e-3)


def test_leaking_schedules_are_ranked_last(folder):
    rows = rows_of(folder)
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    leaks = [row["leaks"] == "True" for row in rows]
    assert any(leaks) and leaks == sorted(leaks)
    distances = [float(row["distance_percent"]) for row in rows if row["leaks"] == "False"]
    assert distances == sorted(distances)
    assert {row["schedule"] for row in rows if row["origin"] == "ours"} == {"octave geodesic", "spectral κ=2", OPTIMUM}


def test_the_optimum_is_near_the_front(folder):
    (row,) = (row for row in rows_of(folder) if row["schedule"] == OPTIMUM)
    assert row["leaks"] == "False" and float(row["distance_percent"]) < 5


@pytest.mark.parametrize("name", ["spectral", "optimal"])
def test_the_scheduler_files_can_be_trained_with(name, folder, tmp_path):
    second = folder / f"{name}.yaml"
    argv = ["--config", CONFIG, "--config", str(second), "--output_dir", str(tmp_path)]
    section = parse_run(argv, kind="conditional", description="").scheduler
    written = yaml.safe_load(second.read_text())["scheduler"]
    assert {key: section[key] for key in written} == written
    assert section["prediction_type"] == "v_prediction"  # of the first file
    assert section.get("kappa", 2.0) == 2.0
    assert make_schedule(section).alphas_cumprod[-1] < 1e-3


def test_the_curves_are_those_of_the_rows(folder):
    curves = np.load(folder / "measures.npz")
    assert curves["names"].tolist() == [row["schedule"] for row in rows_of(folder)]
    place = curves["names"].tolist().index("cosine")
    np.testing.assert_allclose(curves["alphas_cumprod"][place], alphas_cumprod_of({"name": "cosine"}))
    assert curves["octaves"].shape == (6, 1000, 5) and curves["path_kl"].shape == (6, 999)


def test_the_report_shows_figures_and_explains_every_row(folder):
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert (folder / "table.md").read_text(encoding="utf-8") in report
    assert all(f"({name})" in report for name in FIGURES)
    for rank, row in enumerate(rows_of(folder), 1):
        assert f"**{rank}. {row['schedule']}** ({row['origin']}). Of its timesteps" in report
    assert "200 images of 16×16 pixels and 1 channel, labels used. T = 1000" in report


def test_a_schedule_that_refuses_is_a_note_unless_it_was_asked_for(tmp_path, monkeypatch):
    broken = {"name": "linear", "beta_start": 0.5, "beta_end": 2.0}
    for module in (catalogue, schedules_by_name):
        monkeypatch.setattr(module, "PUBLISHED", {"broken": broken, "cosine": {"name": "cosine"}})
        monkeypatch.setattr(module, "OURS", {})
    options = replace(SMALL, output=str(tmp_path), schedules="all", num_train_timesteps=50, max_images=50)
    run(options, DIGITS)
    assert "- broken is missing: LinearScheduler:" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert [row["schedule"] for row in rows_of(tmp_path)].count("broken") == 0
    assert "ddpm_50_pixels" in rows_of(tmp_path)[0] and "ddpm_250_pixels" not in rows_of(tmp_path)[0]
    with pytest.raises(UserError, match="LinearScheduler"):
        run(replace(options, schedules="broken"), DIGITS)


def test_the_configurations_own_schedule_is_compared(tmp_path):
    options = replace(SMALL, output=str(tmp_path), schedules="cosine", num_train_timesteps=50, max_images=50)
    run(options, DIGITS, {"name": "sigmoid", "tau": 0.7, "prediction_type": "v_prediction"})
    origins = {row["schedule"]: row["origin"] for row in rows_of(tmp_path)}
    assert origins[OWN_CONFIG] == "yours" and origins["cosine"] == "published"
    run(options, DIGITS, {"name": "cosine", "prediction_type": "v_prediction"})
    assert OWN_CONFIG not in {row["schedule"] for row in rows_of(tmp_path)}
    assert "- The configuration's own schedule is cosine." in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_a_larger_set_is_cut_at_random_by_the_seed():
    first, labels = load_images(DIGITS, 20, seed=0)
    same, _ = load_images(DIGITS, 20, seed=0)
    other, _ = load_images(DIGITS, 20, seed=1)
    assert first.shape == (20, 1, 16, 16) and len(labels) == 20
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    assert len(load_images(DIGITS, 10**6, seed=0)[0]) == 1797


def test_a_stream_gives_its_first_images():
    streamed = replace(DIGITS, streaming=True)
    images, _ = load_images(streamed, 20, seed=0)
    everything, _ = load_images(streamed, 10**6, seed=0)
    stored, _ = load_images(DIGITS, 10**6, seed=0)
    assert np.array_equal(images, everything[:20])
    assert np.array_equal(np.sort(everything.reshape(1797, -1).sum(1)), np.sort(stored.reshape(1797, -1).sum(1)))


def test_without_labels_there_is_no_class_information(tmp_path):
    options = replace(SMALL, output=str(tmp_path), schedules="cosine", num_train_timesteps=50, max_images=50)
    run(options, replace(DIGITS, label_column="none"))
    assert {row["class_half_gone"] for row in rows_of(tmp_path)} == {""}
    assert "no labels" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_the_command_line_reads_a_training_configuration():
    options, data, section = parse_analysis(["--config", CONFIG, "--data.split", "test", "--steps", "20"], "")
    assert options == AnalysisOptions(steps=20)
    assert (data.resolution, data.split) == (16, "test") and section["name"] == "cosine"
    options, data, section = parse_analysis([], "")
    assert data.data_files == "data/digits.parquet" and data.resolution == 16 and section is None
    assert parse_analysis(["--data.path", "mine"], "")[1] == DataConfig(path="mine")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 2000}, "--steps 2000 is more than the 1000 timesteps"),
        ({"max_images": 1}, "--max_images is 1, but must be 2 or more"),
        ({"kappa": -1.0}, "--kappa is -1.0"),
        ({"kappa": float("nan")}, "--kappa is nan, but must be 0 or more."),
        ({"kappa": 500.0}, "lower kappa"),
        ({"schedules": "cosin"}, "did you mean 'cosine'?"),
        ({"output": "/dev/null/here"}, "--output /dev/null/here cannot be written"),
    ],
)
def test_options_that_cannot_work_are_refused(change, sentence, tmp_path):
    with pytest.raises(UserError, match=".") as error:
        run(replace(replace(SMALL, output=str(tmp_path), max_images=50), **change), DIGITS)
    assert sentence in str(error.value)


def test_a_picture_without_octaves_is_refused(tmp_path):
    with pytest.raises(UserError, match="data.resolution is 2, but must be 4 or more"):
        run(replace(SMALL, output=str(tmp_path)), replace(DIGITS, resolution=2))
