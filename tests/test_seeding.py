"""Random streams: independent of batch, order and the global generator; 0 is an ordinary seed."""

import pytest
import torch
from conftest import normal

import inverse
from inverse.seeding import Generators, SharedStream, seeded


def numbers(generator, n=4):
    return torch.randn(n, generator=generator)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((0,), (1,)),
        ((0, 1), (1, 0)),
        ((1, 23), (12, 3)),
        ((0, "1"), (0, 1)),
        ((0, "noise"), (0, "start")),
        ((0, "noise", 3), (0, 3)),
        ((0, "ab"), (0, "a", "b")),
    ],
)
def test_different_keys_give_different_streams(a, b):
    assert not torch.equal(numbers(seeded(*a)), numbers(seeded(*b)))


def test_the_same_key_gives_the_same_stream():
    assert torch.equal(numbers(seeded(0, "noise", 3)), numbers(seeded(0, "noise", 3)))


def test_a_stream_is_the_same_on_every_machine():
    """A recorded seed; if it changed, every published result would change."""
    assert seeded(0, "image", 0, "sample", 0).initial_seed() == 8120533913712005212


@pytest.mark.usefixtures("unchanged_randomness")
def test_the_global_generator_is_not_used():
    g = Generators.for_samples(0, 2, 2)
    g.randn_like(torch.zeros(4, 3))
    g.rand_like(torch.zeros(4, 3))
    g.permutations(5)


@pytest.mark.parametrize("seed", [0, 1, 2**40, 2**63])
def test_the_global_generator_has_no_influence(seed):
    torch.manual_seed(1)
    first = numbers(seeded(seed))
    torch.manual_seed(2)
    assert torch.equal(numbers(seeded(seed)), first)


def test_a_negative_seed_is_refused():
    with pytest.raises(inverse.InverseError, match="seed must be at least 0, got -1"):
        seeded(-1, "noise")


def test_rows_are_ordered_by_image_then_by_sample():
    draws = Generators.for_samples(5, 2, 3).randn_like(torch.zeros(6, 4))
    expected = torch.stack(
        [numbers(seeded(5, "image", i, "sample", j)) for i in range(2) for j in range(3)]
    )
    assert torch.equal(draws, expected)


def test_parts_with_a_first_image_equal_the_whole():
    like = torch.zeros(2, 4)
    whole = Generators.for_samples(5, 4, 1).randn_like(torch.zeros(4, 4))
    parts = [Generators.for_samples(5, 2, 1, first_image=i).randn_like(like) for i in (0, 2)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_row_does_not_depend_on_the_number_of_rows():
    few, many = (Generators.for_samples(5, 1, n).randn_like(torch.zeros(n, 4)) for n in (2, 7))
    assert torch.equal(few, many[:2])


def test_rows_of_a_batch_differ():
    draws = Generators.for_samples(0, 4, 4).randn_like(torch.zeros(16, 8))
    assert len({tuple(row.tolist()) for row in draws}) == 16


def test_each_row_has_its_own_permutation():
    rows = Generators.for_samples(0, 1, 8).permutations(20)
    assert torch.equal(rows.sort(1).values, torch.arange(20).expand(8, 20))
    assert len({tuple(row.tolist()) for row in rows}) == 8


def test_normal_draws_are_normal():
    """Mean, variance and correlation of rows for 200000 draws, within 4 standard errors."""
    z = Generators.for_samples(0, 10, 10).randn_like(torch.zeros(100, 2000, dtype=torch.float64))
    n = z.numel()
    assert z.mean().abs() < 4 / n**0.5
    assert (z.var() - 1).abs() < 4 * (2 / n) ** 0.5
    assert (z[1:] * z[:-1]).mean().abs() < 4 / n**0.5


def test_uniform_draws_are_uniform():
    """The mean is within 4 standard errors, sqrt(1 / 12 / n)."""
    u = Generators.for_samples(0, 10, 10).rand_like(torch.zeros(100, 2000, dtype=torch.float64))
    assert ((u >= 0) & (u < 1)).all()
    assert (u.mean() - 0.5).abs() < 4 * (1 / 12 / u.numel()) ** 0.5


def test_draws_have_the_dtype_of_the_argument():
    assert Generators.for_samples(0, 1, 2).randn_like(normal(2, 3)).dtype == torch.float64


def test_a_batch_of_another_size_raises():
    with pytest.raises(ValueError, match="2 rows were seeded, the batch has 3"):
        Generators.for_samples(0, 1, 2).randn_like(torch.zeros(3, 4))


def test_measurement_and_method_have_different_streams():
    """Seed 0 of the measurement and seed 0 of the solve give different streams."""
    assert not torch.equal(
        numbers(seeded(0, "measurement", 0)), numbers(Generators.for_samples(0, 1, 1).rows[0])
    )


def test_samples_of_an_image_do_not_depend_on_their_number(gaussian_posterior):
    """It holds for methods without an ensemble."""
    method = inverse.get_method("diffpir", steps=3)
    few, many = (inverse.solve(gaussian_posterior(), method, samples=n).samples for n in (2, 5))
    torch.testing.assert_close(few, many[:, :2], rtol=0, atol=1e-12)


def test_a_shared_stream_equals_its_generator():
    shared, generator = SharedStream(inverse.seeded(1), 3), inverse.seeded(1)
    x = torch.empty(3, 2, dtype=torch.float64)
    normal_draws = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    assert torch.equal(shared.randn_like(x), normal_draws)
    uniform_draws = torch.rand(3, 2, generator=generator, dtype=torch.float64)
    assert torch.equal(shared.rand_like(x), uniform_draws)
    with pytest.raises(ValueError, match="3 rows"):
        shared.randn_like(x[:2])
