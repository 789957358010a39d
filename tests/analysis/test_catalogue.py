"""Which schedules a name stands for."""

import inspect
import re

import numpy as np
import pytest

from cardiff.analysis.catalogue import choose_schedules, with_spectrum
from cardiff.config.schedules_by_name import OURS, PUBLISHED, alphas_cumprod_of, section_of
from cardiff.errors import UserError
from cardiff.schedulers import SCHEDULES

SPECTRUM = {"octave_powers": [[1.0], [2.0], [0.5], [0.02], [0.001]], "resolution": 16, "solver": "ddim"}


def test_all_are_every_published_schedule_and_ours():
    chosen = choose_schedules("all", SPECTRUM)
    assert list(chosen) == [*PUBLISHED, *OURS]
    registered = {section["name"] for section in chosen.values()}
    assert registered == SCHEDULES.keys() - {"knots", "table"}
    for section in chosen.values():
        alphas_cumprod = alphas_cumprod_of(section)
        assert alphas_cumprod.shape == (1000,) and alphas_cumprod.dtype == np.float64
        assert (np.diff(alphas_cumprod) < 0).all()


def test_names_may_have_commas():
    chosen = choose_schedules("cosine,spectral, pixels, linear, zero SNR,linear", SPECTRUM)
    assert list(chosen) == ["cosine", "spectral, pixels", "linear, zero SNR", "linear"]


def test_the_spectrum_goes_to_those_that_take_it():
    chosen = choose_schedules("cosine,spectral,octave geodesic", SPECTRUM)
    assert chosen["cosine"] == {"name": "cosine"}
    assert chosen["spectral"] == {"name": "spectral", **SPECTRUM}
    assert "solver" not in chosen["octave geodesic"] and chosen["octave geodesic"]["resolution"] == 16
    own = {"name": "spectral", "octave_powers": [[1.0]] * 4, "resolution": 8}
    assert with_spectrum(own, SPECTRUM) == own
    assert with_spectrum({"name": "spectral", "solver": "ddpm"}, SPECTRUM)["solver"] == "ddpm"


def test_files_and_functions(tmp_path):
    (tmp_path / "mine.yaml").write_text("scheduler: {name: knots, log_snr: [9, 0, -9]}\n")
    (tmp_path / "mine.py").write_text("def straight(t, last=0.001):\n    return 1 - (1 - last) * t\n")
    chosen = choose_schedules(f"{tmp_path}/mine.yaml,{tmp_path}/mine.py:straight,edm", {})
    assert [section["name"] for section in chosen.values()] == ["knots", f"{tmp_path}/mine.py:straight", "edm"]
    np.testing.assert_allclose(
        alphas_cumprod_of(section_of(f"{tmp_path}/mine.py:straight"))[[0, -1]], [0.999001, 0.001]
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cosin", "did you mean 'cosine'"),
        ("missing.yaml", "missing.yaml cannot be read"),
        ("xyzzy", "neither a schedule nor a file"),
    ],
)
def test_what_is_no_schedule(name, sentence):
    with pytest.raises(UserError, match=sentence):
        choose_schedules(f"linear,{name}", {})


def test_a_file_without_a_schedule(tmp_path):
    (tmp_path / "other.yaml").write_text("data: {resolution: 16}\n")
    with pytest.raises(UserError, match="no section `scheduler` with a `name`"):
        section_of(str(tmp_path / "other.yaml"))


def test_zero_terminal_snr_is_zero():
    assert alphas_cumprod_of(PUBLISHED["linear, zero SNR"])[-1] == pytest.approx(0, abs=1e-12)


def test_names_say_the_parameters():
    symbols = {"τ": "tau", "κ": "kappa", "ρ": "rho"}
    named = [
        (section, symbols[symbol], float(value))
        for name, section in {**PUBLISHED, **OURS}.items()
        for symbol, value in re.findall(r"([τκρ])=([\d.]+)", name)
    ]
    assert len(named) == 7
    for section, parameter, value in named:
        default = inspect.signature(SCHEDULES[section["name"]].alphas_bar).parameters[parameter].default
        assert section.get(parameter, default) == value


def test_files_are_called_by_their_names(tmp_path):
    (tmp_path / "mine.yaml").write_text("scheduler: {name: cosine}\n")
    assert list(choose_schedules(f"{tmp_path}/mine.yaml,cosine", {})) == ["mine", "cosine"]
