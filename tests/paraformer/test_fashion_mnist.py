"""Fashion-MNIST: IDX files become tensors or one sentence says why not; augmentation moves pixels and no more."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paraformer.errors import DatasetError
from paraformer.fashion_mnist import CLASSES, DEFAULT_ROOT, LabelledImages, augment, load, read_idx
from tests.paraformer.idx_files import idx, stripes, write_split

VALUES = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4) * 10


def _file(path: Path, content: bytes, *, compress: bool = True) -> Path:
    file = path / "values.gz"
    file.write_bytes(gzip.compress(content, mtime=0) if compress else content)
    return file


@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4), (1, 1, 1, 24)])
def test_a_gzipped_idx_file_becomes_a_tensor_of_the_shape_in_its_header(tmp_path: Path, shape: tuple[int, ...]) -> None:
    read = read_idx(_file(tmp_path, idx(VALUES.reshape(shape))))
    assert read.dtype == torch.uint8
    assert torch.equal(read, VALUES.reshape(shape))


def test_sizes_above_one_byte_are_big_endian(tmp_path: Path) -> None:
    values = torch.zeros(300, 2, dtype=torch.uint8)
    assert read_idx(_file(tmp_path, idx(values))).shape == (300, 2)


def test_what_was_read_can_be_written_to(tmp_path: Path) -> None:
    read = read_idx(_file(tmp_path, idx(VALUES)))
    read += 1
    assert torch.equal(read, VALUES + 1)


def test_an_absent_data_set_is_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"^Fashion-MNIST is not here: .*train-images.* does not exist\.$") as caught:
        load("train", tmp_path)
    assert "apt-get install dataset-fashion-mnist" in caught.value.hint
    assert "--data" in caught.value.hint


@pytest.mark.parametrize("missing", [1, 24, 30])
def test_a_file_shorter_than_its_header_says_is_refused_as_truncated(tmp_path: Path, missing: int) -> None:
    file = _file(tmp_path, idx(VALUES)[:-missing])
    with pytest.raises(DatasetError, match=r"values\.gz is truncated: its header promises the shape \["):
        read_idx(file)


def test_a_file_longer_than_its_header_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"promises the shape \[2, 3, 4\]"):
        read_idx(_file(tmp_path, idx(VALUES) + b"\0"))


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_a_truncated_gzip_stream_is_refused(tmp_path: Path, cut: int) -> None:
    file = _file(tmp_path, gzip.compress(idx(VALUES), mtime=0)[:-cut], compress=False)
    with pytest.raises(DatasetError, match=r"values\.gz cannot be read"):
        read_idx(file)


def test_a_gzip_stream_with_flipped_bits_is_refused(tmp_path: Path) -> None:
    content = gzip.compress(idx(VALUES), mtime=0)
    for place in range(10, len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        with pytest.raises(DatasetError, match=r"values\.gz"):
            read_idx(_file(tmp_path, bytes(flipped), compress=False))


def test_a_file_that_is_not_compressed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read: Not a gzipped file"):
        read_idx(_file(tmp_path, idx(VALUES), compress=False))


def test_a_directory_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        read_idx(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"\1" + idx(VALUES)[1:],
        b"\0\1" + idx(VALUES)[2:],
        idx(VALUES, element_type=0x0D),
        b"\0\0\x08",
        b"",
        b"GIF89a",
    ],
    ids=["first byte", "second byte", "floats", "three bytes", "empty", "a picture"],
)
def test_another_magic_number_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DatasetError, match=r"values\.gz is not an IDX file of unsigned bytes\.$"):
        read_idx(_file(tmp_path, content))


def test_a_file_of_no_values_is_an_empty_tensor_or_refused(tmp_path: Path) -> None:
    file = _file(tmp_path, idx(VALUES[:0]))
    try:
        assert read_idx(file).shape == (0, 3, 4)
    except DatasetError as error:
        assert str(file) in str(error)  # noqa: PT017  (either way is right, a bare ValueError is not)


def test_a_split_is_read_from_its_own_two_files(tmp_path: Path) -> None:
    data = {"train": stripes(5, 8, 0), "test": stripes(3, 8, 1)}
    write_split(tmp_path, "train", data["train"])
    write_split(tmp_path, "t10k", data["test"])
    for split in ("train", "test"):
        read = load(split, tmp_path)
        assert len(read) == len(data[split])
        assert torch.equal(read.images, data[split].images)
        assert torch.equal(read.labels, data[split].labels)


def test_a_number_of_labels_other_than_of_images_is_refused(tmp_path: Path) -> None:
    data = stripes(5, 8, 0)
    write_split(tmp_path, "train", LabelledImages(data.images, data.labels[:4]))
    with pytest.raises(DatasetError, match="holds 5 train images but 4 labels"):
        load("train", tmp_path)


@pytest.mark.skipif(not DEFAULT_ROOT.exists(), reason="needs the Debian package dataset-fashion-mnist")
def test_the_debian_package_holds_what_its_paper_says() -> None:
    train, test = load("train"), load("test")
    for data, count in ((train, 60_000), (test, 10_000)):
        assert data.images.shape == (count, 1, 28, 28)
        assert data.labels.bincount().tolist() == [count // len(CLASSES)] * len(CLASSES)
    pixels = train.images.double()
    assert float(pixels.mean()) == pytest.approx(72.94, abs=0.005)
    assert float(pixels.std()) == pytest.approx(90.02, abs=0.005)


def _augment(images: Tensor, seed: int, shift: int = 2) -> Tensor:
    return augment(images, torch.Generator().manual_seed(seed), shift)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (5, 1, 6, 9)])
def test_augmentation_keeps_shape_and_dtype_and_leaves_its_input_alone(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = images.clone()
    augmented = _augment(images, 0)
    assert augmented.shape == shape
    assert augmented.dtype == dtype
    assert torch.equal(images, before)


def test_a_seed_repeats_an_augmentation_and_another_seed_does_not() -> None:
    images = stripes(16, 8, 0).images
    assert torch.equal(_augment(images, 3), _augment(images, 3))
    assert not torch.equal(_augment(images, 3), _augment(images, 4))


def test_augmentation_does_not_touch_the_global_random_state() -> None:
    before = torch.get_rng_state()
    _augment(stripes(4, 8, 0).images, 0)
    assert torch.equal(torch.get_rng_state(), before)


def _shifts_and_mirrors(image: Tensor, shift: int) -> list[Tensor]:
    """Every picture that augmentation may make of one image (height, width)."""
    height, width = image.shape
    found = []
    for mirrored in (image, image.flip(1)):
        for down in range(-shift, shift + 1):
            for right in range(-shift, shift + 1):
                moved = torch.zeros_like(image)
                rows, columns = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
                back = slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0))
                moved[rows, columns] = mirrored[back]
                found.append(moved)
    return found


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), shift=st.integers(0, 3), height=st.integers(4, 6), width=st.integers(4, 6))
def test_each_augmented_image_is_the_image_shifted_and_perhaps_mirrored(
    seed: int, shift: int, height: int, width: int
) -> None:
    images = torch.randperm(3 * height * width, generator=torch.Generator().manual_seed(seed)).reshape(
        3, 1, height, width
    )
    for image, augmented in zip(images, _augment(images, seed, shift), strict=True):
        assert any(torch.equal(augmented[0], one) for one in _shifts_and_mirrors(image[0], shift))


def test_images_are_shifted_in_all_directions_and_half_of_them_are_mirrored() -> None:
    image = torch.arange(1, 37).reshape(1, 1, 6, 6)
    augmented = _augment(image.expand(400, 1, 6, 6), 0, shift=1)
    candidates = _shifts_and_mirrors(image[0, 0], 1)
    counts = [int((augmented[:, 0] == one).flatten(1).all(1).sum()) for one in candidates]
    assert sum(counts) == 400
    assert min(counts) > 0
    assert 160 < sum(counts[9:]) < 240
