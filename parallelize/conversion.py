"""The main job: a model, data and a budget become a directory with the rewritten model and the evidence.

    capture -> find stacks -> plan (search) -> rewrite -> refit -> width fusion -> ONNX -> compare, time -> report

Everything that is reported is measured here: scores on samples that neither fitted nor chose the plan, latencies in
turn in one run, and the ONNX files against the graphs that they were written from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parallelize.backends.onnxruntime import OnnxRuntime
from parallelize.capturing import capture, export
from parallelize.cleaning import clean
from parallelize.inputs import InputSpec, Samples, load_samples, random_samples, read_arrays
from parallelize.latency import Latency, in_turn
from parallelize.metrics import Metric, Scores, predict, score
from parallelize.onnx_export import write_onnx
from parallelize.output_directory import output_directory
from parallelize.program import Program
from parallelize.references import LoadOptions, load_program
from parallelize.report import Comparison, Evidence, write_report
from parallelize.search import Search, Searcher
from parallelize.split import Split, split
from parallelize.variants import AS_IS, REWRITE, SERIAL, Variant, Variants, build_variants
from passes.apply_plan import check_fits
from passes.errors import CheckError, EnvironmentLackError, ParallelizeError
from passes.infra import flat_outputs, largest_change
from passes.plan import Plan, Refit
from passes.stacks import Stacks, find_stacks

DEFAULT_BUDGET = 0.02
ONNX_TOLERANCE = 1e-3  # of the largest output, float32 sums in another order
RANDOM_SAMPLES = 64

Report = Callable[[str, float | None], None]  # what is being done, and the share of it that is done where known


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert. Of `plan`, `depth` and `max_error` at most one is given.

    Attributes:
        plan: replay this plan.
        depth: the best schedule of at most so many blocks.
        max_error: the shallowest schedule within this error of `metric`.
        metric: what the search minimises and the budget limits; None is KL for logits, relative L2 otherwise.
        refit: the strongest refit a level may get.
        seed: seeds the split of the data.
        threads: of ONNX Runtime when latency is measured.
        rounds: how often each network is timed.
    """

    plan: Plan | None = None
    depth: int | None = None
    max_error: float | None = None
    metric: Metric | None = None
    refit: Refit = "full"
    seed: int = 0
    threads: int = 1
    rounds: int = 200


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes:
        output: the directory.
        program: the rewritten, refitted and fused model.
        plan: its plan.
        report: the content of report.json.
    """

    output: Path
    program: Program
    plan: Plan
    report: dict[str, Any]


def convert(
    model: str | os.PathLike[str] | nn.Module | Program,
    output: str | os.PathLike[str],
    *,
    inputs: str | os.PathLike[str] | None = None,
    test_inputs: str | os.PathLike[str] | None = None,
    labels: str | None = None,
    example: tuple[Any, ...] | None = None,
    weights: str | os.PathLike[str] | None = None,
    input_specs: tuple[InputSpec, ...] = (),
    allow_pickle: bool = False,
    force: bool = False,
    options: ConvertOptions | None = None,
    report: Report = lambda _what, _share: None,
) -> Conversion:
    """Rewrite a model's depth into width and write the result with its evidence to a directory.

    Args:
        model: a reference as on the command line, a captured program, or a module in eval mode with `example`.
        output: directory to make.
        inputs: .npz of calibration samples, one array for each input of the model, first axis samples.
        test_inputs: .npz to judge on; without it a fifth of `inputs` is kept apart for that.
        labels: name of the array of class labels in the .npz that judges.
        example: example inputs of a module.
        weights: state dict for a `module:factory` reference.
        input_specs: shapes of the inputs of a `module:factory` reference.
        allow_pickle: load a pickled module, which runs code from the file.
        force: replace an existing directory.
        options: plan, budget and the rest.
        report: told what is being done.

    Raises:
        ParallelizeError: with one sentence and a hint; `output` is then as it was before.
    """
    options = options or ConvertOptions()
    target = Path(output)
    _refuse_foreign(target)
    with output_directory(target, force=force) as directory:
        report("capturing the model", None)
        program = _capture(model, example, inputs, LoadOptions(_path(weights), input_specs, allow_pickle))
        _require_stacks(find_stacks(program.module), program)
        samples, judge, is_random = _load_data(program, _path(inputs), _path(test_inputs), labels, options)
        program, cleaning = clean(program, next(iter(samples.batches(4))))
        stacks = find_stacks(program.module)
        data = split(samples, judge, options.seed if options.plan is None else options.plan.seed)
        options = _settle(options, program, stacks, data, is_random)
        search, plan = _choose(program, data, options, report)
        refitted = search.chosen.refitted if search is not None and options.refit != "none" else None
        metric = options.metric
        assert metric is not None
        variants = build_variants(
            program, plan, data.fit, data.held_out, metric, refitted, lambda what: report(what, None)
        )
        scores = _score(variants, data.judge, report)
        comparisons, latencies = _measure_onnx(variants, data.judge, directory, options, report)
        evidence = Evidence(
            origin=program.origin,
            stacks=stacks,
            variants=variants,
            scores=scores,
            latencies=latencies,
            comparisons=comparisons,
            search=search,
            split=data,
            random_inputs=is_random,
            metric=metric,
            options=options,
            records=(*cleaning, *variants.records),
        )
        report("writing the report", None)
        product = final(variants)
        _save_program(product.program, directory / "model.pt2")
        content = write_report(evidence, directory)
        (directory / "plan.json").write_text(plan.to_json())
    return Conversion(target, product.program, plan, content)


def final(variants: Variants) -> Variant:
    """The network that a conversion is for: refitted where the refit helps, else the rewrite as is."""
    names = {variant.name for variant in variants.items}
    return variants[REWRITE if REWRITE in names else AS_IS]


def _refuse_foreign(target: Path) -> None:
    """Only what an earlier conversion made may be replaced, whatever the options say."""
    try:
        foreign = target.is_dir() and any(target.iterdir()) and not (target / "report.json").is_file()
    except OSError as error:
        raise EnvironmentLackError(
            f"The output directory {target} cannot be read: {error.strerror}.", "Choose a place that you may write to."
        ) from error
    if foreign:
        raise ParallelizeError(
            f"The directory {target} exists and was not made by a conversion: it has no report.json.",
            "Choose another with -o, or delete it yourself.",
        )


def _path(value: str | os.PathLike[str] | None) -> Path | None:
    return None if value is None else Path(value)


def _capture(
    model: str | os.PathLike[str] | nn.Module | Program,
    example: tuple[Any, ...] | None,
    inputs: str | os.PathLike[str] | None,
    options: LoadOptions,
) -> Program:
    if isinstance(model, Program):
        return model
    if isinstance(model, nn.Module):
        if example is None:
            raise ParallelizeError("A module needs example inputs to be captured.", "Pass example=(tensor, ...).")
        return capture(model, example, origin=type(model).__name__)
    samples = None if inputs is None else read_arrays(Path(inputs))
    return load_program(os.fspath(model), options, samples)


def _require_stacks(stacks: Stacks, program: Program) -> None:
    if any(len(stack.blocks) > 1 for stack in stacks.stacks):
        return
    why = f" ({stacks.refused[0].node}: {stacks.refused[0].reason})" if stacks.refused else ""
    raise ParallelizeError(
        f"{program.origin} has no residual stack of two blocks or more{why}.",
        "Only chains x + f(x) can be parallelized; `parallelize inspect MODEL` lists what was found.",
    )


def _load_data(
    program: Program, inputs: Path | None, test_inputs: Path | None, labels: str | None, options: ConvertOptions
) -> tuple[Samples, Samples | None, bool]:
    """Calibration samples, samples to judge on where they are of their own, and whether all are random."""
    if inputs is None:
        if test_inputs is not None or labels is not None:
            raise ParallelizeError("--test-inputs and --labels need --inputs.", "Give calibration data with --inputs.")
        return random_samples(program.inputs, RANDOM_SAMPLES, options.seed), None, True
    judge = None if test_inputs is None else load_samples(test_inputs, program.inputs, labels)
    samples = load_samples(inputs, program.inputs, labels if judge is None else None)
    return samples, judge, False


def _settle(options: ConvertOptions, program: Program, stacks: Stacks, data: Split, is_random: bool) -> ConvertOptions:
    """Fill in what was left open: metric, budget, and no refit on noise."""
    given = [name for name in ("plan", "depth", "max_error") if getattr(options, name) is not None]
    if len(given) > 1:
        raise ParallelizeError(
            "Only one of a plan, a depth and a maximal error can be asked for.", "Leave out the rest."
        )
    if options.plan is not None:
        check_fits(stacks.stacks, options.plan)
        wants_refit = any(part.refit != "none" for part in options.plan.stacks)
        if wants_refit and is_random:
            raise ParallelizeError(
                "The plan asks for a refit, which needs data.", 'Give --inputs, or set "refit": "none" in the plan.'
            )
    if options.metric is None:
        first = next(iter(data.judge.batches(4)))
        outputs = flat_outputs(program.module, first)
        logits = score(outputs, outputs).kl is not None
        options = replace(options, metric="kl" if logits else "relative-l2")
    if is_random:
        options = replace(options, refit="none")
    if not given and is_random:
        blocks = sum(len(stack.blocks) for stack in stacks.stacks)
        return replace(options, depth=max(len(stacks.stacks), blocks // 2))
    return options if given else replace(options, max_error=DEFAULT_BUDGET)


def _choose(program: Program, data: Split, options: ConvertOptions, report: Report) -> tuple[Search | None, Plan]:
    if options.plan is not None:
        return None, options.plan
    assert options.metric is not None

    def progress(what: str, done: int, total: int) -> None:
        report(what, done / total if total > 1 else None)

    searcher = Searcher(program.module, data.fit, data.held_out, options.metric, options.refit, options.seed, progress)
    if options.depth is not None:
        search = searcher.at_depth(options.depth)
    else:
        assert options.max_error is not None
        search = searcher.within(options.max_error)
    return search, search.chosen.plan


def _score(variants: Variants, judge: Samples, report: Report) -> dict[str, Scores]:
    """Scores of every network on the samples that judge."""
    teacher = predict(variants[SERIAL].program.module, judge)
    scores = {}
    for number, variant in enumerate(variants.items):
        report("judging", number / len(variants.items))
        scores[variant.name] = score(predict(variant.program.module, judge), teacher, judge.labels)
    return scores


def _measure_onnx(
    variants: Variants, judge: Samples, directory: Path, options: ConvertOptions, report: Report
) -> tuple[dict[str, Comparison], dict[str, Latency]]:
    """Write every network as ONNX, compare it with its graph and time all of them in turn at batch 1.

    Raises:
        CheckError: an ONNX file does not compute what its graph computes.
    """
    batch, single = next(iter(judge.batches(32))), next(iter(judge.batches(1)))
    product = final(variants).name
    scratch = directory / "scratch"
    scratch.mkdir()
    comparisons, sessions = {}, {}
    for number, variant in enumerate(variants.items):
        report("writing and checking ONNX", number / len(variants.items))
        path = directory / "model.onnx" if variant.name == product else scratch / f"{number}.onnx"
        write_onnx(variant.program, path)
        session = OnnxRuntime(path, options.threads)
        error = largest_change(flat_outputs(variant.program.module, batch), session(batch))
        comparisons[variant.name] = Comparison(error, ONNX_TOLERANCE, len(batch[0]))
        if not error <= ONNX_TOLERANCE:
            raise CheckError(
                f"The ONNX of '{variant.name}' differs from its graph by {error:.1e} of the largest output.",
                "Please report this with the model.",
            )
        sessions[variant.name] = session.bound(single)
    report("timing", None)
    latencies = in_turn(sessions, options.rounds)
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()
    return comparisons, latencies


def _save_program(program: Program, path: Path) -> None:
    with torch.no_grad():
        torch.export.save(export(program), path)
