"""Of what the library says its last complaints and its final plans are kept."""

from __future__ import annotations

from parallelize.backends.tensorrt.messages import KEPT, last_words, make_logger
from tests.parallelize.backends.tensorrt.double import make_double
from tests.parallelize.backends.tensorrt.strictness import Script


def test_the_logger_keeps_the_last_complaints_each_on_one_line_and_no_chatter() -> None:
    logger = make_logger(make_double(Script()))
    level = type(logger).Severity
    assert last_words(logger) == ""
    for text in [f"warning\n {number}" for number in range(KEPT + 2)]:
        logger.log(level.WARNING, text)
    logger.log(level.ERROR, "first error.")
    logger.log(level.INTERNAL_ERROR, "last\n error.")
    logger.log(level.INFO, "chatter")
    assert last_words(logger) == "last error"
    assert list(logger.errors) == ["first error.", "last error."]
    assert len(logger.complaints) == KEPT
    assert logger.complaints[0] == "warning 4"
    assert logger.plans == []


def test_the_listing_of_a_finished_engine_is_kept_whole_whatever_stands_before_it() -> None:
    logger = make_logger(make_double(Script()))
    level = type(logger).Severity
    plans = ["Layers:\nName: a, LayerType: gemm", "[12:00] Engine Layer Information:\nLayers:\nName: b\n" + "x" * 5000]
    for text in (*plans, "Layers: 3", "x" * 300 + "Layers:\nName: late"):
        logger.log(level.VERBOSE, text)
    assert logger.plans == plans
    assert last_words(logger) == ""
