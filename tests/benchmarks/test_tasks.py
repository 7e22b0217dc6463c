"""Each task with its fetched weights and data: its serial model is as good as it should be, its stacks are found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from benchmarks.sources import CACHE, SOURCES
from benchmarks.tasks import TASKS, Task
from benchmarks.tasks.recall import recall_at_1
from paraformer.data.idx import FASHION_MNIST
from parallelize.data import Samples
from parallelize.models.clean import clean
from passes.stacks.find import find_stacks


def _top1(task: Task, samples: Samples) -> float:
    assert samples.labels is not None
    return float((_outputs(task, samples).argmax(1) == samples.labels).double().mean())


def _recall(task: Task, samples: Samples) -> float:
    embeddings = _outputs(task, samples)
    return float(recall_at_1([embeddings], [embeddings], samples.arrays).mean())


def _perplexity(task: Task, samples: Samples) -> float:
    log_p = _outputs(task, samples)[:, :-1].log_softmax(2)
    targets = samples.arrays["input_ids"][:, 1:, None]
    return float(log_p.gather(2, targets).mean().neg().exp())


def _outputs(task: Task, samples: Samples) -> Tensor:
    with torch.no_grad():
        return torch.cat([task.program.module(*batch) for batch in samples.batches(50)])


@dataclass(frozen=True)
class Expected:
    """Sizes of a task, and between which values its serial score on `subset` test samples lies."""

    sources: tuple[str, ...]
    libraries: tuple[str, ...]
    blocks: int
    calibration: int
    test: int
    subset: tuple[int, ...]
    score: Callable[[Task, Samples], float]
    low: float
    high: float


EXPECTED = {
    "fashion": Expected((), (), 12, 12_000, 10_000, tuple(range(1000)), _top1, 0.88, 0.94),
    "minilm": Expected(
        ("minilm", "debian"), ("transformers",), 6, 4000, 2000, (*range(200), *range(1000, 1200)), _recall, 0.82, 0.96
    ),
    "rxnfp": Expected(
        ("rxnfp", "schneider50k"), ("transformers",), 12, 9642, 2000, tuple(range(150)), _top1, 0.94, 1.0
    ),
    "smollm": Expected(
        ("smollm", "debian"), ("transformers", "accelerate", "gguf"), 30, 400, 16, tuple(range(4)), _perplexity, 35, 60
    ),
}
pytestmark = [pytest.mark.data, pytest.mark.parametrize("name", TASKS)]


@functools.cache
def _task(name: str) -> Task:
    return TASKS[name]()


@pytest.fixture
def task(name: str) -> Task:
    for library in EXPECTED[name].libraries:
        pytest.importorskip(library)
    absent = [source for source in EXPECTED[name].sources if not SOURCES[source].is_fetched(CACHE)]
    if absent:
        pytest.skip(f"not fetched: run `python benchmarks/fetch.py {' '.join(absent)}`")
    if name == "fashion" and not FASHION_MNIST.exists():
        pytest.skip("needs the Debian package dataset-fashion-mnist")
    return _task(name)


def test_the_serial_model_scores_as_it_should(task: Task, name: str) -> None:
    expected = EXPECTED[name]
    assert expected.low <= expected.score(task, task.test.take(expected.subset)) <= expected.high


def test_one_stack_holds_all_blocks(task: Task, name: str) -> None:
    stacks = find_stacks(clean(task.program)[0].module).stacks
    assert [term.kind for stack in stacks for term in stack.terms] == ["attention", "mlp"] * EXPECTED[name].blocks
    assert len(stacks) == 1


def test_the_batch_is_free_and_all_else_is_fixed(task: Task, name: str) -> None:
    for spec in task.program.inputs:
        assert spec.dimensions == ("batch",)
        assert list(task.calibration.arrays) == [each.name for each in task.program.inputs]


def test_data_is_as_large_as_promised_and_only_test_samples_have_labels(task: Task, name: str) -> None:
    expected = EXPECTED[name]
    assert (len(task.calibration), len(task.test)) == (expected.calibration, expected.test)
    assert task.calibration.labels is None
    assert (task.test.labels is not None) == (task.metric == "top1-drop")


def test_no_test_sample_is_a_calibration_sample(task: Task, name: str) -> None:
    assert _rows(task.calibration).isdisjoint(_rows(task.test))


def _rows(samples: Samples) -> set[bytes]:
    return {row.numpy().tobytes() for row in next(iter(samples.arrays.values()))}
