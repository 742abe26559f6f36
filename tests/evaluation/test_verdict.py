"""The verdict on a learned rotation: its quantiles against scipy, its interval against one worked by hand and against chance itself."""

import math

import numpy as np
import pytest
from scipy import stats

from rotviz.evaluation.verdict import HELPS, HURTS, SAME, UNKNOWN, judge, prediction_interval, t_probability, t_quantile

SEEDS = [10.0, 12.0, 11.0, 13.0, 9.0]  # mean 11, standard deviation sqrt(2.5); t(4, 0.975) = 2.776445


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8, 30, 63])
def test_quantiles_of_student_are_scipys(freedom):
    for probability in (0.6, 0.9, 0.975, 0.999):
        assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-7)
    assert t_probability(1.3, freedom) == pytest.approx(stats.t.cdf(1.3, freedom), rel=1e-12)


def test_prediction_interval_by_hand():
    reach = 2.776445 * math.sqrt(2.5) * math.sqrt(1.2)
    assert prediction_interval(SEEDS) == pytest.approx((11 - reach, 11 + reach), rel=1e-6)


@pytest.mark.parametrize(("value", "kind"), [(6.0, HELPS), (6.3, SAME), (9.0, SAME), (11.0, SAME), (15.7, SAME), (16.0, HURTS)])
def test_a_gain_inside_the_spread_is_none(value, kind):
    found = judge(value, SEEDS)
    assert (found.kind, found.mean, found.seeds) == (kind, 11.0, 5)
    assert found.difference == pytest.approx(value - 11)


@pytest.mark.parametrize("seeds", [[], [3.0], [3.0, math.nan]])
def test_fewer_than_two_seeds_tell_nothing(seeds):
    assert judge(1.0, seeds).kind == UNKNOWN


def test_a_result_that_is_no_number_tells_nothing():
    assert judge(math.nan, SEEDS).kind == UNKNOWN
    assert judge(math.inf, SEEDS).kind == HURTS


def test_seeds_without_a_number_do_not_count():
    assert judge(1.0, [*SEEDS, math.nan, math.inf]).seeds == 5


def test_one_more_draw_is_seldom_called_a_gain_or_a_loss():
    draws = np.random.default_rng(0).normal(5, 0.3, (3000, 6))
    wrong = np.mean([judge(row[0], row[1:]).kind != SAME for row in draws])
    assert 0.035 < wrong < 0.065  # 5 % by construction
