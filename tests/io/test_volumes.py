"""Volumes in NIfTI, DICOM and MRC: what is read, kept, written anew and refused."""

from pathlib import Path

import numpy as np
import pytest

from inverse.errors import InputError
from inverse.io.volumes import format_of, read_volume

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
mrcfile = pytest.importorskip("mrcfile")
pytest_plugins = "cli_fixtures"


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(100, 30, shape).astype(np.float32)


# --- NIfTI ----------------------------------------------------------------------------------------


def nifti(path: Path, data, affine, codes=(1, 2)) -> Path:
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_qform(affine, codes[0])
    image.header.set_sform(affine, codes[1])
    nibabel.save(image, path)
    return path


TILTED = np.array([[0.1, -1.9, 0.2, 5], [-1.1, 0.1, 0.1, -7], [0, 0.3, 4.0, 2], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1, -1, 3, 1.0]), TILTED])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_volume_is_written_as_it_was_read(tmp_path, affine, suffix):
    data = numbers(5, 6, 4)
    volume = read_volume(nifti(tmp_path / f"a{suffix}", data, affine))
    target = tmp_path / f"b{volume.suffix}"
    volume.write(target, volume.values(volume.intensities()), "unchanged")
    found = nibabel.load(target)
    np.testing.assert_allclose(found.get_fdata(), data, rtol=1e-5)
    before = nibabel.load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found.affine, before.affine)
    assert (found.header["qform_code"], found.header["sform_code"]) == (1, 2)
    assert b"not for diagnosis" in bytes(found.header["descrip"])


def test_slices_are_those_of_the_widest_spacing_and_upright(tmp_path):
    """Rows run from the front to the back of the head, columns from its left to its right."""
    data = np.zeros((4, 5, 3), np.float32)
    data[3, 4, 2] = 1.0  # right, front, top
    data[0, 0, 0] = 0.5
    volume = read_volume(nifti(tmp_path / "a.nii", data, np.diag([1, 1, 3, 1.0])))
    assert volume.slices.shape == (3, 5, 4)
    assert volume.spacing == (3, 1, 1)
    assert (volume.slices[2, 0, 3], volume.slices[0, 4, 0]) == (1.0, 0.5)
    coronal = read_volume(nifti(tmp_path / "b.nii", data, np.diag([1, 3, 1, 1.0])))
    assert coronal.slices.shape == (5, 3, 4)
    assert coronal.slices[4, 0, 3] == 1.0


def test_finer_slices_keep_the_extent(tmp_path):
    volume = read_volume(nifti(tmp_path / "a.nii", numbers(4, 5, 3), TILTED))
    finer = volume.slices.repeat(2, 1).repeat(2, 2)
    volume.write(tmp_path / "b.nii", finer, "twice as fine")
    before, after = nibabel.load(tmp_path / "a.nii"), nibabel.load(tmp_path / "b.nii")
    for corner in (np.zeros(3), np.ones(3)):
        places = [
            nibabel.affines.apply_affine(i.affine, corner * np.array(i.shape) - 0.5)
            for i in (before, after)
        ]
        np.testing.assert_allclose(*places, atol=1e-5)


def test_scaled_integers_have_their_values(tmp_path):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "a.nii")
    expected = nibabel.load(tmp_path / "a.nii").get_fdata()
    assert sorted(read_volume(tmp_path / "a.nii").slices.ravel()) == sorted(expected.ravel())


@pytest.mark.parametrize(
    ("data", "affine", "reason"),
    [
        (numbers(3, 4, 5, 2), np.eye(4), "three axes, found 3x4x5x2; extract one volume"),
        (np.ones((3, 4, 5), np.float32), np.eye(4), "all values are 1"),
        (np.full((3, 4, 5), np.nan, np.float32), np.eye(4), "60 of 60 values are NaN"),
        (numbers(3, 4, 5), np.diag([0.0, 1, 1, 1]), "gives two axes one direction"),
    ],
)
def test_an_unusable_nifti_file_is_refused(tmp_path, data, affine, reason):
    nibabel.save(nibabel.Nifti1Image(data, None), tmp_path / "a.nii")
    image = nibabel.load(tmp_path / "a.nii")
    image.header.set_sform(affine, 2)
    image = nibabel.Nifti1Image(data, affine, image.header)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(InputError, match=reason):
        read_volume(tmp_path / "a.nii")


def test_a_cut_file_is_one_line(tmp_path):
    path = nifti(tmp_path / "a.nii", numbers(20, 20, 20), np.eye(4))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="not a readable NIfTI file"):
        read_volume(path)


# --- MRC ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of mrcfile beside NumPy 2.5
def test_an_mrc_volume_keeps_voxel_size_and_origin(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(numbers(3, 4, 5))
        file.voxel_size = (1.5, 1.5, 2.0)
        file.header.origin = (7, 8, 9)
    volume = read_volume(tmp_path / "a.mrc")
    assert volume.spacing == pytest.approx((2.0, 1.5, 1.5))
    volume.write(tmp_path / "b.mrc", 2 * volume.slices, "doubled")
    with mrcfile.open(tmp_path / "b.mrc") as file:
        np.testing.assert_array_equal(file.data, 2 * volume.slices)
        assert float(file.voxel_size.z) == pytest.approx(2.0)
        assert file.header.origin.tolist() == (7, 8, 9)
    assert mrcfile.validate(tmp_path / "b.mrc")


# --- DICOM ----------------------------------------------------------------------------------------


def dicom(folder: Path, index: int, values, place: float, **changed) -> None:
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    made.SOPInstanceUID = pydicom.uid.generate_uid()
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.SeriesInstanceUID = made.StudyInstanceUID = "1.2.3"
    made.PatientName, made.PatientID, made.InstitutionName = "Doe^Jane", "42", "Some Hospital"
    made.Modality = "CT"
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.ImagePositionPatient = [-10, -20, place]
    made.PixelSpacing, made.SliceThickness = [0.7, 0.7], 2.5
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    made.PixelData = values.astype(np.uint16).tobytes()
    for name, value in changed.items():
        setattr(made, name, value)
    folder.mkdir(exist_ok=True)
    made.save_as(folder / f"{index}.dcm", enforce_file_format=True)


def series(folder: Path, places=(5.0, 0.0, 2.5)) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 4000, (3, 6, 8))
    for index, place in enumerate(places):
        dicom(folder, index, values[index], place)
    return values


def test_a_series_is_ordered_by_place_and_written_without_the_person(tmp_path):
    values = series(tmp_path / "in")
    volume = read_volume(tmp_path / "in")
    np.testing.assert_array_equal(volume.slices, values[[1, 2, 0]] - 1024.0)
    assert volume.spacing == (2.5, 0.7, 0.7)
    volume.write(tmp_path / "out", volume.slices, "unchanged")
    again = read_volume(tmp_path / "out")
    np.testing.assert_array_equal(again.slices, volume.slices)
    for file in sorted((tmp_path / "out").iterdir()):
        text = file.read_bytes()
        assert b"Doe" not in text
        assert b"Hospital" not in text
        head = pydicom.dcmread(file)
        assert head.SeriesInstanceUID != "1.2.3"
        assert head.PatientIdentityRemoved == "YES"
        assert "not for diagnosis" in head.SeriesDescription
    assert len({pydicom.dcmread(f).SOPInstanceUID for f in (tmp_path / "out").iterdir()}) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"place": 9.0}, "a slice is missing or belongs elsewhere"),
        ({"place": 2.5}, "two slices have the same position"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "4 slices of 2 orientations"),
        ({"SeriesInstanceUID": "1.2.4"}, "4 slices of 2 series"),
        ({"PixelSpacing": [0.8, 0.8]}, "4 slices of 2 pixel spacings"),
        ({"SamplesPerPixel": 3}, "expected one grey frame"),
        ({"PixelData": b"\0\0"}, "its pixels cannot be read"),
    ],
)
def test_a_series_that_is_no_volume_is_refused(tmp_path, change, reason):
    series(tmp_path / "in")
    dicom(tmp_path / "in", 3, np.ones((6, 8)), **{"place": 7.5} | change)
    with pytest.raises(InputError, match=reason):
        read_volume(tmp_path / "in")


def test_one_file_of_a_series_is_refused(tmp_path):
    series(tmp_path / "in")
    with pytest.raises(InputError, match="give the folder of the series"):
        read_volume(tmp_path / "in" / "0.dcm")


# --- the command ----------------------------------------------------------------------------------


def test_other_files_are_no_volumes(tmp_path):
    for name, content in (("a.png", b"\x89PNG"), ("b.gz", b"\x1f\x8bxx"), ("c", b"")):
        (tmp_path / name).write_bytes(content)
        assert format_of(tmp_path / name) is None
    assert format_of(tmp_path) is None
    assert format_of(tmp_path / "missing") is None


def test_a_volume_is_solved_slice_by_slice_and_resumed(solve, tmp_path):
    data = np.zeros((24, 24, 3), np.float32)
    data[..., 1:] = numbers(24, 24, 2)
    nifti(tmp_path / "a.nii.gz", data, np.diag([1, 1, 2, 1.0]))
    given = ("--method", "tv", "--restore", "a.nii.gz", "--samples", "1", "--out", "out")
    done = solve(*given)
    assert done.code == 0, done
    assert done.path == Path("out/reconstruction.nii.gz")
    assert "the median of 2 slices" in done.err
    found = nibabel.load(tmp_path / "out" / "reconstruction.nii.gz").get_fdata()
    assert found.shape == data.shape
    assert np.abs(found[..., 0]).max() < 5
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("result.h5")}
    assert len(stamps) == 3
    assert solve(*given, "--resume").code == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}


def test_a_series_is_denoised_into_a_series(solve, tmp_path):
    series(tmp_path / "in")
    done = solve("--method", "tv", "--restore", "in", "--out", "out")
    assert done.code == 0, done
    assert read_volume(tmp_path / "out" / "reconstruction").slices.shape == (3, 6, 8)


def test_a_volume_beside_another_input_is_refused(solve, tmp_path):
    for name in ("a.nii", "b.nii"):
        nifti(tmp_path / name, numbers(4, 4, 4), np.eye(4))
    solve("--restore", "a.nii", "--restore", "b.nii").refused("solve one volume at a time")


@pytest.mark.parametrize("problem", ["ct", "gaussian"])
def test_a_volume_for_a_problem_of_other_numbers_is_refused(command, tmp_path, problem):
    nifti(tmp_path / "a.nii", numbers(4, 4, 4), np.eye(4))
    given = ("solve", "--problem", problem, "--method", "tv", "--restore", "a.nii")
    command(*given).refused("holds pictures, slice by slice", "give a file of its own kind")
