"""Grids and operators of weather fields: adjoints, areas, the meridian, the poles; float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import dense, normal

import inverse
from inverse.errors import InputError, OptionError
from inverse.measurement.operators import adjoint_error, clone
from inverse_problems.atmosphere.grid import Grid, distance
from inverse_problems.atmosphere.operators import coarsen, combine, sample, select

REGION = Grid.of(np.linspace(58, 50, 9), np.linspace(-10, 2, 13))
GLOBE = Grid.of(np.linspace(90, -90, 13), np.arange(0, 360, 15.0))
PLACES = torch.tensor([51.3, 57.9, 50.0, 58.0, 54.5]), torch.tensor([-9.7, 1.99, -10.0, 2.0, -3.21])
GLOBAL_PLACES = (
    torch.tensor([51.3, -89.0, 90.0, 0.0, 7.5]),
    torch.tensor([359.0, -179.9, 12.0, -1.0, 352.5]),
)

OPERATORS = {
    "coarsen 4": (lambda: coarsen(REGION, 4), (2, 9, 13)),
    "coarsen 3, globe": (lambda: coarsen(GLOBE, 3), (1, 13, 24)),
    "coarsen, partly seen": (
        lambda: coarsen(REGION, 4, torch.arange(12).reshape(1, 3, 4) % 3 > 0),
        (1, 9, 13),
    ),
    "sample": (lambda: sample(REGION, *PLACES), (1, 9, 13)),
    "sample, globe": (
        lambda: sample(GLOBE, *GLOBAL_PLACES, channels=3, channel=torch.tensor([0, 2, 1, 1, 2])),
        (3, 13, 24),
    ),
    "combine": (lambda: combine(normal(2, 3)), (3, 9, 13)),
    "select": (lambda: select((2, 0), 3), (3, 9, 13)),
    "stack": (
        lambda: inverse.stack(
            {"coarse": coarsen(REGION, 4), "stations": sample(REGION, *PLACES)}, (1, 9, 13)
        ),
        (1, 9, 13),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_matches_the_dot_test(name):
    make, shape = OPERATORS[name]
    assert adjoint_error(clone(make(), "cpu", torch.float64), shape) < 1e-14


@pytest.mark.parametrize("name", OPERATORS)
def test_float32_and_gradients_pass_through(name):
    make, shape = OPERATORS[name]
    operator = clone(make(), "cpu", torch.float32)
    x = normal(2, *shape, dtype=torch.float32).requires_grad_()
    y = operator.A(x)
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(y, x, v)
    torch.testing.assert_close(gradient, operator.A_adjoint(v), rtol=1e-5, atol=1e-5)


# --- coarsening -------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 9])
def test_coarsening_is_the_area_weighted_mean_of_each_block(factor):
    field = normal(1, 1, *REGION.shape)
    weights = np.cos(np.deg2rad(REGION.latitudes))[:, None] * np.ones(REGION.shape[1])
    y, x = coarsen(REGION, factor).A(field)[0, 0].numpy(), field[0, 0].numpy()
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            block = np.s_[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
            assert y[i, j] == pytest.approx(np.average(x[block], weights=weights[block]), abs=1e-12)


def test_coarsening_keeps_the_global_mean():
    """The factor divides the grid, including the half cells at the poles."""
    areas, field = GLOBE.row_areas(), normal(1, 1, *GLOBE.shape)
    coarse = coarsen(GLOBE, 3).A(field)[0, 0]
    blocks = torch.stack([part.sum() for part in areas.split(3)])
    assert float((coarse.mean(1) * blocks).sum()) == pytest.approx(
        float((field[0, 0].mean(1) * areas).sum()), abs=1e-12
    )


def test_areas_sum_to_the_sphere():
    assert float(GLOBE.row_areas().sum()) == pytest.approx(2.0, abs=1e-14)
    assert float(GLOBE.row_areas()[0]) > 0


def test_observed_blocks_equal_those_of_the_whole_field():
    seen = torch.rand(1, 3, 4, generator=inverse.seeded("seen")) > 0.4
    field = normal(2, 1, *REGION.shape)
    assert torch.equal(
        coarsen(REGION, 4, seen).A(field)[:, 0, 0], coarsen(REGION, 4).A(field)[:, seen]
    )


@pytest.mark.parametrize("factor", [0, 10])
def test_impossible_factors_are_refused(factor):
    with pytest.raises(OptionError, match="from 1 to 9"):
        coarsen(REGION, factor)


# --- sampling ---------------------------------------------------------------------------------


def test_sampling_is_exact_for_bilinear_fields():
    lat, lon = (torch.tensor(c, dtype=torch.float64) for c in (REGION.latitudes, REGION.longitudes))
    field = (1 + lat[:, None]) * (2 - 0.3 * lon)
    at, on = (p.double() for p in PLACES)
    torch.testing.assert_close(
        sample(REGION, *PLACES).A(field[None, None])[0, 0, 0],
        (1 + at) * (2 - 0.3 * on),
        rtol=1e-12,
        atol=1e-12,
    )


def test_sampling_at_grid_points_returns_them():
    field = normal(1, 1, *GLOBE.shape)
    lat = torch.tensor(GLOBE.latitudes)
    lon = torch.tensor(GLOBE.longitudes)
    places = lat.repeat_interleave(len(lon)), lon.repeat(len(lat))
    torch.testing.assert_close(
        sample(GLOBE, *places).A(field).flatten(), field.flatten(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("turn", [-360.0, 0.0, 360.0])
def test_longitude_is_modulo_360(turn):
    field, (lat, lon) = normal(1, 1, *GLOBE.shape), GLOBAL_PLACES
    expected = sample(GLOBE, lat.double(), lon.double()).A(field)
    torch.testing.assert_close(
        sample(GLOBE, lat.double(), lon.double() + turn).A(field), expected, rtol=0, atol=1e-9
    )


def test_sampling_crosses_the_first_meridian():
    """East of 345 degrees the next column is the first one."""
    field = torch.zeros(1, 1, *GLOBE.shape, dtype=torch.float64)
    field[..., 0], field[..., -1] = 4.0, 1.0
    assert float(
        sample(GLOBE, torch.tensor([10.0]), torch.tensor([355.0])).A(field)
    ) == pytest.approx(1 + 2 / 3 * 3)


def test_rolling_longitude_rolls_the_measurement():
    field, (lat, lon) = normal(1, 1, *GLOBE.shape), GLOBAL_PLACES
    moved = sample(GLOBE, lat, lon.double() + 45).A(field.roll(3, -1))
    torch.testing.assert_close(moved, sample(GLOBE, lat, lon.double()).A(field), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        coarsen(GLOBE, 3).A(field.roll(6, -1)),
        coarsen(GLOBE, 3).A(field).roll(2, -1),
        rtol=0,
        atol=1e-12,
    )


def test_the_order_of_latitudes_does_not_matter():
    field, up = normal(1, 1, *REGION.shape), Grid(REGION.latitudes[::-1], REGION.longitudes)
    torch.testing.assert_close(
        sample(up, *PLACES).A(field.flip(-2)), sample(REGION, *PLACES).A(field), rtol=0, atol=1e-12
    )


def test_places_outside_are_counted():
    with pytest.raises(InputError, match="2 of 3 places are outside"):
        sample(REGION, torch.tensor([49.9, 55.0, 55.0]), torch.tensor([0.0, 0.0, 2.1]))


# --- grids ------------------------------------------------------------------------------------


def test_longitudes_that_jump_are_unrolled():
    grid = Grid.of([1.0, 0.0], [350.0, 355.0, 0.0, 5.0])
    assert grid.longitudes == (350.0, 355.0, 360.0, 365.0)
    assert Grid.of([1.0, 0.0], [170.0, 175.0, -180.0, -175.0]).longitudes == (
        170.0,
        175.0,
        180.0,
        185.0,
    )


@pytest.mark.parametrize("lat", [[1.0, 1.0], [95.0, 0.0], [0.0, float("nan")], [0.0]])
def test_impossible_grids_are_refused(lat):
    with pytest.raises(InputError, match="grid:"):
        Grid.of(lat, [0.0, 1.0])


def test_conform_reverses_rows_and_rolls_columns():
    values = normal(2, *GLOBE.shape).numpy()
    west = Grid.of(GLOBE.latitudes[::-1], np.arange(-180, 180, 15.0))
    rolled = np.roll(values[..., ::-1, :], 12, axis=-1)
    assert np.array_equal(GLOBE.conform(rolled, west), values)
    with pytest.raises(InputError, match="its grid is"):
        GLOBE.conform(rolled, Grid.of(GLOBE.latitudes[::-1], np.arange(-179, 181, 15.0)))


def test_distance_on_the_sphere():
    quarter = distance(
        (torch.tensor([0.0, 90.0]), torch.tensor([0.0, 0.0])),
        (torch.tensor([0.0]), torch.tensor([90.0])),
    )
    torch.testing.assert_close(
        quarter, torch.full((2, 1), 6371 * torch.pi / 2, dtype=torch.float64)
    )


# --- stacking ---------------------------------------------------------------------------------


def test_a_stack_concatenates_its_parts():
    parts = {"coarse": coarsen(REGION, 4), "stations": sample(REGION, *PLACES)}
    shape = (1, *REGION.shape)
    stacked = inverse.stack(parts, shape)
    assert stacked.modalities == {"coarse": slice(0, 12), "stations": slice(12, 17)}
    torch.testing.assert_close(
        dense(stacked, shape),
        torch.cat([dense(part, shape) for part in parts.values()]),
        rtol=0,
        atol=0,
    )


def test_stacked_noise_concatenates_levels():
    stacked = inverse.stack(
        {"coarse": coarsen(REGION, 4), "stations": sample(REGION, *PLACES)}, (1, *REGION.shape)
    )
    noise = inverse.stacked_noise(stacked, {"stations": torch.arange(1.0, 6.0), "coarse": 0.5})
    assert noise.sigma.flatten().tolist() == [0.5] * 12 + [1.0, 2.0, 3.0, 4.0, 5.0]
    with pytest.raises(OptionError, match="stations must be both"):
        inverse.stacked_noise(stacked, {"coarse": 0.5})
