"""convert, plan and heal hand model, data and every option on, and nothing that they were not given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parallelize.cli.rewriting import _NUMBERS
from parallelize.conversion.options import ConvertOptions
from parallelize.data import InputSpec
from parallelize.exploring.options import PlanOptions
from parallelize.healing.options import HealOptions
from parallelize.machine.ranks import ALONE
from parallelize.models.source import Source
from passes.errors import ParallelizeError
from passes.plan import Plan
from tests.parallelize.cli.commands import PLAN, run

Asked = list[tuple[Source, Path, Any, bool]]
DATA = ("--inputs", "a.npz", "--test-inputs", "b.npz", "--labels", "y", "--mask", "m")
LOADING = ("--weights", "w.pt", "--weights-key", "ema", "--input", "x:batchx4", "--allow-pickle")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the work behind a command is asked for, which then ends."""
    calls: Asked = []

    def work(
        source: Source, output: Path, *, options: Any, force: bool, report: Any, ranks: Any, branch_ranks: int = 1
    ) -> None:
        assert callable(report)
        assert ranks is ALONE
        assert branch_ranks == 1
        calls.append((source, output, options, force))
        raise ParallelizeError("Seen.", "That is enough.")

    def explore(source: Source, output: Path, options: Any, *, force: bool, report: Any, ranks: Any) -> None:
        work(source, output, options=options, force=force, report=report, ranks=ranks)

    monkeypatch.setattr("parallelize.conversion.convert.convert", work)
    monkeypatch.setattr("parallelize.exploring.explore.explore", explore)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text(PLAN)
    return calls


def given(asked: Asked, *arguments: str) -> tuple[Source, Path, Any, bool]:
    told = run(*arguments)
    assert told.stderr.endswith("error: Seen.\nhint:  That is enough.\n"), told.output
    return asked[-1]


@pytest.mark.parametrize("command", ["convert", "plan", "heal"])
def test_without_options_the_defaults_are_those_of_python(asked: Asked, command: str) -> None:
    plan = ("--plan", "p.json") if command == "heal" else ()
    source, output, options, force = given(asked, command, "net.py:make", "-o", "out", *plan)
    assert (source, output, force) == (Source("net.py:make"), Path("out"), False)
    healing = ConvertOptions(Plan.from_json(PLAN), heal=HealOptions())
    assert options == {"convert": ConvertOptions(), "plan": PlanOptions(), "heal": healing}[command]


@pytest.mark.parametrize("command", ["convert", "heal"])
def test_model_and_data_are_handed_on_whole(asked: Asked, command: str) -> None:
    plan = ("--plan", "p.json")
    source, _, _, force = given(asked, command, "net.py:make", "-o", "out", "--force", *plan, *DATA, *LOADING)
    assert source == Source(
        "net.py:make",
        Path("a.npz"),
        Path("b.npz"),
        "y",
        "m",
        weights=Path("w.pt"),
        weights_key="ema",
        input_specs=(InputSpec("x", ("batch", 4)),),
        allow_pickle=True,
    )
    assert force


def test_a_goal_and_how_to_search_and_to_measure_are_handed_on(asked: Asked) -> None:
    search = ("--refit", "affine", "--seed", "5", "--time-limit", "9", "--refine", "2")
    measure = ("--metric", "cosine", "--threads", "2", "--rounds", "7")
    _, _, options, _ = given(asked, "convert", "m.pt2", "-o", "out", "--max-error", "1%", "--heal", *search, *measure)
    assert options == ConvertOptions(
        max_error="1%",
        heal=HealOptions(),
        refit="affine",
        seed=5,
        time_limit=9.0,
        refine=2,
        metric="cosine",
        threads=2,
        rounds=7,
    )
    assert given(asked, "convert", "m.pt2", "-o", "out", "--depth", "3")[2] == ConvertOptions(depth=3)
    goal = given(asked, "convert", "m.pt2", "-o", "out", "--min-speedup", "2x", "--max-latency", "800us")[2]
    assert goal == ConvertOptions(min_speedup="2x", max_latency="800us")
    _, _, options, _ = given(asked, "plan", "m.pt2", "-o", "out", *search[:4], "--metric", "cosine")
    assert (options.planner.refit, options.planner.seed, options.metric) == ("affine", 5, "cosine")


def test_plan_judges_on_no_other_data(asked: Asked) -> None:
    told = run("plan", "m.pt2", "-o", "out", "--inputs", "a.npz", "--test-inputs", "b.npz")
    assert told.exit_code == 2
    assert "--test-inputs" in told.stderr
    assert asked == []


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        (("--min-speedup", "1"), "Nothing is to be done for a speed-up of 1: the serial network has it."),
        (("--min-speedup", "-2"), "The speed-up '-2' is not a number above 1."),
        (("--max-latency", "1.5 parsecs"), "The latency '1.5 parsecs' is not a time above zero."),
        (("--max-latency", "1ms", "--depth", "2"), "Only one of a plan, a depth and a maximal error, speed-up or"),
    ],
)
def test_a_goal_of_latency_without_a_meaning_is_refused_before_the_model_is_touched(
    goal: tuple[str, ...], said: str
) -> None:
    told = run("convert", "gone.pt", "-o", "out", *goal)
    assert told.exit_code == 2
    assert said in " ".join(told.stderr.split())


def test_heal_hands_the_healing_and_what_is_measured_on(asked: Asked) -> None:
    healing = ("--steps", "9", "--train", "lora", "--rank", "3", "--learning-rate", "0.5")
    _, _, options, _ = given(asked, "heal", "m.pt2", "--plan", "p.json", "-o", "out", *healing, "--metric", "kl")
    assert options.heal == HealOptions(steps=9, train="lora", rank=3, learning_rate=0.5)
    assert (options.metric, options.plan) == ("kl", Plan.from_json(PLAN))


def test_a_plan_that_is_none_is_refused_before_the_model_is_touched(asked: Asked) -> None:
    Path("bad.json").write_text("{")
    for command in ("convert", "heal"):
        told = run(command, "gone.pt", "--plan", "bad.json", "-o", "out")
        assert told.exit_code == 2
        assert "plan" in told.stderr
    assert asked == []


def test_the_help_of_heal_names_the_metrics_that_read_any_numbers() -> None:
    assert _NUMBERS == ["relative-l2", "cosine"]
    told = " ".join(run("heal", "--help").output.replace("│", " ").split())
    assert "relative-l2 and cosine also heal by relative L2" in told
