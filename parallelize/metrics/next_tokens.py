"""What a language model should have predicted: its own tokens, shifted by one.

The logits at position i predict the token at position i + 1, so no labels are needed. The tokens are the input
`input_ids`, or the only input of integers (samples, tokens) that is not the mask.
"""

from __future__ import annotations

from torch import Tensor

from parallelize.data import Samples
from passes.errors import ParallelizeError

_TOKENS = "input_ids"


def next_tokens(samples: Samples, vocabulary: int) -> Tensor:
    """The tokens of all samples, (samples, tokens).

    Args:
        samples: what the model reads.
        vocabulary: how many tokens it has logits for.

    Raises:
        ParallelizeError: no input of tokens or several, tokens that are none of the vocabulary, or nothing to predict.
    """
    name = _token_input(samples)
    tokens = samples.arrays[name]
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocabulary:
        raise ParallelizeError(
            f"The tokens {name!r} go from {low} to {high}, the model has logits for {vocabulary}.",
            "Perplexity is for models that predict the next token; use another --metric.",
        )
    real = samples.every_real()
    if real is not None and not (real[:, :-1] & real[:, 1:]).any():
        raise ParallelizeError(
            f"No two neighbouring tokens of {name!r} are real: nothing can be predicted.",
            f"Check the mask {samples.mask!r}; it is 0 at padding.",
        )
    return tokens


def _token_input(samples: Samples) -> str:
    integers = [
        name
        for name, array in samples.arrays.items()
        if array.ndim == 2
        and samples.feed(name).rows == 1
        and name != samples.mask
        and not array.is_floating_point()
        and array.element_size() > 1
    ]
    if _TOKENS in integers:
        return _TOKENS
    if len(integers) == 1:
        return integers[0]
    found = f"{len(integers)} of them ({', '.join(integers)})" if integers else "none"
    raise ParallelizeError(
        f"Perplexity needs one input of integer tokens (samples, tokens), and the model has {found}.",
        f"Name the input of tokens {_TOKENS}, or use another --metric.",
    )
