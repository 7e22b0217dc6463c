"""torch.compile with the backend "parallelize": the network that a rewrite gives, whatever the batch, or a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends import registry
from torch._dynamo.exc import BackendCompilerFailed

from parallelize.conversion.dynamo import backend
from parallelize.conversion.rewrite import rewrite
from passes.errors import ParallelizeError
from tests.parallelize.conversion.conversions import PLAN, Named, X

GROUP = "torch_dynamo_backends"
DATA = {"x": X, "shift": 0.1 * X.flip(1)}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The backend as pyproject.toml registers it, whatever is installed."""
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    found = re.search(rf"\[project.entry-points.{GROUP}\]\n(\w+) = \"([\w.:]+)\"", text)
    assert found is not None
    torch._dynamo.list_backends()  # which looks for those that are installed
    monkeypatch.setitem(registry._BACKENDS, found[1], EntryPoint(found[1], found[2], GROUP))
    monkeypatch.delitem(registry._COMPILER_FNS, found[1], raising=False)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return Named().eval()


@pytest.fixture(scope="module")
def expected(module: nn.Module) -> Callable[..., Any]:
    return rewrite(module, DATA, plan=PLAN).module


def compiled(module: nn.Module, **options: Any) -> Callable[..., Any]:
    given = {"plan": PLAN, "inputs": DATA, "backend": "eager", **options}
    found: Callable[..., Any] = torch.compile(module, backend="parallelize", dynamic=True, options=given)
    return found


def test_the_entry_point_leads_here() -> None:
    assert torch._dynamo.lookup_backend("parallelize") is backend


@torch.no_grad()
def test_it_computes_what_the_rewrite_computes_at_any_batch(module: nn.Module, expected: Callable[..., Any]) -> None:
    ours = compiled(module)
    for count in (5, 7, 2):
        found = ours(X[:count], shift=X[:count])
        assert list(found) == ["logits"]
        assert torch.allclose(found["logits"], expected(X[:count], X[:count])["logits"], atol=1e-5)
        assert not torch.allclose(found["logits"], module(X[:count], X[:count])["logits"], atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_what_was_rewritten_is_compiled_by_inductor(module: nn.Module, expected: Callable[..., Any]) -> None:
    ours = compiled(module, backend="inductor")
    assert torch.allclose(ours(X[:5], X[:5])["logits"], expected(X[:5], X[:5])["logits"], atol=1e-4)


@pytest.mark.slow
def test_a_rewrite_is_compiled_ahead_of_time(expected: Callable[..., Any], tmp_path: Path) -> None:
    from parallelize.models.capture import export

    archive = torch._inductor.aoti_compile_and_package(
        export(expected.program),  # type: ignore[attr-defined]
        package_path=str(tmp_path / "model.pt2"),
    )
    alone = torch._inductor.aoti_load_package(archive)
    assert torch.allclose(alone(X[:5], X[:5])["logits"], expected(X[:5], X[:5])["logits"], atol=1e-4)


def test_gradients_are_refused(module: nn.Module) -> None:
    with pytest.raises(ParallelizeError, match="called with gradients on") as caught:
        compiled(module)(X[:5], X[:5])
    assert "no_grad" in caught.value.hint


@torch.no_grad()
def test_unknown_options_and_plans_of_other_models_are_refused(module: nn.Module) -> None:
    with pytest.raises(BackendCompilerFailed, match="has no option 'depht'"):
        compiled(module, depht=2)(X[:5], X[:5])
    with pytest.raises(ParallelizeError, match="no residual stack"):
        compiled(nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6)).eval(), inputs=X)(X[:5])


class Scaled(nn.Module):
    """Reads a number, and returns a size."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor, scale: float) -> Tensor:
        return x + scale * self.linear(x)


@torch.no_grad()
def test_a_number_that_may_change_is_refused() -> None:
    with pytest.raises(ParallelizeError, match=r"called with the number L\['scale'\], which may change") as caught:
        compiled(Scaled().eval())(X[:5], 0.5)
    assert "dynamic=True" in caught.value.hint


@torch.no_grad()
def test_a_function_without_weights_is_refused() -> None:
    ours: Callable[..., Any] = torch.compile(lambda x: x * 2 + x, backend="parallelize", options={"depth": 1})
    with pytest.raises(ParallelizeError, match="has no weights"):
        ours(X)
