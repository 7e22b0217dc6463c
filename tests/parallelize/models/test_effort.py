"""Work in forward passes: each part of a model counts as its matrix products do, and only while it is counted."""

from __future__ import annotations

import pytest

from parallelize.metrics import Judge
from parallelize.models.effort import Effort
from parallelize.models.states import outputs_from, start_batches
from passes.stacks.find import find_stacks
from tests.parallelize import small_models as small


def test_a_run_of_the_whole_model_over_all_samples_is_one_forward_pass() -> None:
    module, samples, effort = small.vision().module, small.images(37, seed=1), Effort()
    with effort.counting():
        Judge(module, samples, "kl", batch_size=10)
    assert effort.forward_passes(module, samples) == pytest.approx(1, abs=0.1)  # and a probe of two samples
    Judge(module, samples, "kl")
    assert effort.forward_passes(module, samples) == pytest.approx(1, abs=0.1), "what is run outside does not count"


def test_parts_of_a_model_add_up_to_one_forward_pass_however_it_is_cut_into_batches() -> None:
    module, samples, effort = small.vision().module, small.images(37, seed=1), Effort()
    (stack,) = find_stacks(module).stacks
    state = stack.terms[3].result
    with effort.counting():
        batches = start_batches(module, state, samples, batch_size=8)
        list(outputs_from(module, state, [(batch.inputs, batch.state.value) for batch in batches]))
    assert effort.forward_passes(module, samples) == pytest.approx(1)
    assert effort.forward_passes(module, samples, samples) == pytest.approx(0.5)


def test_samples_that_go_in_a_fixed_number_at_a_time_count_as_often() -> None:
    module, samples = small.vision().module, small.images(40, seed=1)
    effort = Effort()
    with effort.counting():
        Judge(module, samples.head(20), "kl")
    assert effort.forward_passes(module, samples) == pytest.approx(0.5, abs=0.1)
