"""What the tab Noise shows: one picture under several schedules at a time t, and what that costs a sampler."""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cardiff.analysis.catalogue import with_spectrum
from cardiff.analysis.errors import sampling_error
from cardiff.analysis.figures.style import finish
from cardiff.analysis.measures import MAX_LEAK, merged
from cardiff.analysis.spectra import GaussianModel, fit_gaussian, octave_arguments, to_float
from cardiff.config.files import data_section
from cardiff.config.schedules_by_name import OURS, PUBLISHED, alphas_cumprod_of, section_of
from cardiff.config.sections import DataConfig
from cardiff.data import open_store
from cardiff.data.decode import decode_image
from cardiff.diffusion.levels import a_sigma, log_snr_of, visited_levels
from cardiff.errors import UserError
from cardiff.layout import TOP
from cardiff.markup import figure_text
from cardiff.plotting import COLOURS, GREY, new_figure, save_labelled_grid

SETS = {"cars, 32×32": "cars_32_conditional", "digits, 16×16": "digits_16_conditional"}
"""Pictures that ship: title -> the configuration that names them."""
SCHEDULES = [*PUBLISHED, *OURS]
MOST = 4
"""Schedules shown side by side."""
OWN = "yours"
"""Name of the schedule that the visitor draws."""
KNOTS = 7
TIMES = [i / (KNOTS - 1) for i in range(KNOTS)]
LEVELS = (14.0, -14.0)
"""Log-SNR at the top and at the bottom of the drawing of knots."""
STEPS = 10
"""Sampling steps of which errors and places are shown."""


class PictureSet:
    """A shipped set of pictures with its spectrum.

    Args:
        title: One of SETS.
    """

    def __init__(self, title: str):
        self.config: DataConfig = data_section(TOP / f"configs/{SETS[title]}.yaml")
        self.images = np.asarray(open_store(self.config, conditional=False).images)
        """uint8 (N, C, H, W)."""
        self.model: GaussianModel = fit_gaussian(self.images)
        self.spectrum = merged(self.model.spectrum)
        self.arguments = octave_arguments(self.model)

    def log_snr(self, schedule: str, knots: Sequence[float]) -> np.ndarray:
        """Log-SNR of each of 1000 timesteps; (1000,).

        Args:
            schedule: A name of SCHEDULES, or OWN.
            knots: Log-SNRs of OWN at TIMES.

        Raises:
            UserError: The knots do not fall.
        """
        section = section_of_knots(knots) if schedule == OWN else section_of(schedule)
        return log_snr_of(alphas_cumprod_of(with_spectrum(section, self.arguments)))

    def picture(self, number: int, upload: str | None) -> np.ndarray:
        """The picture with this number, or an uploaded one in the set's size; uint8 (C, H, W).

        Raises:
            UserError: The upload is not a picture.
        """
        if upload is None:
            return self.images[number % len(self.images)]
        # Bytes, so that the file's name is not taken for an address.
        return decode_image(Path(upload).read_bytes(), self.upload_config, name="the uploaded picture")

    @property
    def upload_config(self) -> DataConfig:
        """How an uploaded picture is cut and scaled."""
        return DataConfig(resolution=self.config.resolution, channels=self.config.channels, upscale=True)


@cache
def picture_set(title: str) -> PictureSet:
    """The set with this title, measured once."""
    return PictureSet(title)


def section_of_knots(knots: Sequence[float]) -> dict:
    """The `scheduler` section of a schedule through these log-SNRs at TIMES.

    Raises:
        UserError: They do not fall.
    """
    if len(knots) != KNOTS or not all(np.isfinite(knots)) or any(a <= b for a, b in zip(knots, knots[1:])):
        raise UserError("Each knot must lie below the one to its left: noise only grows.")
    return {"name": "knots", "log_snr": [round(float(value), 3) for value in knots]}


def start_knots() -> list[float]:
    """Knots of about the cosine, with ends that the drawing shows; (KNOTS,)."""
    table = log_snr_of(alphas_cumprod_of({"name": "cosine"}))
    at = np.interp(TIMES, (np.arange(len(table)) + 1) / len(table), table)
    return [round(float(value), 2) for value in np.clip(at, -12.0, 12.0)]


def yaml_of_knots(knots: Sequence[float]) -> str:
    """The YAML with which `train_conditional.py --config CONFIG --config FILE` trains on the drawn schedule."""
    return f"scheduler:\n  name: knots\n  log_snr: {section_of_knots(knots)['log_snr']}\n"


def index_of(t: float, total: int) -> int | None:
    """The timestep at time t; None for the clean picture at t = 0."""
    return None if t <= 0 else min(max(round(t * total) - 1, 0), total - 1)


def level_of(log_snr: np.ndarray, t: float) -> float:
    """Log-SNR at time t; infinite at t = 0."""
    index = index_of(t, len(log_snr))
    return float("inf") if index is None else float(log_snr[index])


def noised(picture: np.ndarray, level: float, model: GaussianModel, seed: int) -> np.ndarray:
    """The picture at a log-SNR, and what the best linear estimate reads from it; uint8 (2, H, W, C).

    Args:
        picture: uint8 (C, H, W).
        level: Log-SNR.
        model: Of the set.
        seed: Of the noise.
    """
    clean = to_float(picture)
    noise = np.random.default_rng(seed).standard_normal(clean.shape)
    if np.isinf(level):
        both = np.stack([clean, clean])
    else:
        a, sigma = a_sigma(level)
        noisy = a * clean + sigma * noise
        both = np.stack([noisy, model.wiener_estimate(noisy[None], level)[0]])
    return np.round((np.clip(both, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)


def save_strip(
    pictures: PictureSet, picture: np.ndarray, tables: Mapping[str, np.ndarray], t: float, seed: int, path: Path
) -> None:
    """Write a grid with a row a schedule: the noised picture, and what can still be read from it."""
    rows = [noised(picture, level_of(table, t), pictures.model, seed) for table in tables.values()]
    zoom = max(1, 128 // picture.shape[-1])
    names = [f"{name}, log-SNR {level_of(table, t):.1f}" for name, table in tables.items()]
    save_labelled_grid(np.stack(rows, 1), names, ["noised", "what is left"], path, zoom=zoom)


def draw_curves(pictures: PictureSet, tables: Mapping[str, np.ndarray], t: float) -> Image.Image:
    """Log-SNR over t, the readable share of each octave at t, and where a sampler's steps lie."""
    figure = new_figure(11, 3.6)
    curves, bars, steps = figure.subplots(1, 3)
    octaves = int(pictures.spectrum.octaves.max()) + 1
    width = 0.8 / len(tables)
    for number, ((name, table), colour) in enumerate(zip(tables.items(), COLOURS)):
        style = {"color": colour, "label": figure_text(name)}
        time = (np.arange(len(table)) + 1) / len(table)
        curves.plot(time, table, lw=2, **style)
        level = level_of(table, t)
        if np.isfinite(level):
            curves.plot([t], [level], "o", color=colour)
        bars.bar(np.arange(octaves) + width * (number + 0.5) - 0.4, octave_shares(pictures, level), width, **style)
        visited = visited_levels(table, STEPS)
        steps.plot(visited, np.full(STEPS, -number), "|", ms=16, mew=2, color=colour)
    curves.axvline(t, color=GREY, lw=1)
    curves.set(xlabel="t: 0 image, 1 noise", ylabel="log-SNR", xlim=(0, 1), ylim=(LEVELS[1], LEVELS[0]))
    names = ["mean", *(f"{2 ** (k - 1)}–{2**k}" for k in range(1, octaves))]
    bars.set_xticks(range(octaves), names, fontsize=8)
    bars.set(xlabel="octave, cycles an image", ylabel=f"readable share at t = {t:.2f}", ylim=(0, 1.02))
    steps.set(xlabel="log-SNR", title=f"{STEPS} sampling steps", ylim=(-len(tables) + 0.5, 0.5), yticks=[])
    steps.set_xlim(LEVELS)
    for axis in (curves, bars, steps):
        finish(axis)
    figure.legend(*curves.get_legend_handles_labels(), loc="outside upper center", ncols=MOST + 1, frameon=False)
    return image_of(figure)


def octave_shares(pictures: PictureSet, level: float) -> np.ndarray:
    """Readable share of each octave at a log-SNR; (octaves,)."""
    spectrum = pictures.spectrum
    gain = spectrum.gain(np.array([min(level, 50.0)]))[0]
    inside = spectrum.octaves[:, None] == np.arange(int(spectrum.octaves.max()) + 1)
    return (gain * spectrum.counts) @ inside / (spectrum.counts @ inside)


def image_of(figure: Figure) -> Image.Image:
    """A figure as a picture."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return Image.open(file).convert("RGB")


def measure(pictures: PictureSet, log_snr: np.ndarray) -> dict[str, str]:
    """What the report says of a schedule, as text by name."""
    spectrum = pictures.spectrum
    leak = spectrum.leak(float(log_snr[-1]))
    found = {
        "structure A": f"{spectrum.structure(log_snr).mean():.3f}",
        "leak, nats": f"{leak:.2g}" + (", leaks" if leak > MAX_LEAK else ""),
    }
    for solver in ("ddim", "ddpm"):
        error = sampling_error(spectrum, visited_levels(log_snr, STEPS), solver)
        found[f"{solver.upper()} {STEPS}: error in pixels"] = f"{error.pixels:.3g}"
        found[f"{solver.upper()} {STEPS}: by octave"] = f"{error.octaves:.3g}"
    return found


def table_of_measures(pictures: PictureSet, tables: Mapping[str, np.ndarray]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the measures of several schedules."""
    found = {name: measure(pictures, table) for name, table in tables.items()}
    titles = ["schedule", *next(iter(found.values()))]
    return titles, [[name, *values.values()] for name, values in found.items()]
