"""docs/targets.md: what a target is, and how well the shipped one predicts; written by benchmarks/cost_model.py."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parallelize.predicting.target import Target

LEAST_TAU, MOST_ERROR = 0.9, 0.15


@dataclass(frozen=True)
class Family:
    """The networks of one model, predicted by numbers that were fitted to other models.

    Attributes:
        name: of the model.
        networks: rows of the study, batches counted apart.
        tau: Kendall's tau-b of all of them.
        tau_by_batch: of the networks at one batch.
        median_error: of the predicted latencies, relative.
        largest_error: with its sign.
        worst: the network that it is of.
    """

    name: str
    networks: int
    tau: float
    tau_by_batch: dict[int, float]
    median_error: float
    largest_error: float
    worst: str

    @property
    def is_good(self) -> bool:
        """Whether both aims are met."""
        return self.tau >= LEAST_TAU and self.median_error <= MOST_ERROR


HEAD = """# Targets: latency on a GPU that is not here

Written by `python benchmarks/cost_model.py` on {today}.

    parallelize plan MODEL -o DIR --inputs calibration.npz --target h200
    parallelize profile-gpu -o my-gpu.json

A **target** is a GPU as about twenty numbers in a JSON file. With them the latency of a network is predicted from the
kernels that it becomes, without that GPU: the kernels of PyTorch's operators in a CUDA graph, one after another on one
stream, on inputs that lie on the GPU. Predicted numbers are marked as such wherever they stand beside measured ones.

## The model

    t = t_graph + sum over kernels of ( t_fix + max( t_bytes, t_tiles ) )
    t_bytes = bytes / (B u)                                u = sqrt( bytes / (bytes + half) )
    t_tiles = min over tiles and splits of  waves (k / split) (t_step + 2 tile_m tile_n / rate) + t_split
    waves   = ceil( split * batch * ceil(m / tile_m) * ceil(n / tile_n) / SMs )

t_fix depends on the kind of the kernel: product, convolution, attention, norm, pointwise, copy. A product takes the
tile and the split of k that are quickest; a fused attention has tiles of 128 queries and takes a step for each key. A
view is no kernel; a norm of rows that lie apart and a reshape of a transposed tensor copy first.

The form follows what is known of predicting without the GPU: roofline alone is 22 to 28 % wrong per kernel, with one
sweep of measurements below 4 % ([2606.28565](https://arxiv.org/abs/2606.28565)), and the configuration of kernels
matters ([2603.00549](https://arxiv.org/abs/2603.00549)).
"""

JUDGED = """## How good it is

{count} latencies of `benchmarks/results/gpu_latency.json` ({machine}): serial networks, rewrites of several depths,
fused and unfused, and deletions, at batches of 1 to 32; their kernels were listed with {built}. Each model is predicted
by numbers that were fitted to the **other** models only. Tau is Kendall's rank correlation (tau-b) of the networks of a
model: 1 is the measured order. The aim is a tau of at least {tau} and a median error of at most {error:.0%}.
"""


def page(
    target: Target, families: Sequence[Family], own: float, compiled: Sequence[float], today: str, built: str
) -> str:
    """The page.

    Args:
        target: fitted to all families.
        families: each as the others predict it.
        own: median error of the target on all of them.
        compiled: errors on the networks that torch.compile compiled.
        today: the date.
        built: the versions that the networks were built with here.
    """
    count = sum(family.networks for family in families)
    machine = ", ".join(f"{name} {value}" for name, value in target.measured_on.items())
    parts = [HEAD.format(today=today)]
    parts.append(JUDGED.format(count=count, machine=machine, built=built, tau=LEAST_TAU, error=MOST_ERROR))
    parts += ["\n".join(_table(families)), _verdict(families, own), "\n".join(_numbers(target))]
    parts.append(LIMITS.format(compiled=f"{min(compiled):+.0%} to {max(compiled):+.0%}", count=len(compiled)))
    return "\n".join(parts)


def _table(families: Sequence[Family]) -> Iterator[str]:
    yield "| model | networks | tau, all batches | tau, least and most of a batch | median error | largest error |"
    yield "|---|---|---|---|---|---|"
    for family in families:
        by_batch = family.tau_by_batch.values()
        yield (
            f"| {family.name} | {family.networks} | {family.tau:.3f} | {min(by_batch):.2f} .. {max(by_batch):.2f} |"
            f" {family.median_error:.1%} | {family.largest_error:+.0%} ({family.worst}) |"
        )
    yield ""


def _verdict(families: Sequence[Family], own: float) -> str:
    missed = [
        f"{family.name} (tau {family.tau:.3f}, {family.median_error:.1%})" for family in families if not family.is_good
    ]
    met = f"Both aims are met by {len(families) - len(missed)} of {len(families)} models"
    tail = f"; missed: {', '.join(missed)}." if missed else "."
    return f"{met}{tail} Fitted to all models, as the shipped numbers are, the median error is {own:.1%}.\n"


def _numbers(target: Target) -> Iterator[str]:
    yield f"## The numbers of {target.gpu}\n"
    yield "| | |"
    yield "|---|---|"
    yield f"| SMs | {target.sms} |"
    yield f"| bandwidth B, measured by itself | {target.gb_per_s:,.0f} GB/s |"
    yield f"| half of the ramp | {target.half_mb:.1f} MB |"
    yield f"| t_graph, t_split | {target.graph_us:.1f}, {target.split_us:.1f} us |"
    for kind, fixed in target.fixed_us.items():
        yield f"| t_fix of {kind} | {fixed:.2f} us |"
    for precision, rates in target.rates.items():
        for kind, rate in vars(rates).items():
            yield f"| {kind}, {precision}: t_step, rate of an SM | {rate.step_ns:.2f} ns, {rate.gflops:,.0f} GFLOP/s |"
    yield ""


LIMITS = """They are numbers of a model, not of the card: t_fix of a convolution stands for all that cuDNN launches.

## What it does not know

- The shipped numbers are of bfloat16; another precision is refused. `profile-gpu` measures all that a GPU has.
- Kernels of torch.compile and TensorRT, which join operators, are not listed: too little is measured to judge them.
  Against the {count} networks that torch.compile was measured on, ViT-Tiny at batch 1, predictions are {compiled} off.
- `profile-gpu` is tested with latencies that a known target would have, and has not been run on a card yet: the two
  minutes that it should take are not measured.
- No second stream, no host: a network that waits for the CPU is slower than this.
- Convolutions are known from patch embeddings only. Operators whose kernels depend on the data are refused.
- Latencies within a few percent of each other are not told apart.
"""
