"""An ONNX file becomes a network of the library, or a sentence that names every node that stands in the way."""

from __future__ import annotations

from typing import Any

from parallelize.backends.tensorrt.library import Library
from parallelize.backends.tensorrt.messages import last_words
from parallelize.export.onnx_file import OnnxFile
from passes.errors import ParallelizeError

_SHOWN = 5


def parse(library: Library, builder: Any, logger: Any, model: OnnxFile) -> tuple[Any, Any]:
    """A strongly typed network.

    The parser reads the file itself, by its absolute path, so that external weights are found beside it.

    Returns:
        The network, and the parser, which owns the weights of the network and must live as long.

    Raises:
        ParallelizeError: with every complaint of the parser, or for an input whose values set shapes.
    """
    module = library.module
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model.path)):
        complaints = [_sentence(parser.get_error(number)) for number in range(parser.num_errors)]
        raise ParallelizeError(
            f"{library.title} cannot take {model.path.name}: {_joined(complaints) or last_words(logger)}.",
            "Replace these operators in the model, or stay with ONNX Runtime (convert --backend onnxruntime).",
        )
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        if tensor.is_shape_tensor:
            raise ParallelizeError(
                f"The values of the input {tensor.name!r} set shapes, which this build has no profile for.",
                "Make it a constant of the model, or build with trtexec.",
            )
    return network, parser


def _sentence(error: Any) -> str:
    """One complaint: the node, its operator, the code and the parser's words."""
    node = error.node_name() or f"node {error.node()}"
    operator = error.node_operator()
    code = str(error.code()).rpartition(".")[2]
    words = " ".join(str(error.desc()).split()).rstrip(".")
    return f"{node}{f' ({operator})' if operator else ''}: {words} [{code}]"


def _joined(complaints: list[str]) -> str:
    """All that fit into a sentence, and how many more there are."""
    distinct = list(dict.fromkeys(complaints))
    more = len(distinct) - _SHOWN
    return "; ".join(distinct[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
