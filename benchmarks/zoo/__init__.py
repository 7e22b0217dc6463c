"""A zoo of architectures: small random models of many families, with what must be found in each.

    from benchmarks.zoo import ZOO
    program = ZOO["bert-sdpa"].capture()

transformers is imported when a model of it is built.
"""

from benchmarks.zoo import (
    branched,
    convolutional,
    decoders,
    dense_prediction,
    diffusion,
    encoder_decoders,
    graphs_and_sets,
    more_convolutions,
    other_adds,
    para_formers,
    sequences,
    signal_encoders,
    sound,
    text_encoders,
    token_mixers,
    vision_transformers,
)
from benchmarks.zoo.entry import Entry

FAMILIES: dict[str, tuple[Entry, ...]] = {
    "Encoders of text": (*text_encoders.entries(),),
    "Decoders of text": (*decoders.entries(),),
    "Encoders beside decoders": (*encoder_decoders.entries(),),
    "Images: transformers": (*signal_encoders.images(), *vision_transformers.entries()),
    "Images: convolutions": (*convolutional.entries(), *more_convolutions.entries()),
    "Detection, depth and control": (*dense_prediction.entries(),),
    "Diffusion and flow": (*diffusion.entries(),),
    "Sound": (*signal_encoders.sounds(), *sound.entries()),
    "Sequences, series and tables": (*sequences.entries(),),
    "Graphs, points, sets, and blocks of other forms": (
        *graphs_and_sets.entries(),
        *token_mixers.entries(),
        *other_adds.entries(),
    ),
    "Parallel already": (*branched.entries(),),
    "Para-Formers": (*para_formers.entries(),),
}
ZOO: dict[str, Entry] = {entry.name: entry for family in FAMILIES.values() for entry in family}

__all__ = ["FAMILIES", "ZOO", "Entry"]
