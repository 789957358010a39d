"""Standard errors and intervals against closed forms, exact coverage and each other."""

import json

import numpy as np
import pytest
from scipy.stats import binom, norm

from cardiff.errors import UserError
from cardiff.evaluation.metrics.intervals import (
    Estimate,
    bootstrap_weights,
    from_bootstrap,
    from_jackknife,
    jackknife_groups,
    mean,
    share,
)


def of(successes: int, count: int) -> Estimate:
    return share(np.arange(count) < successes)


def test_weights_are_draws_with_replacement():
    weights = bootstrap_weights(50, 4000)
    assert (weights.sum(1) == 50).all()
    covariance = np.cov(weights, rowvar=False)  # multinomial: 1 − 1/N, and −1/N between two images
    np.testing.assert_allclose(np.diag(covariance), 1 - 1 / 50, atol=0.12)
    assert covariance[~np.eye(50, dtype=bool)].mean() == pytest.approx(-1 / 50, abs=1e-3)


def test_resampling_hangs_on_count_and_seed_alone():
    for function in (bootstrap_weights, jackknife_groups):
        np.testing.assert_array_equal(function(60, 20, seed=3), function(60, 20, seed=3))
        assert (function(60, 20, seed=3) != function(60, 20, seed=4)).any()
    ours, others = bootstrap_weights(60, 2000)[:, 7], bootstrap_weights(61, 2000)[:, 7]
    assert abs(np.corrcoef(ours, others)[0, 1]) < 0.1


def test_groups_are_of_equal_sizes():
    assert set(np.bincount(jackknife_groups(410))) == {20, 21}
    with pytest.raises(UserError, match="19 images are too few for 20 groups"):
        jackknife_groups(19)


def test_the_bootstrap_of_a_mean_has_its_standard_error():
    values = np.random.default_rng(0).exponential(size=300)
    found = mean(values, replicates=4000)
    assert found.value == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(values.std() / np.sqrt(300), rel=0.05)
    assert np.corrcoef(found.deviations, bootstrap_weights(300, 4000) @ values)[0, 1] == pytest.approx(1)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """Exactly so with groups of one, and its sign is that of what the group adds."""
    values = np.random.default_rng(1).standard_normal(40)
    without = np.array([np.delete(values, i).mean() for i in range(40)])
    found = from_jackknife(values.mean(), without)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(40), rel=1e-12)
    assert np.corrcoef(found.deviations, values)[0, 1] == pytest.approx(1)
    low, high = found.interval(0.9)
    assert (high - low) / 2 == pytest.approx(1.684875 * found.standard_error, rel=1e-6)  # Student, 39 degrees


def test_wilson_in_closed_form():
    z = norm.ppf(0.975)
    for successes, count in ((0, 30), (27, 30), (400, 400)):
        p = successes / count
        center, reach = p + z**2 / (2 * count), z * np.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
        expected = np.array([center - reach, center + reach]) / (1 + z**2 / count)
        np.testing.assert_allclose(of(successes, count).interval(), expected, atol=1e-12)
    assert of(400, 400).interval()[0] == pytest.approx(0.9905, abs=1e-4)
    assert of(400, 400).interval(0.5)[0] > of(400, 400).interval(0.95)[0] > of(400, 400).interval(0.99)[0]


def test_exact_coverage_of_a_share():
    """Summed over every number of successes; value ± 2 standard errors would cover 0.45 at p = 0.99."""
    ends = np.array([of(k, 60).interval() for k in range(61)])
    for p in (0.5, 0.8, 0.9, 0.99):
        inside = (ends[:, 0] <= p) & (p <= ends[:, 1])
        assert 0.92 < binom.pmf(np.arange(61), 60, p)[inside].sum() < 0.99


def test_a_paired_difference_covers_and_is_narrower():
    rng = np.random.default_rng(2)
    covered, errors = [], []
    for _ in range(200):
        noise = rng.standard_normal(200)
        one = share(noise + 0.3 * rng.standard_normal(200) > -0.5, 200)
        other = share(noise + 0.3 * rng.standard_normal(200) > -0.3, 200)
        gap = one.minus(other)
        truth = norm.cdf(0.5 / np.sqrt(1.09)) - norm.cdf(0.3 / np.sqrt(1.09))
        covered.append(gap.interval()[0] <= truth <= gap.interval()[1])
        errors.append([gap.standard_error, np.hypot(one.standard_error, other.standard_error)])
    assert 0.91 < np.mean(covered) < 0.985
    assert np.mean(errors, 0)[0] < 0.55 * np.mean(errors, 0)[1]


def test_a_difference_of_two_certainties_is_not_certain():
    gap = of(400, 400).minus(of(400, 400))
    assert gap.value == gap.standard_error == 0
    reach = 1 - of(400, 400).interval()[0]
    np.testing.assert_allclose(gap.interval(), [-reach, reach])


def test_a_difference_without_bounds_is_of_the_deviations():
    rng = np.random.default_rng(3)
    one, other = (mean(rng.standard_normal(100)) for _ in range(2))
    gap = one.minus(other)
    assert gap.value == one.value - other.value and gap.bounds is None
    np.testing.assert_array_equal(gap.deviations, one.deviations - other.deviations)
    assert one.minus(one).interval() == (0, 0)


def test_only_what_was_replicated_together_is_subtracted():
    with pytest.raises(UserError, match="500 bootstrap replicates and one with 400 bootstrap replicates"):
        of(5, 9).minus(share(np.ones(9), replicates=400))
    with pytest.raises(UserError, match="3 jackknife replicates"):
        of(5, 9).minus(from_jackknife(0.5, np.arange(3.0)))


def test_through_json():
    found = of(395, 400)
    record = json.loads(json.dumps(found.to_dict(with_deviations=True)))
    assert [record["low"], record["high"]] == list(found.interval())
    again = Estimate.from_dict(record)
    np.testing.assert_array_equal(again.deviations, found.deviations)
    assert (again.value, again.method, again.bounds) == (found.value, "bootstrap", found.bounds)
    with pytest.raises(UserError, match="without its deviations"):
        Estimate.from_dict(found.to_dict())


def test_strata_are_resampled_by_themselves():
    strata = np.repeat([3, 0, 7], [5, 20, 1])
    weights = bootstrap_weights(26, 50, 0, strata)
    for label, size in ((3, 5), (0, 20), (7, 1)):
        assert (weights[:, strata == label].sum(1) == size).all()
    assert weights[:, strata == 0].std(0).min() > 0.5
    groups = jackknife_groups(26, 4, 0, strata)
    for label, size in ((3, 5), (0, 20), (7, 1)):
        counts = np.bincount(groups[strata == label], minlength=4)
        assert counts.max() - counts.min() <= 1 and counts.sum() == size


def test_classes_of_a_single_image_are_resampled_as_one():
    """By itself each would leave no spread: a mean over images whose classes were asked for would be certain."""
    strata = np.array([0, 1, 1, 2, 3, 1])
    weights = bootstrap_weights(6, 400, 0, strata)
    alone, together = strata != 1, strata == 1
    assert (weights[:, together].sum(1) == 3).all() and (weights[:, alone].sum(1) == 3).all()
    values = np.random.default_rng(4).normal(size=60)
    found = mean(values, 4000, strata=np.arange(60))
    assert found.standard_error == pytest.approx(values.std() / np.sqrt(60), rel=0.05)


def test_a_resampled_set_of_which_nothing_is_known_counts_as_the_mean_of_the_others():
    found = from_bootstrap(2.0, np.array([1.0, np.nan, 3.0, 2.0]))
    assert found.value == 2 and found.deviations.tolist() == [-1, 0, 1, 0]


def test_with_two_images_of_each_class_the_error_is_too_small_by_the_root_of_a_half():
    """As docs/evaluation.md says: the bootstrap of n images has (n − 1)/n of their variance."""
    values = np.random.default_rng(5).normal(size=1000)
    for size in (2, 10):
        found = mean(values, 1000, strata=np.repeat(np.arange(1000 // size), size))
        assert found.standard_error * np.sqrt(1000) == pytest.approx(np.sqrt(1 - 1 / size), rel=0.05)


def test_the_way_of_replication_counts_and_not_the_number_alone():
    with pytest.raises(UserError, match="3 bootstrap replicates and one with 3 jackknife replicates have no paired"):
        share(np.ones(9), replicates=3).minus(from_jackknife(0.5, np.arange(3.0)))


def test_as_many_images_as_groups():
    assert sorted(jackknife_groups(20)) == list(range(20))
