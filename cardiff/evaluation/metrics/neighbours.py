"""Precision and recall, density and coverage: which samples lie near which real images.

Features are float arrays (N, D) of samples and (M, D) of the reference, which is held fixed: every interval is about
other samples of the same model.
"""

import numpy as np

from cardiff.errors import UserError
from cardiff.evaluation.metrics.intervals import (
    GROUPS,
    REPLICATES,
    Estimate,
    from_jackknife,
    jackknife_groups,
    mean,
    share,
)
from cardiff.evaluation.metrics.pairwise import blocks, squared_distances


def precision_recall(
    features: np.ndarray,
    reference: np.ndarray,
    neighbours: int = 3,
    replicates: int = REPLICATES,
    seed: int = 0,
    real_reach: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> tuple[Estimate, Estimate]:
    """Share of samples within reach of a real image, and of real images within reach of a sample.

    The reach of an image is the distance of its k-th neighbour in its own set: Kynkäänniemi et al., "Improved
    precision and recall metric for assessing generative models" (2019), eqs. 1 and 2.

    The interval of precision is for the probability that a sample of the model is within reach. That of recall is for
    its mean over sets of this size, from a jackknife, since repeated samples would be each other's neighbours; it
    errs on the wide side, 1.2 to 1.6 times, as the jackknife does where each sample matters only beside the others.
    `real_reach`, the squared_reach of the reference, avoids computing it again.

    Raises:
        UserError: There are no more images than neighbours.
    """
    real_reach = squared_reach(reference, neighbours) if real_reach is None else real_reach
    groups = jackknife_groups(len(features), seed=seed, strata=strata)
    reach = _reach_without(features, neighbours, groups)  # (1 + G, N)
    precise = np.empty(len(features), bool)
    recalled = np.zeros((len(reach), len(reference)), bool)
    for rows in blocks(len(features), len(reference), "precision and recall"):
        distances = squared_distances(features[rows], reference)
        precise[rows] = (distances <= real_reach).any(1)
        for found, radii in zip(recalled, reach[:, rows]):
            found |= (distances <= radii[:, None]).any(0)
    recall = recalled.mean(1)
    return share(precise, replicates, seed, strata), from_jackknife(recall[0], recall[1:])


def density_coverage(
    features: np.ndarray,
    reference: np.ndarray,
    neighbours: int = 5,
    replicates: int = REPLICATES,
    seed: int = 0,
    real_reach: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> tuple[Estimate, Estimate]:
    """Real images within whose reach a sample lies, in units of k, and the share of real images that reach a sample.

    Naeem et al., "Reliable fidelity and diversity metrics for generative models" (2020), eqs. 4 and 5.

    The intervals are for their means over sets of this size: of density, an average over samples, from the bootstrap,
    and of coverage from the jackknife, as of recall. `real_reach` is as of precision_recall.

    Raises:
        UserError: There are no more images than neighbours.
    """
    reach = squared_reach(reference, neighbours) if real_reach is None else real_reach
    groups = jackknife_groups(len(features), seed=seed, strata=strata)
    reached = np.empty(len(features))
    covered = np.zeros((GROUPS, len(reference)), bool)  # by a sample of each group
    for rows in blocks(len(features), len(reference), "density and coverage"):
        within = squared_distances(features[rows], reference) <= reach
        reached[rows] = within.sum(1)
        for group in range(GROUPS):
            covered[group] |= within[groups[rows] == group].any(0)
    times = covered.sum(0)
    without = (times - covered > 0).mean(1)
    return mean(reached / neighbours, replicates, seed, strata), from_jackknife((times > 0).mean(), without)


def squared_reach(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance of each image's k-th neighbour in its own set; (N,)."""
    return _reach_without(features, neighbours, None)[0]


def _reach_without(features: np.ndarray, neighbours: int, groups: np.ndarray | None) -> np.ndarray:
    """Squared distance of each image's k-th neighbour, first among all and then without each group; (1 + G, N).

    It is −1 for the images of the group that is left out.
    """
    members: list[slice | np.ndarray] = [slice(None)]
    fewest = len(features)
    if groups is not None:
        members = [np.flatnonzero(groups == g) for g in range(GROUPS)]
        fewest -= len(np.flatnonzero(groups == 0))
    if fewest <= neighbours:
        raise UserError(f"{len(features)} images are too few for {neighbours} nearest neighbours: give more.")
    found = np.empty((1 if groups is None else 1 + GROUPS, len(features)))
    for rows in blocks(len(features), len(features), "nearest neighbours"):
        distances = squared_distances(features[rows], features)
        # The nearest of each group are all that can be among the nearest without another group.
        nearest = [_smallest(distances[:, columns], neighbours + 1) for columns in members]
        left_out = [[], *([n] for n in range(GROUPS))] if groups is not None else [[]]
        for radii, out in zip(found, left_out):
            others = np.concatenate([near for n, near in enumerate(nearest) if n not in out], 1)
            radii[rows] = _smallest(others, neighbours + 1).max(1)
    found *= 1 + 1e-9  # an image at this very distance is within reach, however its distance was rounded
    if groups is not None:
        found[1 + groups, np.arange(len(features))] = -1
    return found


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """The `count` smallest values of each row, unordered."""
    return values if values.shape[1] <= count else np.partition(values, count - 1, axis=1)[:, :count]
