"""Bad input of any kind ends in one sentence and one hint, with the exit code of its kind, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from paraformer.model import VisionParaFormer
from tests.parallelize.cli.commands import CONVERT, HEAL, PLAN, run
from tests.parallelize.small_models import SMALL


def replaced(old: str, new: str) -> tuple[str, ...]:
    return tuple(new if word == old else word for word in CONVERT)


def _truncate(home: Path) -> None:
    whole = (home / "model.pt").read_bytes()
    (home / "model.pt").write_bytes(whole[: len(whole) // 2])


def _pickle(home: Path) -> None:
    torch.save(VisionParaFormer(SMALL), home / "model.pt")


def _misfit(home: Path) -> None:
    torch.save({"other.weight": torch.zeros(2)}, home / "weights.pt")


def _data(**arrays: object) -> Callable[[Path], None]:
    def write(home: Path) -> None:
        np.savez(home / "data.npz", **arrays)

    return write


def _nothing(home: Path) -> None:
    pass


NAN = np.full((40, 1, 8, 8), np.nan, np.float32)
FACTORY = ("convert", "factories.py:residual", "--inputs", "rows.npz", "-o", "out")
BAD = {
    "missing file": (_nothing, replaced("model.pt", "gone.pt"), 2, "gone.pt"),
    "truncated checkpoint": (_truncate, CONVERT, 2, "model.pt"),
    "pickled module": (_pickle, CONVERT, 2, "--allow-pickle"),
    "misfit weights": (_misfit, (*FACTORY, "--weights", "weights.pt"), 2, "weights.pt"),
    "wrong shape": (_data(images=np.zeros((40, 1, 9, 9))), CONVERT, 2, "40x1x9x9"),
    "no such array": (_data(pictures=np.zeros((40, 1, 8, 8))), CONVERT, 2, "images"),
    "NaN": (_data(images=NAN), CONVERT, 2, "NaN"),
    "too few samples": (_data(images=np.zeros((5, 1, 8, 8))), CONVERT, 2, "5 samples"),
    "no labels of that name": (_nothing, (*CONVERT, "--labels", "classes"), 2, "classes"),
    "no stack": (_nothing, ("convert", "factories.py:Plain", "--inputs", "rows.npz", "-o", "out"), 2, "residual stack"),
    "no such factory": (_nothing, ("convert", "factories.py:other", "-o", "out"), 2, "other"),
    "data that is no archive": (lambda home: (home / "data.npz").write_text("no"), CONVERT, 2, "data.npz"),
    "plan and depth": (lambda home: (home / "p.json").write_text("{}"), (*CONVERT, "--plan", "p.json"), 2, "plan"),
    "plan that is no JSON": (
        lambda home: (home / "p.json").write_text("{"),
        ("convert", "model.pt", "--inputs", "data.npz", "--plan", "p.json", "-o", "out"),
        2,
        "plan",
    ),
    "top-1 without labels": (_nothing, (*CONVERT, "--metric", "top1-drop"), 2, "--labels"),
    "metric of no name": (_nothing, (*CONVERT, "--metric", "bleu"), 2, "perplexity"),
    "metric that raises": (
        lambda home: (home / "mine.py").write_text("def f(outputs, teacher, batch):\n    return 1 / 0\n"),
        (*CONVERT, "--metric", "mine.py:f"),
        2,
        "ZeroDivisionError",
    ),
    "percentage of nats": (
        _nothing,
        ("convert", "model.pt", "--inputs", "data.npz", "--max-error", "1%", "-o", "out"),
        2,
        "absolute value",
    ),
    "negative budget": (
        _nothing,
        ("convert", "model.pt", "--inputs", "data.npz", "--max-error=-1", "-o", "out"),
        2,
        "-1",
    ),
    "mask of no name": (_nothing, (*CONVERT, "--mask", "padding"), 2, "padding"),
    "budget out of reach": (
        _nothing,
        ("convert", "model.pt", "--inputs", "data.npz", "--max-error", "0", "-o", "out"),
        1,
        "budget",
    ),
    "output below a file": (_nothing, replaced("out", "data.npz/out"), 3, "out"),
    "prefixes that are no numbers": (_nothing, (*CONVERT, "--prefixes", "abc"), 2, "'abc'"),
    "a prefix of no branches": (_nothing, (*CONVERT, "--prefixes", "0,1"), 2, "from 1 on"),
    "a prefix of too many branches": (
        lambda home: (home / "p.json").write_text(PLAN),
        ("convert", "model.pt", "--plan", "p.json", "--prefixes", "9", "-o", "out"),
        2,
        "no prefix of 9 branches",
    ),
    "prefixes of a serial network": (
        _nothing,
        ("convert", "model.pt", "--depth", "2", "--prefix-outputs", "-o", "out"),
        2,
        "model.pt has no prefixes",
    ),
    "plan to heal by that does not fit": (
        lambda home: (home / "p.json").write_text(PLAN.replace('"terms": 4', '"terms": 9')),
        HEAL,
        2,
        "9 terms",
    ),
    "healing without data": (
        lambda home: (home / "p.json").write_text(PLAN),
        ("heal", "model.pt", "--plan", "p.json", "-o", "out"),
        2,
        "Healing needs data",
    ),
    "healing for steps and epochs": (
        lambda home: (home / "p.json").write_text(PLAN),
        (*HEAL, "--epochs", "1"),
        2,
        "steps and epochs",
    ),
    "healing on a GPU that is not there": (
        lambda home: (home / "p.json").write_text(PLAN),
        (*HEAL, "--device", "cuda:77"),
        3,
        "cuda:77",
    ),
    "search on a GPU that is not there": (
        _nothing,
        (*CONVERT, "--device", "cuda:77"),
        3,
        "There is no GPU cuda:77",
    ),
    "plans on a device that is misspelt": (
        _nothing,
        ("plan", "model.pt", "-o", "out", "--inputs", "data.npz", "--device", "gpu"),
        2,
        "'gpu' names no device",
    ),
    "search in an amount of memory that is none": (
        _nothing,
        (*CONVERT, "--buffer", "a lot"),
        2,
        "'a lot' is no amount of memory",
    ),
    "healing in too little memory": (
        lambda home: (home / "p.json").write_text(PLAN),
        (*HEAL, "--buffer", "0"),
        2,
        "'0' is too little memory",
    ),
    "plans in too little memory": (
        _nothing,
        ("plan", "model.pt", "-o", "out", "--inputs", "data.npz", "--buffer", "1k"),
        2,
        "'1k' is too little memory",
    ),
    "output is a file": (_nothing, replaced("out", "data.npz"), 2, "data.npz"),
}


SLOW = (
    "top-1 without labels",
    "metric that raises",
    "budget out of reach",
)  # what they break comes after the model has run


@pytest.mark.parametrize("case", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in BAD])
def test_bad_input_ends_in_one_sentence_and_one_hint(home: Path, case: str) -> None:
    prepare, arguments, code, word = BAD[case]
    prepare(home)
    before = set(home.iterdir())
    told = run(*arguments)
    assert told.exit_code == code, told.output
    lines = [line for line in told.stderr.splitlines() if line.startswith(("error: ", "hint:  "))]
    assert [line[:7] for line in lines] == ["error: ", "hint:  "]
    assert word in " ".join(lines)
    assert "Traceback" not in told.output
    assert {path for path in home.iterdir() if path.suffix != ".pyc" and path.name != "__pycache__"} <= before
