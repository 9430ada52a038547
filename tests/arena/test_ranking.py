"""The statistics of the arena against SciPy, closed forms and tables computed by hand."""

import itertools
import json
import math
import random

import numpy as np
import pytest
from arena_records import record, table
from scipy import stats

from inverse.arena.estimate import Estimate, estimate
from inverse.arena.groups import grouped, observations
from inverse.arena.ranking import (
    cliques,
    compare,
    critical_difference,
    holm,
    leaders,
    pairwise,
    wilcoxon,
)
from inverse.arena.tradeoffs import curves, front, pareto, position, solved
from inverse.arena.values import value

DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.0, 1.0, 1.0, 1.0],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.976, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
"""Area under the curve of four classifiers on fourteen data sets: Demsar 2006, table 6.

One 0.975 is entered as 0.976, because the paper ranks it as the larger of two.
"""


def of_scores(scores, names="abcdefgh", metric="psnr"):
    """A record for each cell of a table (truths, contestants); None is a failed cell."""
    return [
        record(
            names[j],
            truth=i,
            metrics={metric: score},
            status="ok" if score is not None else "failed",
        )
        for i, row in enumerate(scores)
        for j, score in enumerate(row)
    ]


# --- means and intervals ----------------------------------------------------------------------


def test_the_interval_is_students_for_a_normal_sample():
    """The expanded percentile interval of the mean approaches t s / sqrt(n).

    With 4000 resamples, a 97.5 % quantile has an error of about 3 %.
    """
    scores = stats.norm.ppf((np.arange(30) + 0.5) / 30)
    found = estimate(scores.tolist())
    half = stats.t.ppf(0.975, 29) * scores.std(ddof=1) / math.sqrt(30)
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((-half, half), rel=0.06)


def test_the_interval_covers_at_its_level_with_eight_truths():
    """95 % of 1000 intervals within 4 standard errors of 0.7 %.

    The plain percentile interval covers 89 %.
    """
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(1000, 8))
    covered = np.mean([found.low <= 3.0 <= found.high for found in map(estimate, draws.tolist())])
    assert 0.922 < covered < 0.978


def test_two_values_have_their_range_as_interval_and_one_has_none():
    assert (estimate([1.0, 3.0]).low, estimate([1.0, 3.0]).high) == (1.0, 3.0)
    assert estimate([2.5]) == Estimate(2.5, None, None, 1)
    assert estimate([]) is None


def test_an_estimate_does_not_depend_on_the_order_of_the_records():
    scores = np.random.default_rng(1).normal(size=9).tolist()
    assert estimate(scores) == estimate(scores[::-1])


def test_equal_values_have_an_interval_of_zero_width():
    found = estimate([0.1] * 5)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-15)


def test_the_seeds_of_a_truth_are_averaged():
    (group,) = grouped(
        [record(truth=0, seed=s, psnr=20.0) for s in range(3)]
        + [record(truth=1, seed=0, psnr=30.0)]
    )
    assert group.by_truth("psnr") == {0: 20.0, 1: 30.0}
    assert (group.estimate("psnr").mean, group.estimate("psnr").truths) == (25.0, 2)


# --- groups -----------------------------------------------------------------------------------


def test_steps_that_a_budget_chose_do_not_divide_a_contestant():
    fitted = [("deblur", 10, 20), ("deblur", 50, 100), ("denoise", 20, 20)]
    rows = [
        record(problem=problem, options={"steps": steps, "eta": 1.0}, budget={"nfe": nfe})
        for problem, steps, nfe in fitted
    ]
    assert len({group.contestant for group in grouped(rows)}) == 1
    assert len(grouped(rows)) == 3


def test_steps_that_the_suite_set_divide_a_contestant():
    free = [record(options={"steps": s}) for s in (10, 20)]
    pinned = [record(options={"steps": s}, budget={"nfe": 100}) for s in (10, 20)]
    for rows in (free, pinned):
        assert len({group.contestant for group in grouped(rows)}) == 2
        assert len({group.family for group in grouped(rows)}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cuda"},
        {"dtype": "float64"},
        {"prior": {"name": "photo-64", "sha256": "cd"}},
        {"problem_options": {"sigma_y": 0.1}},
    ],
)
def test_another_device_prior_or_problem_is_another_setting(change):
    assert len({group.setting for group in grouped([record(), record(**change)])}) == 2


def test_every_cell_is_counted():
    rows = table(truths=5)
    found = grouped(rows)
    assert sum(
        group.count("ok") + group.count("failed") + group.count("skipped") for group in found
    ) == len(rows)
    assert (
        sum(group.count("failed") for group in found) == sum(r.status == "failed" for r in rows) > 0
    )


@pytest.mark.parametrize(("floor", "efficiency"), [(5.0, 0.5), (10.3, 1.0), (11.9, None)])
def test_an_efficiency_above_one_is_an_error_of_the_clocks(floor, efficiency):
    assert grouped([record(floor_seconds=floor, seconds=10.0)])[0].efficiency == efficiency


def test_efficiency_is_a_ratio_of_sums_over_cells_with_a_floor():
    cells = [
        record(truth=i, seconds=seconds, floor_seconds=floor)
        for i, (seconds, floor) in enumerate([(10.0, 1.0), (2.0, 1.0), (5.0, None)])
    ]
    assert grouped(cells)[0].efficiency == pytest.approx(2 / 12)


def test_a_failed_cell_has_no_value_and_no_influence():
    rows = [record(truth=0, psnr=20.0), record(truth=1, psnr=99.0, status="failed")]
    assert grouped(rows)[0].estimate("psnr").mean == 20.0
    assert grouped(rows)[0].estimate("seconds").truths == 1


def test_nan_counts_as_no_value():
    assert value(record(psnr=float("nan")), "psnr") is None


# --- comparisons ------------------------------------------------------------------------------


def test_demsars_example():
    """Average ranks and critical difference as printed in the paper.

    Its Friedman statistic of 9.28 has no correction for ties.
    """
    found = compare(grouped(of_scores(DEMSAR, ["c", "cm", "ccf", "cmcf"])), "psnr")
    assert [json.loads(c)["name"] for c in found.contestants] == ["cmcf", "cm", "ccf", "c"]
    assert found.ranks == pytest.approx([1.964, 2.000, 2.893, 3.143], abs=5e-4)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    assert found.blocks == found.observations == found.possible == 14
    uncorrected = 12 * 14 / (4 * 5) * (sum(rank**2 for rank in found.ranks) - 4 * 25 / 4)
    ties = sum(float((np.unique(row, return_counts=True)[1] ** 3).sum() - 4) for row in DEMSAR)
    assert uncorrected == pytest.approx(9.28, abs=0.005)
    assert found.friedman == pytest.approx(
        stats.chi2.sf(uncorrected / (1 - ties / (14 * (4**3 - 4))), 3), rel=1e-9
    )


@pytest.mark.parametrize(
    ("k", "q"),
    [
        (2, 1.960),
        (3, 2.343),
        (4, 2.569),
        (5, 2.728),
        (6, 2.850),
        (7, 2.949),
        (8, 3.031),
        (9, 3.102),
        (10, 3.164),
    ],
)
def test_nemenyis_critical_values(k, q):
    """Demsar 2006, table 5 (a)."""
    assert critical_difference(k, 1) == pytest.approx(
        q * math.sqrt(k * (k + 1) / 6), abs=1.5e-3 * math.sqrt(k * (k + 1) / 6)
    )


@pytest.mark.parametrize("n", [3, 6, 13, 30, 50, 51, 80])
def test_wilcoxon_is_scipys(n):
    differences = np.random.default_rng(n).normal(0.3, 1.0, size=n)
    assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences).pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [5, 12, 30])
def test_wilcoxon_with_ties_and_zeros_is_scipys(n):
    """SciPy drops zeros too, but chooses its method by the count before that."""
    differences = np.random.default_rng(n).integers(-3, 6, size=n).astype(float)
    kept = differences[differences != 0]
    assert len(kept) < n or n == 5
    method = stats.PermutationMethod(n_resamples=np.inf) if len(kept) <= 13 else "asymptotic"
    assert wilcoxon(differences) == pytest.approx(
        stats.wilcoxon(kept, method=method).pvalue, rel=1e-9
    )


def test_wilcoxon_of_six_wins_by_hand():
    """If all signs are equal, 2 of the 2^6 assignments are as extreme."""
    assert wilcoxon(np.arange(1.0, 7.0)) == 2 / 64
    assert wilcoxon(np.zeros(6)) == 1.0


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2 (raised to 0.06), 0.6 x 1, in the order of the input."""
    assert holm([0.02, 0.6, 0.01, 0.03]) == pytest.approx([0.06, 0.6, 0.04, 0.06])
    assert holm([0.5, 0.9, 0.4]) == pytest.approx([1.0, 1.0, 1.0])
    assert holm([]).shape == (0,)


def test_holm_keeps_the_family_wise_error():
    """Ten true hypotheses with uniform p values: 5 % of the families have a rejection at 5 %.

    4 standard errors over 4000 families are 1.4 %.
    """
    families = np.random.default_rng(0).uniform(size=(4000, 10))
    assert abs(np.mean([holm(p).min() < 0.05 for p in families]) - 0.0488) < 0.014


def test_pairwise_is_symmetric_and_corrected_over_all_pairs():
    scores = np.random.default_rng(3).normal([0, 0.5, 3], 1, size=(12, 3))
    p = pairwise(scores)
    raw = [
        stats.wilcoxon(scores[:, i], scores[:, j]).pvalue
        for i, j in itertools.combinations(range(3), 2)
    ]
    assert np.array_equal(p, p.T)
    assert (np.diag(p) == 1).all()
    assert p[np.triu_indices(3, 1)] == pytest.approx(holm(raw))


def test_cliques_are_maximal_runs():
    alike = np.eye(5, dtype=bool)
    for i, j in [(0, 1), (1, 2), (0, 2), (2, 3)]:
        alike[i, j] = alike[j, i] = True
    assert cliques(alike) == ((0, 2), (2, 3))
    assert cliques(np.eye(3, dtype=bool)) == ()
    assert cliques(np.ones((4, 4), dtype=bool)) == ((0, 3),)


def test_a_clear_winner_stands_outside_every_clique():
    rng = np.random.default_rng(0)
    found = compare(
        grouped(of_scores(rng.normal([30, 25, 25], 0.3, size=(10, 3)).tolist())), "psnr"
    )
    assert json.loads(found.contestants[0])["name"] == "a"
    assert found.cliques == ((1, 2),)
    assert found.p[0, 1] < 0.05 < found.p[1, 2]


def test_a_metric_with_an_ideal_value_ranks_by_distance():
    found = compare(grouped(of_scores([[0.5, 1.0, 1.2]] * 6, metric="misfit")), "misfit")
    assert [json.loads(c)["name"] for c in found.contestants] == ["b", "c", "a"]


def test_leaders_are_separated_by_paired_differences():
    """b trails a by 1 dB on every truth; c by 0.1 dB on average, and leads on half of them."""
    truths = [20.0, 25.0, 30.0, 35.0, 40.0]
    trail = {"a": [0.0] * 5, "b": [1.0] * 5, "c": [1.0, -0.8, 1.0, -0.8, 0.1]}
    rows = [
        record(name, truth=i, psnr=base - behind[i])
        for name, behind in trail.items()
        for i, base in enumerate(truths)
    ]
    found = grouped(rows)
    assert leaders(found, "psnr") == [0, 2]
    assert leaders(grouped([row for row in rows if row.truth < 4]), "psnr") == [0, 2, 1], (
        "four truths cannot separate methods"
    )
    assert leaders(
        grouped([row for row in rows if (row.method["name"], row.truth) != ("a", 0)]), "psnr"
    ) == [2, 1], "a lacks a cell"
    assert leaders(found, "nothing") == []


def test_comparisons_are_on_common_cells():
    """`a` wins on the common cells; `b` has another cell, which would reverse the means."""
    rows = of_scores([[20, 10]] * 9 + [[None, 500]])
    found = compare(grouped(rows), "psnr")
    assert (found.observations, found.possible, found.ranks) == (9, 10, (1.0, 2.0))
    assert json.loads(found.contestants[0])["name"] == "a"


def test_a_method_with_too_few_finished_cells_is_left_out_and_named():
    found = compare(grouped(of_scores([[3, 2, 1 if i < 4 else None] for i in range(10)])), "psnr")
    assert (len(found.contestants), found.observations) == (2, 10)
    assert {json.loads(c)["name"]: n for c, n in found.left_out.items()} == {"c": 4}


def test_a_method_without_finished_cells_is_named_too():
    found = compare(grouped(of_scores([[3, 2, None]] * 3)), "psnr")
    assert list(found.left_out.values()) == [0]


def test_seeds_are_paired_before_they_are_averaged():
    """Truth 0 lacks seed 1 of `b`, so the bad value of that cell of `a` does not count."""
    rows = [
        record(m, truth=t, seed=s, psnr=p)
        for t in range(6)
        for s in (0, 1)
        for m, p in (("a", 2.0), ("b", 1.0))
        if (m, t, s) != ("b", 0, 1)
    ]
    rows = [
        record("a", truth=0, seed=1, psnr=-100.0)
        if (r.method["name"], r.truth, r.seed) == ("a", 0, 1)
        else r
        for r in rows
    ]
    found = compare(grouped(rows), "psnr")
    assert (found.blocks, found.observations, found.possible, found.ranks) == (
        6,
        11,
        12,
        (1.0, 2.0),
    )


def test_no_comparison_without_rivals_direction_or_common_ground():
    assert compare(grouped(of_scores([[1], [2]])), "psnr") is None
    assert compare(grouped(of_scores([[1, 2]], metric="mystery")), "mystery") is None
    assert compare(grouped(of_scores([[1, None], [None, 2]])), "psnr") is None
    with pytest.raises(ValueError, match="one budget"):
        compare(grouped([record(budget={"nfe": 10}), record("b", budget={"nfe": 20})]), "psnr")


def test_a_comparison_of_many_keeps_the_best():
    scores = [[100.0 - j + 0.01 * i for j in range(35)] for i in range(5)]
    found = compare(grouped(of_scores(scores, [f"m{j:02d}" for j in range(35)])), "psnr")
    assert [json.loads(c)["name"] for c in found.contestants] == [f"m{j:02d}" for j in range(30)]
    assert len(found.left_out) == 5


def test_a_comparison_does_not_depend_on_the_order_of_the_records():
    rows = table(problems=2, methods=5)
    shuffled = random.Random(1).sample(rows, len(rows))
    one, other = compare(grouped(rows), "psnr"), compare(grouped(shuffled), "psnr")
    assert (one.contestants, one.ranks, one.cliques) == (
        other.contestants,
        other.ranks,
        other.cliques,
    )
    assert one.p == pytest.approx(other.p)


# --- cost against quality ---------------------------------------------------------------------


def test_the_front_holds_the_points_that_no_point_dominates():
    """Compared with the definition over all pairs."""
    rng = np.random.default_rng(0)
    points = [tuple(map(float, p)) for p in rng.integers(0, 8, size=(40, 2))]
    dominated = {
        i for i, p in enumerate(points) for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]
    }
    assert sorted(pareto(points)) == sorted(set(range(40)) - dominated)
    assert pareto([None, (1.0, 1.0)]) == [1]
    assert pareto([]) == []


def test_the_front_of_groups_looks_at_means():
    rows = [
        record("slow", psnr=30.0, seconds=9.0),
        record("fast", psnr=20.0, seconds=1.0),
        record("poor", psnr=19.0, seconds=2.0),
    ]
    found = grouped(rows)
    assert [json.loads(found[i].contestant)["name"] for i in front(found, "psnr", "seconds")] == [
        "fast",
        "slow",
    ]


def test_solved_by_hand():
    """The best values are 30 dB on truth 0 and 20 dB on truth 1.

    `a` comes within 1 dB with 20 evaluations on truth 0 and 80 on truth 1; `b` never on truth 0.
    """

    def cell(method, truth, psnr, nfe):
        return record(
            method,
            truth=truth,
            psnr=psnr,
            budget={"nfe": nfe},
            cost={"nfe": nfe, "vjp": 0, "A": 0, "A_adjoint": 0},
            options={"steps": nfe},
        )

    rows = [
        cell("a", 0, 29.5, 20),
        cell("a", 0, 30.0, 80),
        cell("a", 1, 15.0, 20),
        cell("a", 1, 19.0, 80),
    ]
    rows += [
        cell("b", 0, 28.0, 20),
        cell("b", 0, 28.9, 80),
        cell("b", 1, 20.0, 20),
        cell("b", 1, 20.0, 80),
    ]
    found = {
        json.loads(f)["name"]: [(r.truth, r.cost["nfe"]) for r in cells]
        for f, cells in solved(grouped(rows), "psnr", 1.0, "nfe").items()
    }
    assert found == {"a": [(0, 20), (1, 80)], "b": [(1, 20)]}
    assert observations(grouped(rows)) == 2


def test_a_failed_cell_stays_in_the_denominator():
    rows = [record("a", truth=0, psnr=30.0), record("a", truth=1, status="failed", psnr=None)]
    assert observations(grouped(rows)) == 2
    assert [len(cells) for cells in solved(grouped(rows), "psnr", 1.0, "seconds").values()] == [1]


def test_a_relative_target_and_an_ideal_value():
    rows = [
        record("a", metrics={"rmse": 0.100, "misfit": 0.4}),
        record("b", metrics={"rmse": 0.109, "misfit": 0.95}),
    ]

    def names(metric, within):
        found = solved(grouped(rows), metric, within, "seconds")
        return {json.loads(fields)["name"] for fields, cells in found.items() if cells}

    assert names("rmse", 0.05) == {"a"}
    assert names("rmse", 0.10) == {"a", "b"}
    assert names("misfit", 0.1) == {"b"}


def test_curves_follow_steps():
    found = grouped(
        [
            record(options={"steps": s, "eta": e}, psnr=float(s))
            for e in (0, 1)
            for s in (50, 10, 20)
        ]
        + [record("once", options={"steps": 5})]
    )
    lines = curves(found, "steps")
    assert [[position(found[i], "steps") for i in line] for line in lines] == [[10, 20, 50]] * 2
    assert curves(found, "nfe") == []  # all took 100 evaluations
