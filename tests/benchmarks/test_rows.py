from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.tasks.prepared import prepared
from benchmarks.tasks.smiles import read_vocabulary, smiles_row, smiles_tokens
from benchmarks.tasks.smollm import pack
from benchmarks.tasks.task import padded
from passes.errors import EnvironmentLackError, ParallelizeError

VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "C": 4, "O": 5, ">>": 6}


@pytest.mark.parametrize(
    ("smiles", "tokens"),
    [
        ("CCl.BrN>>c1cc1", ["C", "Cl", ".", "Br", "N", ">>", "c", "1", "c", "c", "1"]),
        ("[OH-].[Pd+2]>>C(=O)%12", ["[OH-]", ".", "[Pd+2]", ">>", "C", "(", "=", "O", ")", "%12"]),
        ("C/C=C\\C@?%(123)", ["C", "/", "C", "=", "C", "\\", "C", "@", "?", "%(123)"]),
        ("", []),
    ],
)
def test_tokens_of_smiles_are_atoms_bonds_and_brackets(smiles: str, tokens: list[str]) -> None:
    assert smiles_tokens(smiles) == tokens


def test_tokens_leave_no_character_of_a_reaction_out() -> None:
    reaction = "CC(C)[C@@H](N)C(=O)O.c1ccc2[nH]ccc2c1>>O=S(=O)(Cl)c1cc(Br)sc1.[Na+]"
    assert "".join(smiles_tokens(reaction)) == reaction


def test_a_row_has_its_start_and_its_end_and_numbers_unknown_tokens_alike() -> None:
    assert smiles_row("CO>>[Xe]", VOCABULARY, 10) == [2, 4, 5, 6, 1, 3]


def test_a_long_reaction_loses_its_last_tokens_but_not_the_end() -> None:
    assert smiles_row("CCCOOO", VOCABULARY, 5) == [2, 4, 4, 4, 3]


def test_a_vocabulary_counts_lines(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\nC\n", encoding="utf-8")
    assert read_vocabulary(path) == {"[PAD]": 0, "[UNK]": 1, "C": 2}


def test_padding_is_masked_and_nothing_else() -> None:
    arrays = padded([[5, 0, 7], [9]], 4)
    assert arrays["input_ids"].tolist() == [[5, 0, 7, 0], [9, 0, 0, 0]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_a_row_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="could not broadcast"):
        padded([[1, 2, 3]], 2)


def test_packed_rows_are_one_line_cut() -> None:
    assert pack([[1, 2, 3], [4], [5, 6, 7, 8]], 3, 2).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(ParallelizeError, match="The texts have 3 tokens, 2 rows of 2 need 4"):
        pack([[1, 2], [3]], 2, 2)


def test_packing_reads_no_more_texts_than_it_needs() -> None:
    texts = iter([[1, 2], [3, 4], [5, 6]])
    pack(texts, 2, 2)
    assert next(texts) == [5, 6]


def test_what_is_prepared_is_made_once(tmp_path: Path) -> None:
    made = []

    def write(folder: Path) -> None:
        made.append(folder)
        np.save(folder / "x.npy", np.zeros(1))

    first = prepared("given", (), (), write, tmp_path)
    assert prepared("given", (), (), write, tmp_path) == first
    assert len(made) == 1
    assert [path.name for path in first.iterdir()] == ["x.npy"]


def test_what_is_prepared_is_made_again_when_its_code_changes(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("a")
    first = prepared("given", (), (code,), lambda folder: None, tmp_path)
    code.write_text("b")
    assert prepared("given", (), (code,), lambda folder: None, tmp_path) != first


def test_preparation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        prepared("given", (), (), write, tmp_path)
    assert list((tmp_path / "prepared").iterdir()) == []


def test_preparation_of_what_was_not_fetched_names_it(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLackError, match="The benchmark's source 'minilm' is not in"):
        prepared("given", ("minilm",), (), lambda folder: None, tmp_path)
