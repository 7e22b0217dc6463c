from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tasks.descriptions import Description, family, read_descriptions, split

TEXT = """Package: libfoo2
Description-md5: 0
Description-en: does foo
 Foo is a library
 that does foo.
 .
 It does:
  * this
  * that

Package: no-long
Description-md5: 1
Description-en: nothing to add

Package: libfoo-dev
Description-md5: 2
Description-en: another short one
 Foo is a library that does foo.
 .
 It does:
  * this
  * that

Package: same-short
Description-md5: 4
Description-en: Does FOO
 Another text.

Package: same-beginning
Description-md5: 5
Description-en: even another short one
 Foo is a library that does foo.
 .
 It does:
  * this
  * that
 .
 LONG
 .
 It is the first.

Package: same-beginning-again
Description-md5: 5
Description-en: one short one more
 Foo is a library that does foo.
 .
 It does:
  * this
  * that
 .
 LONG
 .
 It is the second.

Package: foreign
Description-md5: 3
Description-de: kurz
 lang
"""


def _read(folder: Path) -> tuple[Description, ...]:
    path = folder / "list"
    path.write_text(TEXT.replace("LONG", "so much more " * 20), encoding="utf-8")
    return read_descriptions(path)


def test_wrapped_lines_become_paragraphs_and_lists_stay_lists(tmp_path: Path) -> None:
    long = "Foo is a library that does foo.\nIt does:\n* this\n* that"
    first = _read(tmp_path)[0]
    assert first == Description("libfoo2", "does foo", long)
    assert first.text == f"does foo\n{long}"


def test_packages_described_alike_count_once_and_ones_half_described_not_at_all(tmp_path: Path) -> None:
    assert [each.package for each in _read(tmp_path)] == ["libfoo2", "same-beginning"]


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("libfoo2", "foo"),
        ("foo-dev", "foo"),
        ("python3-numpy", "python"),
        ("0ad", "0ad"),
        ("2048", "2048"),
    ],
)
def test_a_family_is_the_first_word_without_lib_and_version(package: str, name: str) -> None:
    assert family(package) == name


def _packages() -> list[Description]:
    return [Description(f"{word}-{part}", "s", f"{word} {part}") for word in "abcdefgh" for part in "xyz"]


def test_no_family_is_both_tested_and_calibrated_on() -> None:
    found = split(_packages(), 3, seed=0)
    tested = [family(each.package) for each in found.tested]
    calibration = {family(each.package) for each in found.calibration}
    assert len(tested) == len(set(tested)) == 3
    assert calibration == set("abcdefgh") - set(tested)
    assert len(found.calibration) == 15


def test_one_seed_is_one_split_and_another_seed_is_another() -> None:
    assert split(_packages(), 3, seed=0) == split(_packages(), 3, seed=0)
    assert split(_packages(), 3, seed=0) != split(_packages(), 3, seed=1)
