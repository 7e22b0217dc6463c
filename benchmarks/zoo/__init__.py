"""A zoo of architectures: small random models of many families, with what must be found in each.

    from benchmarks.zoo import ZOO
    program = ZOO["bert-sdpa"].capture()

transformers is imported when a model of it is built.
"""

from benchmarks.zoo import branched, convolutional, decoders, signal_encoders, text_encoders
from benchmarks.zoo.entry import Entry

ZOO: dict[str, Entry] = {
    entry.name: entry
    for family in (text_encoders, signal_encoders, decoders, convolutional, branched)
    for entry in family.entries()
}

__all__ = ["ZOO", "Entry"]
