"""A teacher answers without learning, and refuses a student of another trade."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paraformer.checkpoint import Checkpoint
from paraformer.config import ParaFormerConfig
from paraformer.errors import TrainingError
from paraformer.training.starts import scratch
from paraformer.training.teaching import Teacher
from paraformer.training.trainer import Trainer
from tests.paraformer.models import randomised
from tests.paraformer.training.striped import CONFIG, DATA, OPTIONS, TEST


def _teacher(config: ParaFormerConfig = CONFIG, **training: object) -> Teacher:
    return Teacher(Checkpoint(config, randomised(config).state_dict(), training), "teacher.pt")


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, mode="para-former", branches=2)])
def test_a_teacher_answers_as_its_checkpoint_does_and_does_not_learn(config: ParaFormerConfig) -> None:
    teacher = _teacher(config)
    inputs = (TEST.inputs[0].float(),)
    answers = teacher.answer(inputs)
    torch.testing.assert_close(answers, randomised(config).float()(*inputs), rtol=1e-4, atol=1e-4)
    assert not answers.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


@pytest.mark.parametrize("objective", ["joint", "progressive", "progressive-steps"])
def test_a_student_comes_to_answer_as_its_teacher(tmp_path: Path, objective: str) -> None:
    teacher = _teacher()
    config = replace(CONFIG, mode="para-former", branches=2)
    options = replace(OPTIONS, epochs=12, teacher_weight=1.0, objective=objective, learning_rate=5e-3)
    trainer = Trainer(scratch(config), options, DATA, teacher=teacher)
    trainer.run(tmp_path / "student.pt")
    losses = [record.loss for record in trainer.history]
    assert losses[-1] < 0.5 * losses[0]
    assert trainer.record()["teacher"] == "teacher.pt"


def test_another_teacher_is_another_run() -> None:
    trainers = [Trainer(scratch(CONFIG), OPTIONS, DATA, teacher=teacher) for teacher in (None, _teacher(), None)]
    identities = [trainer.identity for trainer in trainers]
    assert identities[0] == identities[2] != identities[1]


def test_a_teacher_of_other_answers_or_other_classes_is_refused() -> None:
    teacher = _teacher(replace(CONFIG, classes=3))
    with pytest.raises(TrainingError, match=r"answers which of 3 classes it is, and the student which of 2 classes"):
        teacher.check(CONFIG, DATA)
    teacher = _teacher(classes=["cat", "dog"])
    with pytest.raises(
        TrainingError, match=r"trained on the classes cat, dog, and stripes has vertical, horizontal\.$"
    ):
        teacher.check(CONFIG, DATA)
    with pytest.raises(TrainingError, match=r"^The teacher teacher\.pt reads samples of 1x12x12"):
        _teacher(replace(CONFIG, image_size=12)).check(CONFIG, DATA)
