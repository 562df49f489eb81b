"""One run by two processes: the gradients, features and accuracies of one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import jobs
from reclaim.benchmark.training.data_parallel import Replicas, require_alike, require_divisible
from reclaim.benchmark.training.jobs import Job
from reclaim.benchmark.training.runtime import Setup, process
from reclaim.strategies.backbones import quickdraw_vit
from reclaim.strategies.features import extract_features
from reclaim.strategies.heads import ContinualModel
from small_runs import SMALL, make_small, small_config
from torch import distributed, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

JOB = Job("slca", small_config("slca", "epochs=2"), SMALL, 0, "given", Setup(checkpoint_minutes=0))
SIZES = (7, 2, 1)  # of batches: uneven, and smaller than the number of processes


@pytest.mark.parametrize(("n", "parts"), [(8, [4, 4]), (7, [3, 4]), (1, [0, 1])])
def test_the_parts_of_a_batch(n: int, parts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert process() == (0, 1)  # of somebody else's launcher
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        found.append(Replicas.part([torch.arange(n), torch.arange(n)]))
    assert [counted for _, counted, _ in found] == parts
    assert torch.cat([x[:counted] for (x, _), counted, _ in found]).tolist() == list(range(n))
    assert all(len(x) == len(y) >= 1 for (x, y), _, _ in found)
    assert sum(weight for *_, weight in found) == pytest.approx(2)


@pytest.mark.parametrize("change", ["micro_batch=4", "l2p={}", "dualprompt={}", "memory={}"])
def test_what_needs_whole_batches_is_refused(change: str) -> None:
    name = change.split("=")[0]
    with pytest.raises(ValueError, match=f"^{name} needs whole batches"):
        require_divisible(small_config("linear", "trainable=all", change), quickdraw_vit())


def test_moving_statistics_are_refused() -> None:
    require_divisible(small_config("slca"), quickdraw_vit())
    normalised = nn.Sequential(nn.BatchNorm2d(1))
    with pytest.raises(ValueError, match=r"^batch_norm needs whole batches"):
        require_divisible(small_config("slca"), normalised)
    require_divisible(small_config("slca", "batch_norm=frozen"), normalised)


def model_and_batches() -> tuple[ContinualModel, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    model = ContinualModel(quickdraw_vit())
    model.heads.add_head(range(5))
    return model, [(torch.rand(n, 1, 28, 28), torch.randint(5, (n,))) for n in SIZES]


def gradients(model: ContinualModel) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def both(rank: int, folder: str) -> None:
    """What each of two processes computes."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "any"}
    torch.set_num_threads(1)
    meeting = (Path(folder) / "meeting").as_uri()  # a file, for a port could be taken meanwhile
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    model, batches = model_and_batches()
    replicas, found = Replicas(), []
    for batch in batches:
        (images, targets), _, weight = replicas.part(batch)
        model.zero_grad()
        (weight * F.cross_entropy(replicas.forward(model, images), targets)).backward()
        found.append(gradients(model))
    model.backbone.requires_grad_(False)  # from now on other parameters train
    model.zero_grad()
    (images, targets), _, weight = replicas.part(batches[0])
    (weight * F.cross_entropy(replicas.forward(model, images), targets)).backward()
    found.append(gradients(model))
    features, targets = extract_features(model, TensorDataset(*batches[0]), 2, "cpu")
    clock = SimpleNamespace(train_exp_counter=rank, train_exp_epochs=0, train_iterations=0)
    with pytest.raises(RuntimeError, match="go on from different places"):
        require_alike(SimpleNamespace(clock=clock))
    torch.save({"gradients": found, "features": features, "targets": targets}, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.trains
def test_gradients_and_features_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(both, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    model, batches = model_and_batches()
    for k, (images, targets) in enumerate([*batches, batches[0]]):
        if k == len(batches):
            model.backbone.requires_grad_(False)
        model.zero_grad()
        F.cross_entropy(model(images), targets).backward()
        for found in (first, second):
            torch.testing.assert_close(found["gradients"][k], gradients(model), rtol=0, atol=1e-5)
    features, targets = extract_features(model, TensorDataset(*batches[0]), 2, "cpu")
    for found in (first, second):
        assert torch.equal(found["targets"], targets)
        torch.testing.assert_close(found["features"], features, rtol=0, atol=1e-6)


SCRIPT = """
import os, sys
from test_data_parallel import JOB
from dataclasses import replace
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import jobs
from reclaim.benchmark.training.checkpoints import Checkpoint
from small_runs import make_small

jobs._make = make_small
saves, save = [], Checkpoint.save


def stop(self, strategy):
    save(self, strategy)
    saves.append(1)
    if os.environ["RANK"] == "0" and len(saves) == int(os.environ.get("STOP", 0)):
        os._exit(9)


Checkpoint.save = stop
job = replace(JOB, config=JOB.config.set(sys.argv[2:]))
for record in jobs.run_jobs([job], RecordStore(sys.argv[1]), quiet=True):
    print("made", record.recipe)
"""


def by_two(folder: Path, *settings: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(folder / "script.py")]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *command, str(folder / "records"), *settings],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )


@pytest.mark.trains
def test_a_run_by_two_processes_killed_and_continued_is_that_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert by_two(tmp_path, STOP="3").returncode != 0
    assert not list(tmp_path.rglob("*.json"))
    assert list(tmp_path.rglob("*.checkpoint"))
    done = by_two(tmp_path)
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stdout.count("made slca") == 1  # by the first process alone
    record = RecordStore(tmp_path / "records").get(*JOB.place)
    assert record
    assert record.provenance["processes"] == 2
    monkeypatch.setattr(jobs, "_make", make_small)
    (alone,) = jobs.run_jobs([replace(JOB, setup=Setup())], RecordStore(tmp_path / "alone"), 1, quiet=True)
    assert record.result.keys() == alone.result.keys()
    for key in alone.result.keys() - {"accuracy", "accuracy_task_known", "correct", "entropy", "train_loss"}:
        assert record.result[key] == alone.result[key], key
    assert np.allclose(record.result["train_loss"], alone.result["train_loss"], atol=1e-4)
    assert record.result["test_counts"] == alone.result["test_counts"]
    # an image that lies on the border between two classes may change sides by rounding
    for key in ("accuracy", "accuracy_task_known"):
        for ours, theirs in zip(record.result[key], alone.result[key], strict=True):
            for one, other, images in zip(ours, theirs, alone.result["test_counts"], strict=False):
                assert abs(one - other) <= 100 / images + 1e-9
    assert np.allclose(record.result["entropy"], alone.result["entropy"], atol=1e-3)


@pytest.mark.trains
def test_a_run_that_fails_ends_all_processes(tmp_path: Path) -> None:
    done = by_two(tmp_path, "lr=1e30")
    assert done.returncode != 0
    assert "FloatingPointError: the loss became" in done.stderr
    assert not list(tmp_path.rglob("*.json"))
