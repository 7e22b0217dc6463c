"""Texts become token ids of a vocabulary of the training texts alone, or one sentence says which line is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paraformer.data.texts import encoded, has_texts, read_text_folder, read_texts, vocabulary, words_of
from paraformer.errors import DatasetError

LINES = [{"text": f"good film number {n}", "label": "1"} for n in range(5)]
LINES += [{"text": f"bad film number {n}", "label": "0"} for n in range(5)]


def _csv(root: Path, *rows: str, header: str = "text,label") -> Path:
    (root / "reviews.csv").write_text("\n".join([header, *rows]) + "\n")
    return root / "reviews.csv"


def test_words_are_lower_case_and_marks_are_words() -> None:
    assert words_of("It's GOOD,<br />really!") == ["it's", "good", ",", "really", "!"]


def test_the_vocabulary_begins_with_padding_and_the_unknown_and_breaks_ties_by_the_alphabet() -> None:
    assert vocabulary([["b", "a"], ["c", "c"]]) == ("[PAD]", "[UNK]", "c", "a", "b")
    assert vocabulary([["b", "a"], ["c", "c"]], 3) == ("[PAD]", "[UNK]", "c")


def test_texts_are_cut_and_padded_and_an_empty_one_is_an_unknown_word() -> None:
    ids, mask = encoded([["a", "b", "c"], ["z"], []], ("[PAD]", "[UNK]", "a", "b", "c"), 2)
    assert ids.tolist() == [[2, 3], [1, 0], [1, 0]]
    assert mask.tolist() == [[1, 1], [1, 0], [1, 0]]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_file_of_texts_is_split_by_class(tmp_path: Path, suffix: str) -> None:
    mark = "," if suffix == ".csv" else "\t"
    rows = [f"{line['text']}{mark}{line['label']}" for line in LINES]
    content = "\n".join(map(json.dumps, LINES) if suffix == ".jsonl" else [f"text{mark}label", *rows])
    (tmp_path / f"own{suffix}").write_text(content)
    assert has_texts(tmp_path)
    data = read_text_folder(tmp_path, tokens=4)
    assert (data.name, data.classes, data.sample_shape) == ("own", ("0", "1"), (4,))
    assert (len(data.train), len(data.test)) == (8, 2)
    assert {"good", "bad", "film"} <= set(data.words)
    good = data.words.index("good")
    assert (data.train.inputs[0] == good).any(1).tolist() == (data.train.labels == 1).tolist()


def test_a_column_of_splits_is_kept_and_tests_give_no_words(tmp_path: Path) -> None:
    rows = ["a good one,1,train", "a bad one,0,train", "unheard of,1,test"]
    data = read_texts(_csv(tmp_path, *rows, header="text,label,split"), tokens=3)
    assert (len(data.train), len(data.test)) == (2, 1)
    assert "unheard" not in data.words
    assert data.test.inputs[0].tolist() == [[1, 1, 0]]


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        ((), "text,label", "holds no texts"),
        (("only text",), "text", "Sample 1 of .* has no text or no label"),
        (("good,1", ",0"), "text,label", "Sample 2 of .* has no text or no label"),
        (("good,1",), "text,label", "has no test texts"),
    ],
)
def test_lines_that_do_not_fit_are_named(tmp_path: Path, rows: tuple[str, ...], header: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        read_texts(_csv(tmp_path, *rows, header=header))
    assert "text,label" in caught.value.hint


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xff", b"[1]"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.jsonl").write_bytes(content)
    with pytest.raises(DatasetError, match=r"own\.jsonl (cannot be read as texts|has a line that is no object)"):
        read_texts(tmp_path / "own.jsonl")


def test_two_files_of_texts_in_a_folder_are_none(tmp_path: Path) -> None:
    _csv(tmp_path, "good,1")
    (tmp_path / "more.csv").write_text("")
    assert not has_texts(tmp_path)
    with pytest.raises(DatasetError, match="holds no single file of texts"):
        read_text_folder(tmp_path)
