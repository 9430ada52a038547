"""ISMRMRD files: lines, oversampling, averages, noise scans, choices and refusals."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import normal
from ismrmrd_writer import acquisition, header, write

import inverse
from inverse.errors import InputError
from inverse_problems.mri.espirit import transform
from inverse_problems.mri.ismrmrd_files import Acquired, parsed, read_ismrmrd, slices_of
from inverse_problems.mri.maps import simulated_maps
from inverse_problems.mri.operators import as_complex

pytest_plugins = "cli_fixtures"
SIDES, COILS = (32, 24), 3
XML = header((64, 24, 1), (32, 24, 1))


def head() -> np.ndarray:
    """A smooth ellipse with structure, intensities (32, 24)."""
    y, x = np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 24), indexing="ij")
    r = np.sqrt((y / 0.8) ** 2 + (x / 0.65) ** 2)
    return (1 / (1 + np.exp((r - 0.9) * 15))) * (0.7 + 0.2 * np.cos(6 * x) * np.cos(5 * y))


def lines(image: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """K-space of 3 coils with twice the field of view along the readout, (3, 64, 24)."""
    wide = np.zeros((COILS, 64, 24), dtype=complex)
    wide[:, 16:48] = simulated_maps(COILS, *SIDES) * image
    drawn = as_complex(normal(2 * COILS, 64, 24, seed=seed)).numpy()
    return transform(wide) + noise * drawn


def rows(kspace: np.ndarray, every: int = 1, **fields: int) -> list[np.ndarray]:
    """The acquisitions of every n-th line, and of the 8 lines in the centre."""
    kept = [i for i in range(24) if i % every == 0 or abs(i - 11.5) < 4]
    return [acquisition(kspace[:, :, i], kspace_encode_step_1=i, **fields) for i in kept]


def read(path: Path, **options) -> tuple[Acquired, list[str]]:
    notes: list[str] = []
    return read_ismrmrd(path, options.get("slice_"), options.get("select", {}), notes), notes


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "a.h5"


def expected(image: np.ndarray) -> np.ndarray:
    return transform(simulated_maps(COILS, *SIDES) * image)


def test_lines_without_oversampling_are_those_of_the_slice(file):
    write(file, XML, rows(lines(head()), every=2))
    found, notes = read(file)
    seen = np.array([i % 2 == 0 or abs(i - 11.5) < 4 for i in range(24)])
    np.testing.assert_allclose(found.data, expected(head()) * seen, atol=1e-5)
    assert np.array_equal(found.sampled, np.broadcast_to(seen, SIDES))
    assert found.recon == SIDES
    assert notes == ["readout oversampling removed: 32 of 64 pixels"]


def test_reversed_and_trimmed_lines_lie_where_they_were_measured(file):
    kspace = lines(head())
    turned = [
        acquisition(
            kspace[:, ::-1, i], kspace_encode_step_1=i, flag=22, center_sample=31, discard_pre=0
        )
        for i in range(24)
    ]
    write(file, XML, turned)
    np.testing.assert_allclose(read(file)[0].data, expected(head()), atol=1e-5)
    longer = np.concatenate([9 + 0 * kspace[:, :5], kspace, 9 + 0 * kspace[:, :3]], 1)
    trimmed = rows(longer, discard_pre=5, discard_post=3, center_sample=37)
    write(file, XML, trimmed)
    np.testing.assert_allclose(read(file)[0].data, expected(head()), atol=1e-5)


def test_an_incomplete_readout_keeps_its_oversampling(file):
    kspace = lines(head())[:, 20:]
    write(file, XML, rows(kspace, center_sample=12))
    found, notes = read(file)
    assert found.data.shape == (COILS, 64, 24)
    assert not found.sampled[:20].any()
    assert "its oversampling stays" in notes[0]


def test_averages_are_averaged_and_images_are_chosen(file):
    a, b = lines(head()), lines(head() ** 2)
    two = [*rows(a, average=0), *rows(b, average=1), *rows(9 * b, flag=23), *rows(9 * a, flag=20)]
    write(file, XML, two)
    found, notes = read(file)
    np.testing.assert_allclose(
        found.data, (expected(head()) + expected(head() ** 2)) / 2, atol=1e-5
    )
    assert notes[:2] == [
        "24 acquisitions (calibration) are not used",
        "24 acquisitions (navigator) are not used",
    ]
    assert "mean of 2 averages" in notes[2]
    first, _ = read(file, select={"average": 0})
    np.testing.assert_allclose(first.data, expected(head()), atol=1e-5)

    write(file, XML, [*rows(a, repetition=0, slice=4), *rows(b, repetition=3, slice=4)])
    with pytest.raises(InputError, match="2 images that differ in repetition; choose one"):
        read(file)
    third, _ = read(file, select={"repetition": 3}, slice_=4)
    np.testing.assert_allclose(third.data, expected(head() ** 2), atol=1e-5)


def test_partitions_of_a_3d_encoding_are_transformed(file):
    """Every slice of a volume from its three-dimensional k-space, averages included."""
    depth = 5
    slices = [lines(head() ** (1 + i / 2)) for i in range(depth)]
    stack = np.fft.ifftshift(np.stack(slices), axes=0)
    volume = np.fft.fftshift(np.fft.fft(stack, axis=0, norm="ortho"), axes=0)
    every = [
        row
        for z in range(depth)
        for average in range(2)
        for row in rows(volume[z], every=2, kspace_encode_step_2=z, average=average)
    ]
    write(file, header((64, 24, depth), (32, 24, depth)), every)
    for i in (0, 3):
        found, notes = read(file, slice_=i)
        np.testing.assert_allclose(
            found.data, expected(head() ** (1 + i / 2)) * found.sampled, atol=1e-4
        )
        assert f"slice {i} of 5" in notes[0]
    assert slices_of(file) == list(range(depth))
    write(file, header((64, 24, depth), (32, 24, depth)), every[: 2 * len(every) // depth])
    with pytest.raises(InputError, match="measured at 4 of 5 partitions"):
        read(file)


def test_embedded_calibration_lines_belong_to_the_image(file):
    extra = "<parallelImaging><calibrationMode>embedded</calibrationMode></parallelImaging>"
    kspace = lines(head())
    odd = [acquisition(kspace[:, :, i], kspace_encode_step_1=i, flag=20) for i in range(9, 15, 2)]
    even = [acquisition(kspace[:, :, i], kspace_encode_step_1=i) for i in range(0, 24, 2)]
    write(file, header((64, 24, 1), (32, 24, 1), extra=extra), even + odd)
    assert read(file)[0].sampled[0].sum() == 15
    write(file, XML, even + odd)
    assert read(file)[0].sampled[0].sum() == 12


def test_noise_scans_have_the_variance_of_the_data(file):
    """A quarter of the dwell time, four times the variance, at a receiver of 0.8."""
    drawn = 0.1 * as_complex(normal(2 * COILS, 64, 40)).numpy()
    scans = [acquisition(drawn[:, :, i], flag=19, sample_time_us=40) for i in range(40)]
    write(file, XML, [*scans, *rows(lines(head()))])
    found, notes = read(file)
    assert "noise of 2560 samples from 40 noise scans" in notes
    np.testing.assert_allclose(
        found.noise, drawn.transpose(0, 2, 1).reshape(COILS, -1) * np.sqrt(4 / 0.8), atol=1e-5
    )


def test_a_file_is_solved_with_its_noise(mri, file):
    """Coils with correlated noise are whitened by the noise scan, whose level is sigma_y."""
    mixing = 0.02 * np.array([[1, 0, 0], [0.6j, 0.8, 0], [0.2, 0.1, 0.9]])
    drawn = [as_complex(normal(2 * COILS, 64, 24, seed=s)).numpy() for s in (1, 2)]
    noise = [np.tensordot(mixing, d, 1) for d in drawn]
    bandwidth = np.sqrt(0.8)
    scans = [acquisition(noise[1][:, :, i] * bandwidth, flag=19) for i in range(24)]
    write(file, XML, [*scans, *rows(lines(head()) + noise[0], every=2)])
    outcome = mri("a.h5")
    assert outcome.code == 0, outcome.err
    assert "coils made white by the covariance of the noise scans" in outcome.out
    result = inverse.Result.load(outcome.path / "result.h5")
    level = 0.02 * abs(np.linalg.det(mixing / 0.02)) ** (1 / 3)
    stated = result.provenance["problem"]["options"]
    assert float(stated["sigma_y"]) * float(stated["scale"]) == pytest.approx(level, rel=0.05)
    error = result.mean[0, 0].numpy() * float(stated["scale"]) - head()
    assert np.sqrt((error**2).mean()) < 0.05


def test_files_of_ismrmrd_python_are_read(file):
    """An independent writer of the format."""
    ismrmrd = pytest.importorskip("ismrmrd")
    kspace = lines(head())
    with ismrmrd.Dataset(str(file), "dataset") as data:
        data.write_xml_header(XML.encode())
        for i in range(24):
            line = ismrmrd.Acquisition.from_array(kspace[:, :, i].astype(np.complex64))
            line.idx.kspace_encode_step_1 = i
            line.center_sample = 32
            data.append_acquisition(line)
    np.testing.assert_allclose(read(file)[0].data, expected(head()), atol=1e-5)


BOMB = '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'


def refusals() -> dict[str, tuple[str, list[np.ndarray], str]]:
    kspace = lines(head())
    good, short = rows(kspace), rows(kspace)
    short[3] = acquisition(kspace[:2, :, 3], kspace_encode_step_1=3)
    broken = rows(kspace)
    broken[0]["data"] = np.zeros(7, "f4")
    invalid = rows(kspace)
    invalid[0]["data"] = np.full(2 * COILS * 64, np.nan, "f4")
    return {
        "no XML": ("<ismrmrdHeader>", good, "its header is no XML"),
        "entities": (
            header((64, 24, 1), (32, 24, 1), before=BOMB),
            good,
            "declares a document type",
        ),
        "no matrix": ("<ismrmrdHeader/>", good, "does not state the encoded matrix"),
        "negative matrix": (header((64, -24, 1), (32, 24, 1)), good, "encodedSpace/matrixSize of"),
        "three axes": (header((64, 24, 16), (32, 24, 16)), good, "at 1 of 16 partitions"),
        "stack of stars": (
            header((64, 24, 16), (32, 24, 16), "radial"),
            good,
            "a radial trajectory of 16 partitions is not read",
        ),
        "another matrix": (header((64, 12, 1), (32, 12, 1)), good, "outside the encoded matrix"),
        "coils": (XML, short, "2 numbers of coils"),
        "short data": (XML, broken, "holds 7 numbers"),
        "not finite": (XML, invalid, "NaN or infinity"),
        "uneven averages": (XML, [*good, good[0]], "measured 1 to 2 times"),
        "noise alone": (XML, rows(kspace, flag=19), "holds no acquisition of an image"),
        "epi": (header((64, 24, 1), (32, 24, 1), "epi"), good, "EPI"),
        "no trajectory": (header((64, 24, 1), (32, 24, 1), "radial"), good, "of 0 axes"),
        "none": (XML, [], "holds no acquisition"),
    }


@pytest.mark.parametrize("case", refusals())
def test_files_that_cannot_be_used_are_refused(file, case):
    xml, acquisitions, words = refusals()[case]
    write(file, xml, acquisitions)
    with pytest.raises(InputError) as error:
        read(file)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_choices_that_do_not_exist_are_refused(mri, file):
    write(file, XML, rows(lines(head())))
    mri("a.h5", slice=3).refused("slice 3 does not exist")
    mri("a.h5", select="echo:1").refused("select knows contrast, phase, repetition, set, average")
    mri("a.h5", select="phase:4").refused("phase 4 does not exist")


def test_acquisitions_in_another_file_are_refused(file, tmp_path):
    write(tmp_path / "b.h5", XML, rows(lines(head())))
    with h5py.File(file, "w") as made:
        made["dataset/xml"] = [XML.encode()]
        made["dataset/data"] = h5py.ExternalLink("b.h5", "dataset/data")
    with pytest.raises(InputError):
        inverse.get_problem("mri").open(file, inverse.FlatPrior((1, None, None)), True)


def test_numbers_of_headers_are_read_without_their_name_space():
    found = parsed(XML)
    assert found.encoded == (64, 24, 1)
    assert found.encoded_fov == (400.0, 200.0, 5.0)
    assert (found.centre, found.bandwidth, found.trajectory) == (12, 0.8, "cartesian")
