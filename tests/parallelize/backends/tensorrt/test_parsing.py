"""A network of the library, or one sentence with what the parser complains of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parallelize.backends.tensorrt.library import Library
from parallelize.backends.tensorrt.messages import make_logger
from parallelize.backends.tensorrt.parsing import parse
from parallelize.export.onnx_file import OnnxFile, read_onnx
from passes.errors import ParallelizeError
from tests.parallelize.backends.tensorrt.double import make_double
from tests.parallelize.backends.tensorrt.strictness import Script
from tests.parallelize.onnx_models import mlp


@pytest.fixture
def model(tmp_path: Path) -> OnnxFile:
    return read_onnx(mlp(tmp_path / "m.onnx"))


def parsed(model: OnnxFile, script: Script, change: Callable[[Any], None] = lambda module: None) -> tuple[Any, Any]:
    module = make_double(script)
    change(module)
    logger = make_logger(module)
    return parse(Library("tensorrt", module), module.Builder(logger), logger, model)


def refusal(model: OnnxFile, change: Callable[[Any], None] = lambda module: None, refuse: bool = True) -> str:
    script = Script(refuse={"OnnxParser.parse_from_file"} if refuse else set())
    with pytest.raises(ParallelizeError) as caught:
        parsed(model, script, change)
    assert caught.value.hint
    return str(caught.value)


def test_the_parser_reads_the_file_by_its_path_into_a_strongly_typed_network(model: OnnxFile) -> None:
    script = Script()
    network, parser = parsed(model, script)
    assert (type(network).__name__, type(parser).__name__) == ("INetworkDefinition", "OnnxParser")
    assert script.given("OnnxParser.parse_from_file") == [(str(model.path),)]
    (flags,) = script.given("Builder.create_network")[0]
    assert flags == 1 << 5  # the number that the double gives the flag


def test_every_complaint_is_a_node_an_operator_and_the_parsers_words(model: OnnxFile) -> None:
    told = "TensorRT 10.12.0.36 cannot take m.onnx: wobble (Wobble): no importer registered [UNSUPPORTED_NODE]."
    assert refusal(model) == told

    def nameless(module: Any) -> None:
        module.ParserError.node_name = module.ParserError.node_operator = lambda _: ""

    assert ": node 0: no importer registered [" in refusal(model, nameless)


def test_complaints_are_told_once_and_no_more_than_a_sentence_holds(model: OnnxFile) -> None:
    def many(module: Any) -> None:
        module.OnnxParser.num_errors = 16
        made = iter(range(16))
        module.ParserError.node_name = lambda _: f"w{next(made) // 2}"

    message = refusal(model, many)
    assert [f"w{number} (Wobble)" in message for number in range(8)] == [True] * 5 + [False] * 3
    assert message.endswith("; and 3 more.")


def test_without_a_complaint_the_last_words_of_the_library_are_told(model: OnnxFile) -> None:
    def silent(module: Any) -> None:
        module.OnnxParser.num_errors = 0
        note = module.OnnxParser.parse_from_file
        module.OnnxParser.parse_from_file = lambda parser, path: _say(module, parser) and note(parser, path)

    def _say(module: Any, parser: Any) -> bool:
        ((_, logger),) = parser.script.given("OnnxParser.OnnxParser")
        logger.log(module.ILogger.Severity.ERROR, "no room.")
        return True

    assert refusal(model, silent) == "TensorRT 10.12.0.36 cannot take m.onnx: no room."


def test_an_input_whose_values_set_shapes_is_refused(model: OnnxFile) -> None:
    def of_shapes(module: Any) -> None:
        module.ITensor.is_shape_tensor = True

    told = "The values of the input 'x' set shapes, which this build has no profile for."
    assert refusal(model, of_shapes, refuse=False) == told
