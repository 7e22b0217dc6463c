"""What a model is fed: shapes as they are spelled on the command line, samples from files or memory, random samples.

--input  [name:]SIZExSIZE...[@dtype]      1x3x224x224    ids:batchx128@int64
--inputs data.npz                         one array for each input, by its name, first axis samples

Integer arrays for a floating-point input are cast, never scaled: pixel values from 0 to 255 stay from 0 to 255.
"""

from __future__ import annotations

from parallelize.data.arrays import Stored, read_arrays, read_headers, readable, stored
from parallelize.data.held import UNNAMED, Array, HeldArrays
from parallelize.data.loading import load_samples
from parallelize.data.random_numbers import alternatives, random_samples
from parallelize.data.samples import Feed, Samples
from parallelize.data.spelling import DTYPES, InputSpec, parse_input, parse_inputs

__all__ = [
    "DTYPES",
    "UNNAMED",
    "Array",
    "Feed",
    "HeldArrays",
    "InputSpec",
    "Samples",
    "Stored",
    "alternatives",
    "load_samples",
    "parse_input",
    "parse_inputs",
    "random_samples",
    "read_arrays",
    "read_headers",
    "readable",
    "stored",
]
