"""Operators: adjoints, decompositions, no side effects on the caller's operator and generator."""

import pytest
import torch
from conftest import dense, matrix_operator, normal

import inverse
from inverse.errors import OperatorError
from inverse.measurement import operators
from inverse.registry.discovery import registry

ROUNDING = 1e-12
"""Rounding error of a few thousand float64 products, relative to |A u| |v|."""

KERNELS = {
    "gaussian": {"kernel": "gaussian", "width": 1.0, "kernel_size": 7},
    "gaussian-fft": {"kernel": "gaussian", "width": 2.0},
    "motion": {"kernel": "motion", "kernel_size": 7, "kernel_seed": 3},
    "motion-fft": {"kernel": "motion", "kernel_size": 15},
    "defocus": {"kernel": "defocus", "width": 2.0},
    "defocus-fft": {"kernel": "defocus", "width": 5.0},
}
BOUNDARIES = ("reflect", "replicate", "circular", "zeros", "valid")
REGISTERED = {name: entry.thing for name, entry in registry().table("inverse_problems").items()}
OTHERS = {
    name: thing
    for name, thing in REGISTERED.items()
    if name not in ("deblur", "denoise", "field", "inpainting", "super-resolution")
}
"""All other problems, those of plug-ins included, for their default options.

The shape is that of their first truth.
"""

CASES = {
    **{
        f"deblur-{k}-{b}": ("deblur", {**options, "boundary": b}, (3, 19, 24))
        for k, options in KERNELS.items()
        for b in BOUNDARIES
    },
    **{
        f"super-resolution-{f}-x{n}": ("super-resolution", {"filter": f, "factor": n}, (3, 16, 24))
        for f in ("bicubic", "area")
        for n in (2, 4)
    },
    "super-resolution-area-x3": ("super-resolution", {"filter": "area", "factor": 3}, (3, 15, 21)),
    **{
        f"inpainting-{m}": ("inpainting", {"mask": m}, (3, 17, 22))
        for m in ("box", "random", "free-form")
    },
    "denoise": ("denoise", {}, (3, 17, 22)),
    "field": ("field", {}, (1, 17, 22)),
    **{name: (name, {}, tuple(problem().truths()[0].shape)) for name, problem in OTHERS.items()},
}
every_operator = pytest.mark.parametrize(("name", "options", "shape"), CASES.values(), ids=CASES)


def make(name, options, shape):
    return operators.clone(
        inverse.get_problem(name, **options).operator(shape), "cpu", torch.float64
    )


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@every_operator
def test_adjoint_passes_the_dot_test(name, options, shape):
    operator = make(name, options, shape)
    if not operators.is_linear(operator):
        pytest.skip("not linear")
    assert inverse.adjoint_error(operator, shape) < ROUNDING


@every_operator
def test_rows_of_a_batch_do_not_mix(name, options, shape):
    operator, x = make(name, options, shape), normal(3, *shape)
    torch.testing.assert_close(operator.A(x)[1:2], operator.A(x[1:2]), rtol=0, atol=ROUNDING)


@every_operator
def test_signal_shape_inverts_the_shape_of_a_measurement(name, options, shape):
    problem = inverse.get_problem(name, **options)
    assert (
        problem.signal_shape(
            tuple(
                make(name, options, shape).A(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:]
            )
        )
        == shape
    )


@every_operator
def test_an_operator_is_deterministic(name, options, shape):
    x = normal(1, *shape)
    assert torch.equal(make(name, options, shape).A(x), make(name, options, shape).A(x))


@every_operator
def test_changes_to_a_clone_do_not_reach_the_original(name, options, shape):
    operator = inverse.get_problem(name, **options).operator(shape)
    before = {k: v.clone() for k, v in operator.state_dict().items()}
    copy = operators.clone(operator, "cpu", torch.float64)
    for value in (*copy.buffers(), *copy.parameters()):
        value.mul_(0)
    assert same_state(operator.state_dict(), before)


DECOMPOSABLE = {
    k: v
    for k, v in CASES.items()
    if k.startswith(("super", "inpainting", "denoise", "field")) or k.endswith("circular")
}


@pytest.mark.parametrize(("name", "options", "shape"), DECOMPOSABLE.values(), ids=DECOMPOSABLE)
def test_singular_bases_are_orthonormal(name, options, shape):
    """U^T U = V^T V = I on coefficients of an image; the kernel has float32 phases, hence 1e-6."""
    operator, x = make(name, options, shape), normal(2, *shape)
    coefficients = operator.V_adjoint(x)
    torch.testing.assert_close(
        operator.V_adjoint(operator.V(coefficients)), coefficients, rtol=0, atol=1e-12
    )
    coefficients = operator.U_adjoint(operator.A(x))
    torch.testing.assert_close(
        operator.U_adjoint(operator.U(coefficients)), coefficients, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("height", "width"), [(8, 12), (20, 30)])
def test_separable_equals_rows_x_columns(height, width):
    rows, columns = normal(height, 16, seed=1), normal(width, 24, seed=2)
    x = normal(2, 3, 16, 24)
    torch.testing.assert_close(
        operators.separable(rows, columns).A(x), rows @ x @ columns.T, rtol=0, atol=ROUNDING
    )


def test_separable_of_wide_and_tall_matrices_has_a_pseudo_inverse():
    """A A^+ A = A with A^+ = V diag(1/s) U^T, for a wide and a tall matrix."""
    operator = operators.separable(normal(4, 7, seed=1), normal(9, 5, seed=2))
    x = normal(2, 3, 7, 5)
    y = operator.A(x)
    pseudo_inverse = operator.V(operator.U_adjoint(y) / operator.mask)
    torch.testing.assert_close(operator.A(pseudo_inverse), y, rtol=0, atol=1e-11)


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_equals_deepinvs_imresize(factor):
    reference = inverse.physics.DownsamplingMatlab(factor=factor)
    x = torch.rand(2, 3, 32, 48, generator=inverse.seeded("image"), dtype=torch.float64)
    operator = make("super-resolution", {"filter": "bicubic", "factor": factor}, x.shape[1:])
    torch.testing.assert_close(operator.A(x), reference.A(x), rtol=0, atol=ROUNDING)


def test_area_is_the_block_mean():
    x = normal(2, 3, 16, 24)
    operator = make("super-resolution", {"filter": "area", "factor": 4}, x.shape[1:])
    torch.testing.assert_close(
        operator.A(x), torch.nn.functional.avg_pool2d(x, 4), rtol=0, atol=ROUNDING
    )


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_blur_keeps_a_constant_image(boundary):
    """The kernel sums to 1 in float32, hence 1e-6. The boundary `zeros` darkens the edges."""
    shape = (3, 19, 24)
    flat = make("deblur", {"kernel": "gaussian", "width": 1.0, "boundary": boundary}, shape).A(
        torch.ones(1, *shape, dtype=torch.float64)
    )
    inside = flat[..., 4:-4, 4:-4] if boundary == "zeros" else flat
    torch.testing.assert_close(inside, torch.ones_like(inside), rtol=0, atol=1e-6)


@pytest.mark.parametrize("boundary", ["reflect", "replicate", "zeros", "valid"])
@pytest.mark.parametrize("kernel", ["gaussian", "motion"])
def test_blur_equals_deepinvs_sums(kernel, boundary):
    """The Gaussian is separable, the motion kernel is applied by FFTs.

    The rank-one factors of the Gaussian have the precision of float32, hence 1e-7.
    """
    problem = inverse.get_problem("deblur", kernel=kernel, kernel_size=11, boundary=boundary)
    shape = (3, 19, 24)
    assert operators.is_decomposable(problem.operator(shape)) == (kernel == "gaussian")
    ours = operators.clone(problem.operator(shape), "cpu", torch.float64)
    theirs = inverse.physics.Blur(filter=problem.filter().double(), padding=boundary, use_fft=False)
    x = normal(2, *shape)
    v = theirs.A(x)
    atol = 1e-7 if kernel == "gaussian" else ROUNDING
    torch.testing.assert_close(ours.A(x), v, rtol=0, atol=atol)
    torch.testing.assert_close(ours.A_adjoint(v), theirs.A_adjoint(v), rtol=0, atol=atol)


def test_a_blur_refuses_an_image_of_another_size():
    with pytest.raises(OperatorError, match="made for images of 19x24 pixels, got 20x24"):
        inverse.get_problem("deblur", kernel="motion", kernel_size=11).operator((3, 19, 24)).A(
            normal(1, 3, 20, 24)
        )


def test_clone_copies_a_generator_with_its_state():
    """A generator cannot be deep-copied; that of the clone has its own state."""
    physics = inverse.physics.Denoising(
        noise_model=inverse.physics.GaussianNoise(0.1, rng=torch.Generator().manual_seed(3))
    )
    state = physics.noise_model.rng.get_state()
    first = operators.clone(physics, "cpu", torch.float32)(torch.zeros(1, 1, 4, 4))
    assert torch.equal(physics.noise_model.rng.get_state(), state)
    assert torch.equal(physics(torch.zeros(1, 1, 4, 4)), first)


# --- the decorator ----------------------------------------------------------------------------


def test_decorated_function_gets_its_adjoint():
    @inverse.operator(shape=(3, 5, 6))
    def grey_differences(x):
        return (x.mean(1, keepdim=True)).diff(dim=-1)

    assert operators.is_linear(grey_differences)
    assert inverse.adjoint_error(grey_differences, (3, 5, 6)) < ROUNDING


def test_decorated_nonlinear_function_is_not_linear():
    squared = inverse.operator(torch.square, shape=(3, 4, 4), linear=False)
    assert not operators.is_linear(squared)
    assert torch.equal(squared.A(torch.full((1, 3, 4, 4), 2.0)), torch.full((1, 3, 4, 4), 4.0))


@pytest.mark.parametrize("function", [torch.square, torch.sigmoid, lambda x: x + 1])
def test_adjoint_error_exposes_a_function_that_is_not_linear(function):
    assert inverse.adjoint_error(inverse.operator(function, shape=(3, 8, 8)), (3, 8, 8)) > 1e-3


def test_adjoint_error_exposes_a_wrong_adjoint():
    physics = inverse.physics.LinearPhysics(
        A=lambda x, **_: x.roll(1, -1), A_adjoint=lambda y, **_: y.roll(1, -1)
    )
    assert inverse.adjoint_error(physics, (1, 8, 8)) > 1e-3


def test_adjoint_error_names_the_operator_whose_adjoint_has_another_shape():
    physics = inverse.physics.LinearPhysics(
        A=lambda x, **_: x[..., ::2], A_adjoint=lambda y, **_: y
    )
    with pytest.raises(inverse.InverseError, match="adjoint returns shape"):
        inverse.adjoint_error(physics, (1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_adjoint_error_takes_the_precision_of_the_operator(dtype):
    matrix = normal(5, 48).to(dtype)
    physics = inverse.operator(lambda x: x.flatten(1) @ matrix.T, shape=(3, 4, 4))
    assert inverse.adjoint_error(physics, (3, 4, 4)) < 40 * torch.finfo(dtype).eps


def test_zero_operator_is_its_own_adjoint_and_one_line_where_its_norm_is_needed():
    zero = inverse.operator(lambda x: 0 * x, shape=(3, 8, 8))
    assert inverse.adjoint_error(zero, (3, 8, 8)) == 0
    posterior = inverse.Posterior(
        inverse.load_prior("photo-64"), zero, torch.zeros(1, 3, 8, 8), inverse.GaussianNoise(0.1)
    )
    with pytest.raises(OperatorError, match="maps every image to zero"):
        inverse.solve(posterior, "dps")


def test_results_and_priors_print_in_ten_lines():
    posterior = inverse.get_problem("gaussian").posterior()
    result = inverse.solve(posterior, "tikhonov")
    for thing in (result, posterior.prior, inverse.load_prior("photo-64")):
        assert len(repr(thing).splitlines()) <= 10
    assert "method tikhonov" in repr(result)


def test_matrix_of_a_decorated_operator_is_the_matrix():
    matrix = normal(5, 12)
    torch.testing.assert_close(
        dense(matrix_operator(matrix, (3, 2, 2)), (3, 2, 2)), matrix, rtol=0, atol=ROUNDING
    )


# --- sharp edges of deepinv -------------------------------------------------------------------


def test_a_measurement_does_not_modify_the_truth():
    """deepinv's imresize modifies its input in place."""
    truth = torch.rand(1, 3, 16, 16)
    before = truth.clone()
    inverse.get_problem("super-resolution").measure(truth, inverse.seeded(0))
    assert torch.equal(truth, before)


@pytest.mark.parametrize("name", ["deblur", "super-resolution", "inpainting"])
def test_a_posterior_does_not_modify_the_callers_operator(name, flat_prior):
    """deepinv's prox_l2 and A_dagger would keep the solver settings of a call for later calls."""
    problem = inverse.get_problem(name)
    operator = problem.operator((3, 32, 32))
    y = problem.measure(torch.rand(1, 3, 32, 32), inverse.seeded(0))
    settings = {k: v for k, v in vars(operator).items() if not k.startswith("_")}
    before = {k: v.clone() for k, v in operator.state_dict().items()}
    posterior = inverse.Posterior(
        flat_prior, operator, y, inverse.GaussianNoise(0.1), shape=(3, 32, 32)
    )
    posterior.prox(posterior.pseudo_inverse(), 0.3)
    assert {k: v for k, v in vars(operator).items() if not k.startswith("_")} == settings
    assert same_state(operator.state_dict(), before)


@pytest.mark.usefixtures("unchanged_randomness")
def test_motion_kernel_does_not_touch_the_global_generator():
    operators.motion_kernel(15, seed=0)


def test_motion_kernel_of_seed_zero_is_reproducible():
    """deepinv continues its generator for seed=None; 0 must be an ordinary seed."""
    torch.manual_seed(1)
    first = operators.motion_kernel(15, seed=0)
    torch.manual_seed(2)
    assert torch.equal(operators.motion_kernel(15, seed=0), first)
    assert not torch.equal(operators.motion_kernel(15, seed=1), first)


@every_operator
@pytest.mark.usefixtures("unchanged_randomness")
def test_building_an_operator_does_not_touch_the_global_generator(name, options, shape):
    inverse.get_problem(name, **options).operator(shape)


@pytest.mark.parametrize(
    "option", [{"mask": "random", "mask_seed": 0}, {"mask": "free-form", "mask_seed": 0}]
)
def test_masks_of_two_seeds_differ(option):
    first = inverse.get_problem("inpainting", **option).observed(32, 32)
    second = inverse.get_problem("inpainting", **{**option, "mask_seed": 1}).observed(32, 32)
    assert not torch.equal(first, second)


@pytest.mark.usefixtures("unchanged_randomness")
def test_measuring_does_not_touch_the_global_generator():
    inverse.get_problem("deblur", kernel="motion").measure(
        torch.rand(1, 3, 32, 32, generator=inverse.seeded(0)), inverse.seeded(0)
    )


def test_measurement_of_seed_zero_is_reproducible(flat_prior):
    truth = torch.rand(1, 3, 16, 16, generator=inverse.seeded(0))
    first, again, other = (
        inverse.get_problem("denoise").posterior(truth, prior=flat_prior, seed=s).y
        for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_noise_of_image_i_does_not_depend_on_the_batch(flat_prior):
    truths = torch.rand(3, 3, 16, 16, generator=inverse.seeded(0))
    problem = inverse.get_problem("denoise")
    pair, triple = (problem.posterior(truths[:n], prior=flat_prior, seed=5).y for n in (2, 3))
    assert torch.equal(pair, triple[:2])


def test_the_operator_of_a_matrix_is_that_matrix_with_its_singular_values():
    matrix = normal(5, 12, seed=3)
    operator = inverse.measurement.operators.dense(matrix, (1, 3, 4))
    x, v = normal(2, 1, 3, 4, seed=4), normal(2, 1, 1, 5, seed=5)
    torch.testing.assert_close(operator.A(x), (x.flatten(1) @ matrix.T).reshape(2, 1, 1, 5))
    torch.testing.assert_close(operator.A_adjoint(v), (v.flatten(1) @ matrix).reshape(2, 1, 3, 4))
    assert inverse.adjoint_error(operator, (1, 3, 4)) < 1e-12
    assert inverse.measurement.operators.dense(matrix, (12,), (5,)).A(x.flatten(1)).shape == (2, 5)
