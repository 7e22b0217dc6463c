"""`.pt2` archives: they know their inputs, and no pickle in them is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import torch
from torch import nn

from tests.parallelize.models.sources.cases import Harmful, load, refusal


def test_an_exported_program_knows_its_input(home: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    batch = torch.export.Dim("rows")
    torch.export.save(torch.export.export(model, (torch.zeros(2, 4),), dynamic_shapes=({0: batch},)), "model.pt2")
    program = load("model.pt2")
    assert program.inputs[0].shape == ("batch", 4)
    assert torch.equal(program.module(torch.ones(1, 4)), model(torch.ones(1, 4)))


def test_an_exported_archive_with_pickled_objects_is_refused_and_not_run(home: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(4, 2).eval(), (torch.zeros(2, 4),)), "good.pt2")
    harmful = pickle.dumps(Harmful(), 2)
    with zipfile.ZipFile("good.pt2") as good, zipfile.ZipFile("bad.pt2", "w") as bad:
        samples = next(name for name in good.namelist() if "sample_inputs" in name)
        for name in good.namelist():
            bad.writestr(name, harmful if name == samples else good.read(name))
    message, _ = refusal("bad.pt2")
    assert message.startswith("bad.pt2 ")
    assert not Path("trace").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    with zipfile.ZipFile("bad.pt2", "a") as bad:
        bad.writestr("archive/data/constants/opaque_obj_0", harmful)
    assert refusal("bad.pt2")[0] == "bad.pt2 holds pickled objects."


def test_a_directory_of_a_conversion_stands_for_its_program(home: Path) -> None:
    Path("out").mkdir()
    model = nn.Linear(4, 2).eval()
    torch.export.save(torch.export.export(model, (torch.zeros(2, 4),)), "out/model.pt2")
    x = torch.ones(2, 4)
    assert torch.equal(load("out").module(x), model(x))
    assert refusal("out", "2x4")[0] == "out/model.pt2 states the shapes of its inputs."
