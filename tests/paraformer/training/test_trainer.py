"""Training: it learns, it repeats to the bit, and a stopped run goes on as if it had not been stopped."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paraformer.checkpoint import Checkpoint, load
from paraformer.data.labelled import Dataset, Labelled
from paraformer.errors import CheckpointError
from paraformer.fused import FusedBranches
from paraformer.model import VisionConfig, VisionParaFormer
from paraformer.training import trainer as trainer_module
from paraformer.training.evaluation import predict, top1
from paraformer.training.fitting import config_for
from paraformer.training.options import TrainingOptions
from paraformer.training.starts import scratch
from paraformer.training.trainer import Trainer
from tests.paraformer.training.striped import CONFIG, DATA, OPTIONS, TEST, TRAIN


def _trainer(options: TrainingOptions = OPTIONS, config: VisionConfig = CONFIG) -> Trainer:
    return Trainer(scratch(config, options.seed), options, DATA)


def _equal(first: Checkpoint, second: Checkpoint) -> bool:
    assert list(first.state_dict) == list(second.state_dict)
    return all(torch.equal(value, second.state_dict[name]) for name, value in first.state_dict.items())


class Stop(Exception):  # noqa: N818  (an event, not an error)
    """Whoever watches the progress pulls the plug."""


def _stop_at(step: int) -> object:
    def progress(done: int, _total: int, _loss: float) -> None:
        if done == step:
            raise Stop

    return progress


def test_the_loss_falls_and_the_test_images_are_learned(tmp_path: Path) -> None:
    trainer = _trainer(replace(OPTIONS, epochs=8))
    untrained = top1(trainer.model, TEST)
    trainer.run(tmp_path / "model.pt")
    losses = [record.loss for record in trainer.history]
    assert losses[-1] < 0.5 * losses[0]
    assert trainer.history[-1].top1 == 1.0 > untrained


@pytest.mark.parametrize("mode", ["serial", "para-former"])
def test_a_seed_repeats_a_run_to_the_bit_and_another_seed_does_not(tmp_path: Path, mode: str) -> None:
    config = replace(CONFIG, mode=mode, branches=2)
    runs = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(99 + number)
        runs.append(_trainer(replace(OPTIONS, seed=seed), config).run(tmp_path / f"{number}.pt"))
    assert _equal(runs[0], runs[1])
    assert not _equal(runs[0], runs[2])


@pytest.mark.parametrize("step", [3, 4, 5, 8, 9, 12])
def test_a_run_stopped_at_any_step_and_resumed_equals_an_uninterrupted_one_to_the_bit(
    tmp_path: Path, step: int
) -> None:
    whole = _trainer()
    uninterrupted = whole.run(tmp_path / "whole.pt")
    with pytest.raises(Stop):
        _trainer().run(tmp_path / "model.pt", _stop_at(step))
    assert not (tmp_path / "model.pt").exists()
    torch.manual_seed(99)
    steps: list[int] = []
    second = _trainer()
    resumed = second.run(tmp_path / "model.pt", lambda done, _total, _loss: steps.append(done))
    assert _equal(resumed, uninterrupted)
    assert _equal(load(tmp_path / "model.pt"), uninterrupted)
    assert [(r.epoch, r.loss, r.top1) for r in second.history] == [(r.epoch, r.loss, r.top1) for r in whole.history]
    assert steps == list(range(4 * ((step - 1) // 4) + 1, 13))


def test_the_resume_file_is_kept_after_each_epoch_and_gone_after_the_last(tmp_path: Path) -> None:
    resume = tmp_path / "model.pt.resume"
    seen: dict[int, bool] = {}
    _trainer().run(tmp_path / "model.pt", lambda done, _total, _loss: seen.setdefault(done, resume.exists()) and None)
    assert [seen[step] for step in (1, 4, 5, 12)] == [False, False, True, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt"]


@pytest.mark.parametrize(
    ("options", "config"),
    [
        (replace(OPTIONS, seed=1), CONFIG),
        (replace(OPTIONS, learning_rate=1e-3), CONFIG),
        (replace(OPTIONS, epochs=4), CONFIG),
        (OPTIONS, replace(CONFIG, mode="para-former", branches=2)),
        (OPTIONS, replace(CONFIG, hidden=16)),
    ],
    ids=["seed", "learning rate", "epochs", "mode", "sizes"],
)
def test_a_resume_with_other_options_is_refused_and_the_file_kept(
    tmp_path: Path, options: TrainingOptions, config: VisionConfig
) -> None:
    with pytest.raises(Stop):
        _trainer().run(tmp_path / "model.pt", _stop_at(5))
    kept = (tmp_path / "model.pt.resume").read_bytes()
    with pytest.raises(CheckpointError, match=r"model\.pt\.resume belongs to a run with other options") as caught:
        _trainer(options, config).run(tmp_path / "model.pt")
    assert "delete the file" in caught.value.hint
    assert (tmp_path / "model.pt.resume").read_bytes() == kept


def test_a_resume_with_another_number_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        _trainer().run(tmp_path / "model.pt", _stop_at(5))
    fewer = replace(DATA, train=TRAIN.head(64))
    with pytest.raises(CheckpointError, match="other options"):
        Trainer(scratch(CONFIG), OPTIONS, fewer).run(tmp_path / "model.pt")


def test_a_damaged_resume_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt.resume").write_bytes(b"not a file of torch")
    with pytest.raises(CheckpointError, match=r"model\.pt\.resume"):
        _trainer().run(tmp_path / "model.pt")


def test_progress_counts_every_step_of_all_epochs(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    losses: list[float] = []

    def progress(done: int, total: int, loss: float) -> None:
        seen.append((done, total))
        losses.append(loss)

    trainer = _trainer()
    trainer.run(tmp_path / "model.pt", progress)
    assert seen == [(step, 12) for step in range(1, 13)]
    means = [sum(losses[4 * epoch : 4 * epoch + 4]) / 4 for epoch in range(3)]
    assert means == pytest.approx([record.loss for record in trainer.history])


def test_matrices_decay_and_vectors_and_positions_do_not() -> None:
    trainer = _trainer(replace(OPTIONS, weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        matrix = name.endswith("weight") and "norm" not in name
        assert decay[id(parameter)] == (0.3 if matrix else 0.0), name


def test_branches_are_trained_fused_with_the_same_decay_and_kept_one_by_one(tmp_path: Path) -> None:
    trainer = _trainer(replace(OPTIONS, weight_decay=0.3), replace(CONFIG, mode="para-former", branches=2))
    assert isinstance(trainer.model.blocks, FusedBranches)
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        matrix = name.endswith("weight") and "norm" not in name
        assert decay[id(parameter)] == (0.3 if matrix else 0.0), name
    checkpoint = trainer.run(tmp_path / "model.pt")
    assert checkpoint.state_dict.keys() == VisionParaFormer(CONFIG).state_dict().keys()
    logits = predict(checkpoint.build(), TEST)
    torch.testing.assert_close(logits, predict(trainer.model, TEST), rtol=0, atol=1e-5)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_almost_nothing(tmp_path: Path) -> None:
    trainer = _trainer(replace(OPTIONS, epochs=5))
    rates: list[float] = []
    trainer.run(tmp_path / "model.pt", lambda *_: rates.append(trainer.scheduler.get_last_lr()[0]))
    rates.pop()  # what the schedule says after the last step is for a step that never comes
    assert max(rates) == pytest.approx(OPTIONS.learning_rate)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-3 * OPTIONS.learning_rate


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_run_may_be_as_short_as_one_step(steps: int) -> None:
    trainer = _trainer(replace(OPTIONS, epochs=steps, batch_size=len(TRAIN)))
    assert trainer.scheduler.total_steps == steps
    for _ in range(steps):
        trainer.optimizer.step()
        trainer.scheduler.step()


def test_the_checkpoint_records_how_it_was_trained(tmp_path: Path) -> None:
    trainer = _trainer()
    returned = trainer.run(tmp_path / "model.pt")
    record = load(tmp_path / "model.pt").training
    assert record == returned.training == trainer.record()
    assert record["options"]["batch_size"] == 16
    assert [row["epoch"] for row in record["epochs"]] == [1, 2, 3]
    assert record["epochs"][-1]["top1"] == trainer.history[-1].top1


def test_training_leaves_the_images_as_they_were(tmp_path: Path) -> None:
    before = TRAIN.inputs[0].clone(), TRAIN.labels.clone()
    _trainer().run(tmp_path / "model.pt")
    assert torch.equal(TRAIN.inputs[0], before[0])
    assert torch.equal(TRAIN.labels, before[1])


def test_a_trained_checkpoint_builds_the_model_that_was_judged(tmp_path: Path) -> None:
    trainer = _trainer()
    trainer.run(tmp_path / "model.pt")
    built = load(tmp_path / "model.pt").build()
    assert isinstance(built, VisionParaFormer)
    assert top1(built, TEST) == trainer.history[-1].top1
    assert torch.equal(predict(built, TEST), predict(trainer.model, TEST))


MACHINERY = {
    "average": {"ema": 0.9},
    "accumulation": {"accumulate": 2},
    "bf16": {"precision": "bf16"},
    "fp16 and its scaler": {"precision": "fp16"},
    "held-out samples": {"patience": 2},
    "all prefixes": {"objective": "progressive"},
    "prefix after prefix": {"objective": "progressive-steps"},
    "all at once": {
        "ema": 0.9,
        "accumulate": 2,
        "precision": "fp16",
        "patience": 3,
        "objective": "progressive-steps",
    },
}
BRANCHED = replace(CONFIG, mode="para-former", branches=2)


@pytest.mark.parametrize("options", MACHINERY.values(), ids=MACHINERY)
def test_a_stopped_run_goes_on_to_the_bit_whatever_is_part_of_it(tmp_path: Path, options: dict[str, Any]) -> None:
    given = replace(OPTIONS, **options)
    whole = _trainer(given, BRANCHED)
    uninterrupted = whole.run(tmp_path / "whole.pt")
    with pytest.raises(Stop):
        _trainer(given, BRANCHED).run(tmp_path / "model.pt", _stop_at(whole.steps_per_epoch + 1))
    torch.manual_seed(99)
    second = _trainer(given, BRANCHED)
    assert _equal(second.run(tmp_path / "model.pt"), uninterrupted)
    plain = [replace(record, seconds=0.0) for record in whole.history]
    assert [replace(record, seconds=0.0) for record in second.history] == plain


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_products_of_half_precision_leave_weights_in_full_precision_and_learn(tmp_path: Path, precision: str) -> None:
    options = replace(OPTIONS, epochs=8, learning_rate=5e-3, precision=precision)
    trainer = _trainer(options, BRANCHED)
    dtypes: set[torch.dtype] = set()
    hook = trainer.model.blocks.register_forward_hook(lambda _module, _inputs, state: dtypes.add(state.dtype))
    checkpoint = trainer.run(tmp_path / "model.pt")
    hook.remove()
    assert dtypes == {torch.float32}
    assert {value.dtype for value in checkpoint.state_dict.values()} == {torch.float32}
    assert trainer.history[-1].top1 > 0.9
    plain = _trainer(replace(options, precision="fp32"), BRANCHED).run(tmp_path / "plain.pt")
    assert not _equal(checkpoint, plain)


def test_accumulated_batches_step_as_one_batch_of_all_their_samples(tmp_path: Path) -> None:
    still = replace(DATA, mirrors=False)
    weights = []
    for size, accumulate in ((32, 1), (16, 2)):
        options = replace(OPTIONS, epochs=1, batch_size=size, accumulate=accumulate, shift=0)
        weights.append(Trainer(scratch(CONFIG), options, still).run(tmp_path / f"{accumulate}.pt").state_dict)
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)


def test_the_average_of_the_weights_is_judged_and_kept(tmp_path: Path) -> None:
    trainer = _trainer(replace(OPTIONS, ema=0.5))
    checkpoint = trainer.run(tmp_path / "model.pt")
    last = _trainer().run(tmp_path / "last.pt")
    assert not _equal(checkpoint, last)
    assert all(torch.equal(value, last.state_dict[name]) for name, value in trainer.model.state_dict().items())
    assert top1(checkpoint.build(), TEST) == trainer.history[-1].top1


def test_a_run_ends_when_nothing_held_out_gets_better_and_keeps_the_best_weights(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=12, patience=3)
    trainer = _trainer(options, BRANCHED)
    checkpoint = trainer.run(tmp_path / "model.pt")
    assert trainer.is_finished
    epochs = len(trainer.history)
    assert epochs == 12 or epochs - trainer.chosen.epoch == 3
    assert trainer.chosen.rank() == max(record.rank() for record in trainer.history)
    assert trainer.held_out is not None
    assert top1(checkpoint.build(), trainer.held_out) == trainer.chosen.held_out_top1
    assert checkpoint.training["chosen"] == trainer.chosen.epoch
    assert len(trainer.batches.learned) + len(trainer.held_out) == len(TRAIN)


def test_what_is_held_out_decides_and_the_test_samples_do_not(tmp_path: Path) -> None:
    other = replace(DATA, test=Labelled(TEST.inputs, 1 - TEST.labels))
    options = replace(OPTIONS, patience=1)
    runs = [Trainer(scratch(CONFIG), options, data).run(tmp_path / f"{n}.pt") for n, data in enumerate((DATA, other))]
    assert _equal(*runs)


def test_every_prefix_is_scored_where_prefixes_are_trained(tmp_path: Path) -> None:
    for objective in ("progressive", "progressive-steps"):
        trainer = _trainer(replace(OPTIONS, epochs=8, learning_rate=5e-3, objective=objective), BRANCHED)
        checkpoint = trainer.run(tmp_path / f"{objective}.pt")
        record = trainer.history[-1]
        model = checkpoint.build()
        assert record.prefixes == tuple(top1(model.prefix(count), TEST) for count in (1, 2))
        assert min(record.prefixes) > 0.9
        assert load(tmp_path / f"{objective}.pt").training["epochs"][-1]["prefixes"] == list(record.prefixes)


def test_curves_of_every_step_and_every_epoch_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int]] = []

    class Curves:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            written.append((tag, global_step))

    monkeypatch.setattr(trainer_module, "logs_in", lambda folder, done: nullcontext(Curves() if folder else None))
    options = replace(OPTIONS, epochs=2, objective="progressive")
    Trainer(scratch(BRANCHED), options, DATA, logs=tmp_path).run(tmp_path / "model.pt")
    steps = [step for tag, step in written if tag == "train/loss"]
    assert steps == list(range(1, 9))
    assert [step for tag, step in written if tag == "test/top1_of_1"] == [4, 8]


def test_a_model_of_texts_learns_which_word_decides(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 20, (120, 6), generator=generator)
    labels = torch.randint(0, 2, (120,), generator=generator)
    ids[torch.arange(120), torch.randint(0, 4, (120,), generator=generator)] = 2 + labels
    mask = (torch.arange(6) < torch.randint(4, 7, (120, 1), generator=generator)).long()
    texts = Labelled((ids * mask, mask), labels)
    places = torch.arange(120)
    words = tuple(f"word{number}" for number in range(20))
    data = Dataset("texts", texts[places[:80]], texts[places[80:]], ("no", "yes"), words)
    config = config_for(data, {"mode": "para-former", "branches": 2, "depth": 2, "width": 16, "heads": 2, "hidden": 32})
    options = replace(OPTIONS, epochs=15, learning_rate=1e-2, objective="progressive")
    trainer = Trainer(scratch(config), options, data)
    trainer.run(tmp_path / "model.pt")
    assert min(trainer.history[-1].prefixes) > 0.9
