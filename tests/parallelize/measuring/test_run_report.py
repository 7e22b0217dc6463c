"""What a run tells."""

from __future__ import annotations

from parallelize.measuring.run import RunResult
from parallelize.measuring.run_report import facts, notes
from parallelize.measuring.run_score import Score
from passes.runner import PassRecord, Skip


def test_one_process_tells_samples_seconds_and_outputs() -> None:
    result = RunResult("out", "torch", "cpu", 1, 200, 32, 1.0, {"y": (200, 10), "table": ()})
    assert list(facts(result)) == [
        "200 samples in 1.00 s, 5 ms each: out by torch on cpu, batch 32.",
        "y: 200x10",
        "table: a single number",
    ]
    assert list(notes(result)) == []


def test_several_ranks_tell_who_has_what_and_what_all_of_them_run() -> None:
    skips = (Skip("f", "it is random"), Skip("g", "it is random"), Skip("h", "it is large"))
    record = PassRecord("spread-branches", True, ("add: 2 branches on 2 ranks, 50% on one",), skips, 1, 1, 0.0, None)
    score = Score("top-1", 0.5, (0.4, 0.6), ".1%")
    result = RunResult("out", "torch", "cpu", 2, 1, 32, 1.0, {}, record, score)
    assert list(facts(result)) == [
        "1 sample in 1.00 s, 1e+03 ms each: out by torch on cpu of rank 0, batch 32.",
        "2 ranks share 1 level, one all-reduce for each:",
        "    add: 2 branches on 2 ranks, 50% on one",
        "top-1 50.0% (95 % interval 40.0% to 60.0%)",
    ]
    assert list(notes(result)) == ["every rank runs f and g: it is random", "every rank runs h: it is large"]
