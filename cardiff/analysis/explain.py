"""What a schedule does to a data set, in words: every sentence follows from the schedule's own measures."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from cardiff.analysis.errors import error_terms
from cardiff.analysis.measures import GONE, MAX_LEAK, WHOLE, DataMeasures, ScheduleMeasures, first_below, merged
from cardiff.analysis.optimum import Point, point_of
from cardiff.diffusion.levels import visited_levels
from cardiff.markup import escape
from cardiff.schedulers.spectrum import Spectrum

CLEAN, FINE, MIDDLE, COARSE, NOISE = range(5)
ZONES = (
    "idle near the clean image, where every octave is intact",
    "where the fine octaves are lost",
    "in the middle",
    "where the coarse octaves are lost",
    "idle in noise, where every octave is gone",
)
"""Parts of the way from image to noise, by how much structure is left."""
WASTE = 0.1
"""Share of idle timesteps worth a sentence."""


def explain(
    measures: ScheduleMeasures,
    data: DataMeasures,
    *,
    solver: str,
    steps: int,
    distance: float,
    others: Sequence[ScheduleMeasures],
    ours: bool,
) -> str:
    """A paragraph on one schedule.

    Args:
        measures: The schedule.
        data: The data set it was measured on.
        solver: "ddpm" or "ddim", whose error is looked into.
        steps: Sampling steps.
        distance: What `Optimum.distance` says of it; not finite if unknown.
        others: What it is compared with: our schedules for one of somebody else, and the other way round.
        ours: Whether it is one of ours.
    """
    spectrum = merged(data.model.spectrum)
    parts = [
        _where_the_steps_go(measures),
        _when_octaves_die(measures),
        _when_identity_goes(measures, data),
        _what_leaks(measures, data.model.spectrum),
        _what_it_costs(measures, spectrum, solver, steps),
        _how_it_compares(measures, spectrum, solver, steps, distance, others, ours),
    ]
    return " ".join(parts)


def zones(octaves: np.ndarray) -> np.ndarray:
    """The part of the way (CLEAN … NOISE) that each timestep belongs to, from the readable shares (T, K); (T,)."""
    structure = octaves.mean(1)
    zone = np.where(structure > 2 / 3, FINE, np.where(structure > 1 / 3, MIDDLE, COARSE))
    return np.where(octaves.min(1) > WHOLE, CLEAN, np.where(octaves.max(1) < GONE, NOISE, zone))


def error_by_step(spectrum: Spectrum, log_snr: np.ndarray, solver: str) -> np.ndarray:
    """The relative error of each band, split over the n steps, cleanest first, and the start; (n + 1, M).

    Each step has the share of its own term in the sums of cardiff.analysis.errors; what the start from pure noise
    misses, in mean and variance, comes last.
    """
    steps, start, ratios, mean = (
        part.numpy() for part in error_terms(spectrum, torch.from_numpy(log_snr.copy()), solver)
    )
    terms = np.vstack([steps, np.abs(start)])
    split = terms / terms.sum(0) * (1 - np.sqrt(ratios)) ** 2
    split[-1] += mean
    return split


def octave_name(octave: int) -> str:
    """What an octave of `octave_of` holds."""
    return "the mean brightness" if octave == 0 else f"{2 ** (octave - 1)} to {2**octave} cycles an image"


def dominates(better: Point, worse: Point) -> bool:
    """Whether the first has as much structure and no larger error in either norm."""
    return better.structure >= worse.structure and better.pixels <= worse.pixels and better.octaves <= worse.octaves


def _where_the_steps_go(measures: ScheduleMeasures) -> str:
    zone = zones(measures.octaves)
    parts = []
    for z, name in enumerate(ZONES):
        inside = measures.log_snr[zone == z]
        if len(inside) > len(zone) / 200:  # shown as 1% or more
            parts.append(f"{len(inside) / len(zone):.0%} {name} (log-SNR {_nats(inside[0])} to {_nats(inside[-1])})")
    text = f"Of its timesteps it spends {_listed(parts)}."
    if measures.idle_noise > WASTE:
        text += f" It idles in noise: in the last {measures.idle_noise:.0%} of the timesteps no octave is readable."
    if measures.idle_clean > WASTE:
        text += f" It idles near the clean image: in {measures.idle_clean:.0%} of the timesteps every octave is still "
        text += "intact."
    return text


def _when_octaves_die(measures: ScheduleMeasures) -> str:
    lives = measures.octave_half_lives
    finest = len(lives) - 1
    order = sorted(range(finest - 1, -1, -1), key=lambda k: lives[k])
    rest = [f"{octave_name(k)} at {_time(lives[k], measures)}" for k in order]
    text = f"The finest octave ({octave_name(finest)}) is half gone at {_time(lives[finest], measures)}"
    return text + (f"; of the others, {_listed(rest)}." if rest else ".")


def _when_identity_goes(measures: ScheduleMeasures, data: DataMeasures) -> str:
    recovered = first_below(measures.recovery, 0.5)
    half = first_below(measures.information, data.posterior.information.max() / 2)
    text = ""
    if measures.class_information is not None and data.posterior.class_information is not None:
        gone = first_below(measures.class_information, data.posterior.class_information.max() / 2)
        text = f"Half of the information on the class is lost at {_time(gone, measures)}; "
    text += (
        f"for most noisy images the original can be identified until {_time(recovered, measures)}, and half of the "
    )
    text += f"information on the image is lost at {_time(half, measures)}."
    return text[0].upper() + text[1:]


def _what_leaks(measures: ScheduleMeasures, spectrum: Spectrum) -> str:
    last = measures.log_snr[-1]
    if not measures.leaks:
        return f"It ends at log-SNR {_nats(last)} and leaks {measures.leak:.1g} nats, within the {MAX_LEAK:g} allowed."
    of_variance = replace(spectrum, mean_powers=np.zeros_like(spectrum.mean_powers)).leak(last)
    of_mean = 1 - of_variance / measures.leak
    source = "the mean image" if of_mean > 0.5 else "the variance"
    needed = spectrum.log_snr_of_leak(MAX_LEAK)
    return (
        f"It leaks {measures.leak:.2g} nats at its last step, {max(of_mean, 1 - of_mean):.0%} of it from {source}: "
        f"it ends at log-SNR {_nats(last)}, where this data set needs {_nats(needed)} or less, so sampling from pure "
        "noise starts beside the trained path."
    )


def _what_it_costs(measures: ScheduleMeasures, spectrum: Spectrum, solver: str, steps: int) -> str:
    visited = visited_levels(measures.log_snr, steps)
    zone = np.append(visited_levels(zones(measures.octaves), steps), NOISE)  # the start counts to the noisy end
    split = error_by_step(spectrum, visited, solver)
    found = []
    for norm, weights in (("in pixels", spectrum.pixel_weights), ("by octave", spectrum.octave_weights)):
        by_step, total = split @ weights, (split @ weights).sum()
        by_octave = np.bincount(spectrum.octaves, split.sum(0) * weights)
        worst = int(by_octave.argmax())
        # The step to the clean image is a place of its own.
        by_zone = np.bincount(zone[1:], by_step[1:], minlength=len(ZONES))
        if by_step[0] > by_zone.max():
            place = f"the last step, from log-SNR {_nats(visited[0])} to the clean image, contributes "
            place += f"{by_step[0] / total:.0%}"
        else:
            z = int(by_zone.argmax())
            count = int((zone[1:-1] == z).sum())
            where = "at the noisy end" if z == NOISE else ZONES[z].split(",")[0]
            place = f"the {count} steps {where} contribute" if count > 1 else f"a single step {where} contributes"
            place += f" {by_zone[z] / total:.0%}"
        found.append((f"{total:.1e} {norm}", f"{by_octave[worst] / total:.0%} of it in {octave_name(worst)}", place))
    (pixels, pixels_in, pixels_at), (octaves, octaves_in, octaves_at) = found
    text = f"With {steps} {solver.upper()} steps its error is {pixels} ({pixels_in}; {pixels_at})"
    text += f" and {octaves} ({octaves_in}; {octaves_at})."
    if "last step" in pixels_at and "last step" in octaves_at:
        text += " The largest part arises in the last step: the log-SNR at its clean end is too low."
    elif "noisy end" in pixels_at and "noisy end" in octaves_at:
        text += " The largest part arises at the noisy end: the first steps out of the noise are too long."
    return text


def _how_it_compares(
    measures: ScheduleMeasures,
    spectrum: Spectrum,
    solver: str,
    steps: int,
    distance: float,
    others: Sequence[ScheduleMeasures],
    ours: bool,
) -> str:
    def stand(m: ScheduleMeasures) -> Point:
        return point_of(spectrum, m.log_snr, solver, steps)

    mine = stand(measures)
    points = {other.name: stand(other) for other in others if not other.leaks}
    if measures.leaks:
        return "Its structure and errors benefit from the leak, so it is ranked after all schedules that do not leak."
    text = ""
    if np.isfinite(distance):
        above = np.expm1(max(distance, 0.0))
        if above < 0.01:
            text = "It is on the front: no schedule with its structure has both errors smaller by 1% or more. "
        elif above < 1:
            text = f"Both its errors are {above:.0%} or more above those of the best schedule with its structure. "
        else:
            text = f"Both its errors are {1 + above:.2g} or more times those of the best schedule with its structure. "
    if not points:
        return text.strip()
    if ours:
        beaten = [name for name, point in points.items() if dominates(mine, point)]
        unbeaten = [name for name in points if name not in beaten]
        shown = ""
        if beaten and unbeaten:  # the shorter list
            few = len(beaten) <= len(unbeaten)
            shown = f": {_names(beaten)}" if few else f", all but {_names(unbeaten)}"
        count = f"{len(beaten)} of the {len(points)} schedules of others that do not leak"
        return f"{text}In structure and both errors at once it beats {count}{shown}."
    gains = {
        name: min(np.log(mine.pixels / point.pixels), np.log(mine.octaves / point.octaves))
        for name, point in points.items()
        if dominates(point, mine)
    }
    if not gains:
        return text + "None of our schedules beats it in structure and both errors at once."
    best = max(gains, key=lambda name: gains[name])
    point = points[best]
    return (
        f"{text}Our {escape(best)} beats it in all three: structure {point.structure:.2f} against "
        f"{mine.structure:.2f}, errors smaller by factors of {mine.pixels / point.pixels:.2g} in pixels and "
        f"{mine.octaves / point.octaves:.2g} by octave."
    )


def _time(t: float, measures: ScheduleMeasures) -> str:
    """A time as text; what never happens is at the end."""
    return "t = 1, the very end" if t == 1 else f"t = {t:.{2 if len(measures.log_snr) < 1000 else 3}f}"


def _nats(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # no -0.0


def _names(names: list[str]) -> str:
    return _listed([f"*{escape(name)}*" for name in names])  # some have commas


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
