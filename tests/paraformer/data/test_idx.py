"""IDX files become tensors and data sets, or one sentence says why not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from paraformer.data.idx import CLOTHES, FASHION_MNIST, read_idx, read_idx_folder
from paraformer.data.labelled import Labelled
from paraformer.errors import DatasetError
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


def test_an_absent_file_is_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"^There is no data: .*train-images.* does not exist\.$") as caught:
        read_idx_folder(tmp_path)
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


def test_a_file_that_is_not_compressed_is_read_as_well(tmp_path: Path) -> None:
    assert torch.equal(read_idx(_file(tmp_path, idx(VALUES), compress=False)), VALUES)


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


def test_each_split_is_read_from_its_own_two_files(tmp_path: Path) -> None:
    train, test = stripes(5, 8, 0), stripes(3, 8, 1)
    write_split(tmp_path, "train", train)
    write_split(tmp_path, "t10k", test)
    read = read_idx_folder(tmp_path)
    for ours, theirs in ((read.train, train), (read.test, test)):
        assert torch.equal(ours.inputs[0], theirs.inputs[0])
        assert torch.equal(ours.labels, theirs.labels)
    assert read.name == tmp_path.name


def test_the_folder_says_whether_its_classes_are_clothes(tmp_path: Path) -> None:
    for name in ("mnist", "fashion-mnist"):
        for prefix in ("train", "t10k"):
            write_split(tmp_path / name, prefix, stripes(5, 8, 0))
    assert read_idx_folder(tmp_path / "mnist").classes == ("0", "1")
    assert read_idx_folder(tmp_path / "fashion-mnist").classes == CLOTHES


def test_a_number_of_labels_other_than_of_images_is_refused(tmp_path: Path) -> None:
    data = stripes(5, 8, 0)
    write_split(tmp_path, "train", Labelled(data.inputs, data.labels[:4]))
    write_split(tmp_path, "t10k", data)
    with pytest.raises(DatasetError, match="holds 5 training images but 4 labels"):
        read_idx_folder(tmp_path)


def test_images_without_two_axes_are_refused(tmp_path: Path) -> None:
    data = stripes(5, 8, 0)
    write_split(tmp_path, "train", Labelled((data.inputs[0].flatten(1)[:, None],), data.labels))
    with pytest.raises(DatasetError, match="holds 2-d images and 1-d labels, not 3-d and 1-d"):
        read_idx_folder(tmp_path)


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="needs the Debian package dataset-fashion-mnist")
def test_the_debian_package_holds_what_its_paper_says() -> None:
    data = read_idx_folder(FASHION_MNIST)
    for part, count in ((data.train, 60_000), (data.test, 10_000)):
        assert part.inputs[0].shape == (count, 1, 28, 28)
        assert part.labels.bincount().tolist() == [count // len(CLOTHES)] * len(CLOTHES)
    pixels = data.train.inputs[0].double()
    assert float(pixels.mean()) == pytest.approx(72.94, abs=0.005)
    assert float(pixels.std()) == pytest.approx(90.02, abs=0.005)
