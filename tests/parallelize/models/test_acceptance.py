"""Before any pass: what is random, what mixes samples and what does not run is refused by the operator's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from parallelize.data import Samples
from parallelize.measuring.compare import compare
from parallelize.models.acceptance import accept, accepted_at_random, random_data
from parallelize.models.blame import blaming
from parallelize.models.capture import Dynamic, capture
from parallelize.models.finiteness import refuse_not_finite
from parallelize.models.program import Original, Program
from passes.errors import ParallelizeError

WIDTH = 4


class Net(nn.Module):
    """(batch, tokens, width) -> (batch, width), some function in the middle."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.middle = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), middle

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)).mean(1))  # type: ignore[no-any-return]


def _captured(middle: Callable[[Tensor], Tensor], batch: int | None = None) -> Program:
    example = torch.zeros(batch or 2, 6, WIDTH)
    return capture(Net(middle).eval(), (example,), dynamic="batch" if batch is None else None, origin="net")


def _samples(program: Program, count: int = 12) -> Samples:
    x = torch.randn(count, 6, WIDTH, generator=torch.Generator().manual_seed(1))
    fixed = program.inputs[0].shape[0]
    return Samples({"x": x}, fixed=fixed if isinstance(fixed, int) else None)


def _refusal(middle: Callable[[Tensor], Tensor]) -> str:
    program = _captured(middle)
    with pytest.raises(ParallelizeError) as caught:
        accept(program, _samples(program))
    assert caught.value.exit_code == 2
    return f"{caught.value} {caught.value.hint}"


def _coin(x: Tensor) -> Tensor:
    return torch.where(torch.rand(()) < 0.01, x, 2 * x)


RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: functional.dropout(x, 0.1),
    "scaled_dot_product_attention": lambda x: functional.scaled_dot_product_attention(x, x, x, dropout_p=0.2),
    "rand_like": lambda x: x + torch.rand_like(x),
    "bernoulli": lambda x: x * torch.bernoulli(x.sigmoid()),
    "normal": lambda x: torch.normal(x, 1.0),
    "exponential": functional.gumbel_softmax,
    "rand": _coin,
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_operator_is_refused_by_its_name(name: str) -> None:
    message = _refusal(RANDOM[name])
    assert "answers otherwise each time it runs" in message
    assert f"aten.{name}." in message
    assert ("training" in message) == (name in ("dropout", "scaled_dot_product_attention"))


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: functional.dropout(x, 0.5, training=False),
        lambda x: functional.dropout(x, 0.0),
        lambda x: functional.scaled_dot_product_attention(x, x, x),
        lambda x: x + 0 * torch.rand_like(x),
    ],
    ids=["off", "rate 0", "attention", "times 0"],
)
def test_randomness_that_no_output_depends_on_is_accepted(middle: Callable[[Tensor], Tensor]) -> None:
    program = _captured(middle)
    assert accept(program, _samples(program)).notes == ()


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def _batch_norm(x: Tensor) -> Tensor:
    return functional.batch_norm(x.transpose(1, 2), None, None, training=True).transpose(1, 2)


MIXING: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "batch statistics": (_batch_norm, "normalises by batch statistics"),
    "tokens first": (Encoder().eval(), "attends over the samples"),
    "spread": (lambda x: x / x.std(0), "aten.std."),
    "softmax": (lambda x: x.softmax(0), "aten.softmax."),
    "sums so far": (lambda x: x.cumsum(0), "aten.cumsum."),
    "size": (lambda x: x / x.shape[0], "aten.div."),
}


@pytest.mark.parametrize("name", MIXING)
def test_answers_that_depend_on_other_samples_are_refused_with_the_operator(name: str) -> None:
    middle, words = MIXING[name]
    message = _refusal(middle)
    assert "depend on the other samples of its batch" in message
    assert words in message
    assert "fix the batch to one sample" in message


@pytest.mark.parametrize("name", [name for name in MIXING if name != "size"])
def test_in_a_fixed_batch_they_are_noted(name: str) -> None:
    program = _captured(MIXING[name][0], batch=4)
    notes = accept(program, _samples(program)).notes
    assert "batches of 4 samples" in notes[0]
    assert "depend on the other samples" in notes[1]
    assert MIXING[name][1] in notes[1]


def test_a_fixed_batch_of_independent_samples_is_only_told() -> None:
    for batch, words in ((1, "one sample at a time"), (3, "batches of 3 samples")):
        program = _captured(torch.tanh, batch=batch)
        (note,) = accept(program, _samples(program)).notes
        assert words in note


def test_an_axis_of_samples_that_is_squeezed_away_is_refused() -> None:
    message = _refusal(lambda x: x.mean(1, keepdim=True).squeeze().unsqueeze(1))
    assert "For one sample net returns 'output' as" in message
    assert "aten.squeeze." in message


@pytest.mark.parametrize("dynamic", ["batch", None])
@pytest.mark.parametrize("extra", [lambda x: x.mean(), lambda x: torch.ones(5), lambda x: x.mean(0)[:1]])
def test_an_output_without_samples_is_refused_by_its_name(extra: Callable[[Tensor], Tensor], dynamic: Dynamic) -> None:
    class Two(Net):
        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"logits": super().forward(x), "scale": extra(x)}

    program = capture(Two(torch.tanh).eval(), (torch.zeros(2, 6, WIDTH),), origin="net", dynamic=dynamic)
    with pytest.raises(ParallelizeError, match="The output 'scale' of net has no axis of samples") as caught:
        accept(program, _samples(program))
    assert caught.value.exit_code == 2
    *_, note = accept(program, _samples(program), strict=False).notes
    assert "no axis of samples" in note


def test_another_path_for_one_sample_is_refused() -> None:
    def middle(x: Tensor) -> Tensor:
        return 2 * x if x.shape[0] == 1 else x

    assert "takes another path for a single sample" in _refusal(middle)


def test_a_graph_that_is_not_the_module_is_refused() -> None:
    program = _captured(torch.tanh)
    assert program.original is not None
    other = Original(Net(torch.sigmoid).eval(), program.original.leaves, program.original.structure)
    with pytest.raises(ParallelizeError, match="is another function than the model"):
        accept(replace(program, original=other), _samples(program))


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).mean(1)  # type: ignore[no-any-return]


def test_a_sample_that_the_model_does_not_run_on_is_named_with_input_and_node() -> None:
    program = capture(Embedding().eval(), (torch.zeros(2, 3, dtype=torch.int64),), origin="net")
    ids = torch.zeros(120, 3, dtype=torch.int64)
    ids[107, 1] = 50
    with pytest.raises(ParallelizeError, match="net does not run on sample 107 at embedding") as caught:
        refuse_not_finite(program, Samples({"ids": ids}))
    assert "in table)" in str(caught.value)
    assert "ids 1x3@int64 from 0 to 50" in str(caught.value)
    assert caught.value.exit_code == 2


def test_errors_that_say_what_to_do_pass_as_they_are() -> None:
    program = _captured(torch.tanh)
    with pytest.raises(ParallelizeError, match=r"^mine$"), blaming(program, _samples(program), 0, 2):
        raise ParallelizeError("mine", "hint")


def test_inputs_without_samples_are_told() -> None:
    class Placed(nn.Module):
        def forward(self, x: Tensor, positions: Tensor) -> Tensor:
            return x + positions

    program = capture(Placed().eval(), (torch.zeros(2, 6, 4), torch.zeros(6, 4)), origin="net")
    assert accepted_at_random(program) == ("The input 'positions' has no samples: every batch gets the same.",)


def test_random_data_is_such_that_the_model_gives_numbers() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, n: Tensor) -> Tensor:
            hidden = torch.arange(x.shape[1])[None] >= n[:, None]
            return (x @ x.transpose(1, 2)).masked_fill(hidden[:, None], float("-inf")).softmax(-1) @ x

    example = (torch.zeros(2, 6, 4), torch.zeros(2, dtype=torch.int64))
    program = capture(Masked().eval(), example, origin="net")
    samples = random_data(program, 8, 0)
    assert not program.module(*samples.batch(8)).isnan().any()


def test_a_random_network_is_not_compared() -> None:
    with pytest.raises(ParallelizeError, match=r"aten\.dropout\.default\) is dropout that is on"):
        compare(_captured(RANDOM["dropout"]), _captured(torch.tanh))
