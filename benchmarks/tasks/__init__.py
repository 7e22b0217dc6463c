"""The tasks of the accuracy benchmark: real pretrained models on real data, each with its score.

    from benchmarks.tasks import TASKS
    task = TASKS["minilm"]()
    task.program, task.calibration, task.test, task.metric

The weights and the data are fetched by `python benchmarks/fetch.py`; benchmarks/README.md tells about each task.
"""

from collections.abc import Callable

from benchmarks.tasks import fashion, minilm, rxnfp, smollm
from benchmarks.tasks.task import Task

TASKS: dict[str, Callable[[], Task]] = {
    "fashion": fashion.task,
    "minilm": minilm.task,
    "rxnfp": rxnfp.task,
    "smollm": smollm.task,
}

__all__ = ["TASKS", "Task"]
