"""Results: files, atomic writes, weighted means and deviations, draws, costs."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import normal

import inverse
from inverse.errors import InputError, OptionError
from inverse.execution import Cost
from inverse.io.files import atomic_write
from inverse.result import Result


def result(images=2, samples=5, weighted=False, shape=(3, 4, 6), **more):
    fields = {
        "samples": normal(images, samples, *shape).float(),
        "y": normal(images, 3, 2, seed=1).float(),
        "misfit": normal(images, samples, seed=2).float().square(),
        "cost": Cost(rows=10, prior_rows=1000, vjp_rows=500, A_rows=20, A_adjoint_rows=10),
        "seconds": 1.25,
        "truth": normal(images, *shape, seed=3).float(),
        "provenance": {
            "method": {"name": "dps", "options": {"steps": 100, "zeta": 1.0}},
            "seed": 0,
            "note": "Grüße",
        },
    }
    if weighted:
        fields |= {
            "log_weights": normal(images, samples, seed=4).log_softmax(1),
            "log_evidence": normal(images, seed=5),
        }
    return Result(**{**fields, **more})


TENSORS = ("samples", "y", "misfit", "truth", "log_weights", "log_evidence")

# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [*TENSORS, "cost", "seconds", "interrupted", "provenance"])
def test_saved_fields_are_loaded(tmp_path, name, weighted):
    before = result(weighted=weighted, interrupted=True)
    before.save(tmp_path / "result.h5")
    after = Result.load(tmp_path / "result.h5")
    loaded, saved = getattr(after, name), getattr(before, name)
    assert torch.equal(loaded, saved) if torch.is_tensor(saved) else loaded == saved


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(tmp_path, dtype):
    before = result(samples=1)
    before = Result(**{**vars(before), "samples": normal(2, 1, 3, 4, 6).to(dtype)})
    before.save(tmp_path / "result.h5")
    assert torch.equal(Result.load(tmp_path / "result.h5").samples, before.samples)


def test_missing_fields_stay_missing(tmp_path):
    result(truth=None).save(tmp_path / "result.h5")
    after = Result.load(tmp_path / "result.h5")
    assert after.truth is after.log_weights is after.log_evidence is None


def test_nan_misfits_are_loaded(tmp_path):
    result(misfit=torch.full((2, 5), math.nan)).save(tmp_path / "result.h5")
    assert torch.isnan(Result.load(tmp_path / "result.h5").misfit).all()


def test_the_result_of_a_solve_is_loaded_with_its_cost_and_options(tmp_path, gaussian_posterior):
    before = inverse.solve(gaussian_posterior(), "diffpir", samples=2)
    before.save(tmp_path / "result.h5")
    after = Result.load(tmp_path / "result.h5")
    assert torch.equal(after.samples, before.samples)
    assert after.cost == before.cost
    assert after.provenance["method"]["options"] == before.provenance["method"]["options"]


def test_a_tensor_that_is_a_view_can_be_saved(tmp_path):
    """A view of a larger batch is not contiguous."""
    before = result(truth=normal(2, 4, 6, 3).float().movedim(-1, 1))
    before.save(tmp_path / "result.h5")
    assert torch.equal(Result.load(tmp_path / "result.h5").truth, before.truth)


# --- atomic writes ----------------------------------------------------------------------------


def interrupt_write(path, error):
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupt_write(tmp_path / "result.h5", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path):
    (tmp_path / "result.h5").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        interrupt_write(tmp_path / "result.h5", OSError("disk full"))
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("result.h5", b"old")]


def test_a_finished_write_replaces_the_old_file(tmp_path):
    (tmp_path / "result.h5").write_bytes(b"old")
    with atomic_write(tmp_path / "result.h5") as temporary:
        temporary.write_bytes(b"new")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("result.h5", b"new")]


def test_a_save_that_fails_half_way_leaves_nothing(tmp_path):
    """The cost is written after the datasets and cannot be written as JSON."""
    with pytest.raises(TypeError):
        result(cost=Cost(rows=torch.zeros(2))).save(tmp_path / "result.h5")
    assert list(tmp_path.iterdir()) == []


# --- invalid files ----------------------------------------------------------------------------


def saved(folder):
    path = folder / "result.h5"
    result().save(path)
    return path


def cut(path, keep):
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def without(path, attribute):
    with h5py.File(path, "a") as file:
        del file.attrs[attribute]


def without_samples(path):
    with h5py.File(path, "a") as file:
        del file["samples"]


def with_group(path):
    with h5py.File(path, "a") as file:
        file.create_group("more")


def with_extra(path):
    with h5py.File(path, "a") as file:
        file["surprise"] = np.zeros(3)


def with_bad_json(path):
    with h5py.File(path, "a") as file:
        file.attrs["cost"] = "{rows"


DAMAGE = {
    "half": lambda path: cut(path, 0.5),
    "last-byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: cut(path, 0),
    "text": lambda path: path.write_text("not a result"),
    "other-hdf5": lambda path: without(path, "format"),
    "no-cost": lambda path: without(path, "cost"),
    "no-seconds": lambda path: without(path, "seconds"),
    "no-samples": without_samples,
    "a-group": with_group,
    "another-dataset": with_extra,
    "bad-json": with_bad_json,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_an_input_error(tmp_path, damage):
    path = saved(tmp_path)
    damage(path)
    with pytest.raises(InputError, match=r"result\.h5"):
        Result.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.h5: no such file"):
        Result.load(tmp_path / "nothing.h5")


# --- mean and standard deviation --------------------------------------------------------------


def test_equal_weights_give_numpys_mean_and_deviation():
    """Float32 sums of five numbers, hence 1e-6."""
    r = result()
    np.testing.assert_allclose(r.mean, r.samples.numpy().mean(1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(r.std, r.samples.numpy().std(1, ddof=1), rtol=0, atol=1e-6)


def test_weights_are_normalised_over_the_samples_of_each_image():
    r = result(log_weights=normal(2, 5) + 300)
    torch.testing.assert_close(r.weights.sum(1), torch.ones(2), rtol=0, atol=1e-6)


def test_the_weighted_mean_is_numpys_average():
    r = result(weighted=True)
    expected = [
        np.average(r.samples[i].numpy(), axis=0, weights=r.weights[i].numpy()) for i in range(2)
    ]
    np.testing.assert_allclose(r.mean, np.stack(expected), rtol=0, atol=1e-6)


def test_the_weighted_deviation_is_numpys_with_reliability_weights():
    """sum w (x - mean)^2 / (1 - sum w^2): numpy's cov with aweights."""
    r = result(weighted=True)
    for i in range(2):
        expected = [
            np.cov(pixel, aweights=r.weights[i].numpy())
            for pixel in r.samples[i].flatten(1).T.numpy()
        ]
        np.testing.assert_allclose(r.std[i].flatten(), np.sqrt(expected), rtol=0, atol=1e-5)


def test_equal_log_weights_equal_no_weights():
    a, b = result(), result(log_weights=torch.zeros(2, 5))
    torch.testing.assert_close(a.mean, b.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(a.std, b.std, rtol=0, atol=1e-6)


def test_a_particle_of_weight_zero_does_not_count():
    log_weights = torch.zeros(2, 5)
    log_weights[:, -1] = -math.inf
    weighted = result(log_weights=log_weights)
    smaller = Result(**{**vars(result(samples=4)), "samples": weighted.samples[:, :4]})
    torch.testing.assert_close(weighted.mean, smaller.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(weighted.std, smaller.std, rtol=0, atol=1e-6)


def test_the_deviation_of_one_sample_is_zero():
    assert (result(samples=1).std == 0).all()


def test_the_deviation_of_one_weighted_particle_is_zero():
    log_weights = torch.full((2, 5), -math.inf)
    log_weights[:, 2] = 0
    r = result(log_weights=log_weights)
    assert torch.equal(r.mean, r.samples[:, 2])
    assert (r.std == 0).all()


# --- the best sample, and draws ---------------------------------------------------------------


def test_the_best_sample_has_the_largest_weight():
    r = result(weighted=True)
    for i in range(2):
        assert torch.equal(r.best[i], r.samples[i, int(r.log_weights[i].argmax())])


def test_draws_have_frequencies_equal_to_the_weights():
    """Frequencies of 20000 draws, within 4 standard errors."""
    r = result(
        log_weights=torch.tensor([[0.5, 0.3, 0.2, 0.0, 0.0], [0.0, 0.1, 0.1, 0.4, 0.4]]).log()
    )
    draws = r.draw(20000)
    for i in range(2):
        frequency = (draws[i][:, None, 0, 0, 0] == r.samples[i][None, :, 0, 0, 0]).double().mean(0)
        w = r.weights[i].double()
        assert ((frequency - w).abs() <= 4 * (w * (1 - w) / 20000).sqrt()).all()


def test_draws_depend_on_their_seed_alone():
    r = result(weighted=True)
    assert torch.equal(r.draw(50, seed=1), r.draw(50, seed=1))
    assert not torch.equal(r.draw(50, seed=1), r.draw(50, seed=2))


def test_draws_of_equal_weights_are_samples():
    draws = result().draw(3)
    assert draws.shape == (2, 3, 3, 4, 6)
    assert all(
        (draws[i, j] == result().samples[i]).flatten(1).all(1).any()
        for i in range(2)
        for j in range(3)
    )


def test_the_effective_size_of_equal_weights_is_their_number():
    torch.testing.assert_close(
        result().ess, torch.full((2,), 5.0, dtype=torch.float64), rtol=1e-6, atol=0
    )
    single = torch.full((2, 5), -math.inf)
    single[:, 2] = 0
    torch.testing.assert_close(
        result(log_weights=single).ess, torch.ones(2, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_a_draw_of_no_samples_is_refused():
    with pytest.raises(OptionError, match="count must be at least 1, got 0"):
        result().draw(0)


# --- costs ------------------------------------------------------------------------------------


def test_costs_are_per_sample():
    cost = Cost(rows=10, prior_rows=1000, vjp_rows=500, A_rows=20, A_adjoint_rows=10)
    assert (cost.nfe, cost.vjp, cost.A, cost.A_adjoint) == (100, 50, 2, 1)


@pytest.mark.parametrize("samples", [1, 3])
def test_the_cost_of_red_diff_is_its_steps(gaussian_posterior, samples):
    """One prior evaluation per step, and no VJP."""
    cost = inverse.solve(
        gaussian_posterior(), inverse.get_method("red-diff", steps=7), samples=samples
    ).cost
    assert (cost.nfe, cost.vjp) == (7, 0)


def test_misfit_is_near_one_for_the_truth(gaussian_posterior):
    """Mean chi-square of 2 x 192 measurements, within 4 standard errors of sqrt(2 / 384)."""
    from inverse.engine import residual_chi_square

    posterior = gaussian_posterior("denoise")
    chi = residual_chi_square(posterior, posterior.prior.encode(posterior.truth))
    assert (chi.mean() - 1).abs() < 4 * (2 / posterior.y.numel()) ** 0.5


def test_scoring_a_result_is_not_counted(gaussian_posterior):
    """An observer that computes the misfit of every iterate is not counted either."""
    posterior, misfits = gaussian_posterior("denoise"), []
    observed = inverse.solve(posterior, "diffpir", observers=[lambda *a: misfits.append(a[3]())])
    assert len(misfits) == 100
    assert observed.cost == inverse.solve(posterior, "diffpir").cost


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "result.h5"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device"), atomic_write(path):
        Path("/dev/full").write_bytes(b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["result.h5"]
    assert path.read_bytes() == b"old"
