"""What `make study-cost` projects from rehearsals and writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from reclaim.benchmark.checks.study_cost import (
    BEGIN,
    DEVICES,
    END,
    GPU_BEGIN,
    GPU_END,
    GPU_PICTURE,
    GPU_RATES,
    PICTURE,
    costs,
    gpu_costs,
    main,
    makespan,
)
from reclaim.benchmark.papers.protocols import covered_runs
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training.rehearsal import kind
from small_runs import synthetic_record

MEASURED = {
    "steps": [[4, 4.0], [1, 1.0]] * 3,  # a second an image
    "later_steps": [[4, 4.0], [1, 1.0]] * 3,
    "tests": [[4, 0.4], [1, 0.1]] * 3,
    "load_seconds": 0.0,
    "closing_seconds": 0.0,
    "activation_bytes_per_image": 1.0,
    "fixed_bytes": 1.0,
}


def rehearsal(name: str, stream: str, seconds: float = 1.0) -> Record:
    """A record of a rehearsal, each step of which took so many times a second an image."""
    (recipe,) = (recipe for recipe, on, _ in covered_runs() if (recipe.name, on.name) == (name, stream))
    record = synthetic_record(name, stream, 0, config=replace(recipe.config, batch_size=4))
    timed = {k: [[n, s * seconds] for n, s in v] if isinstance(v, list) else v for k, v in MEASURED.items()}
    record.result["rehearsal"], record.provenance["rehearsal"] = True, timed
    return record


def test_runs_of_one_kind_are_projected_from_one_rehearsal() -> None:
    found = {(cost.run, cost.stream): cost for cost in costs([rehearsal("slca.main.joint", "split-cifar100-10")])}
    assert len(found) == len({(recipe.name, stream.name) for recipe, stream, _ in covered_runs()})
    joint = found["slca.main.joint", "split-cifar100-10"]
    # 20 epochs of 50,000 images, and one test of 10,000
    assert joint.hours == pytest.approx([(20 * 50_000 + 0.1 * 10_000) / 3600] * 2)
    assert joint.paper == "slca"
    plain = found["slca.main.seqft+sl", "split-cifar100-10"]
    assert plain.hours == pytest.approx([(20 * 50_000 + 0.1 * 55_000) / 3600] * 2)
    other = found["aepg.table-1.lora-ce", "split-imagenet-r-10"]
    assert other.hours is None
    assert other.unknown == "nothing of its kind was rehearsed"


def test_a_gpu_passes_all_images_at_the_published_rates() -> None:
    found = {(cost.run, cost.stream): cost for cost in gpu_costs()}
    trained, tested = GPU_RATES["vit_base_patch16_224"]
    seconds = 20 * 50_000 / trained + 10_000 / tested
    assert found["slca.main.joint", "split-cifar100-10"].hours == pytest.approx([seconds / 3600] * 2)
    assert all(cost.hours for cost in found.values())
    small = next(cost for (run, _), cost in found.items() if run.startswith("aepg.table-3."))
    trained, tested = GPU_RATES["resnet50_cifar"]
    assert small.hours == pytest.approx([(350 * 50_000 / trained + 10_000 / tested) / 3600] * 2)
    assert sum(cost.seeds for cost in found.values()) == sum(cost.seeds for cost in costs([]))


def test_a_rehearsal_on_the_same_images_comes_first() -> None:
    slow = rehearsal("slca.main.joint", "split-cub200-10", 3.0)
    own = rehearsal("slca.main.joint", "split-cifar100-10")
    alone, both = (
        {c.stream: c for c in costs(given) if c.run == "slca.main.joint"}["split-cifar100-10"].hours
        for given in ([slow], [slow, own])
    )
    assert alone
    assert both
    assert alone[0] == pytest.approx(3 * both[0])


def test_what_cannot_be_projected_says_why() -> None:
    noisy = rehearsal("slca.main.joint", "split-cifar100-10")
    noisy.provenance["rehearsal"]["steps"][0][1] = 40.0
    (cost,) = (c for c in costs([noisy]) if (c.run, c.stream) == ("slca.main.joint", "split-cifar100-10"))
    assert cost.hours is None
    assert "try again on an idle machine" in cost.unknown


def test_a_kind_is_what_makes_a_step_cost_as_much() -> None:
    of = {recipe.name: kind(recipe.config.as_dict()) for recipe, _, _ in covered_runs()}
    assert of["aepg.table-1.lora-ce"] == of["aepg.table-1.lora-aepg"] == of["aepg.table-2.lora-focal"]
    assert len({of[f"aepg.table-2.{name}-ce"] for name in ("lora", "adapter", "prefix")}) == 3
    assert of["slca.main.lwf"] != of["slca.main.joint"] == of["slca.main.seqft+sl"]
    assert of["slca.main.bic"] != of["slca.main.der++"]


@pytest.mark.parametrize(
    ("hours", "devices", "span"),
    [([3.0, 2.0, 2.0], 1, 7.0), ([3.0, 2.0, 2.0], 2, 4.0), ([3.0, 2.0, 2.0], 64, 3.0), ([2.0, 2.0, 3.0, 3.0], 2, 5.0)],
)
def test_makespan(hours: list[float], devices: int, span: float) -> None:
    assert makespan(hours, devices) == span


def test_page_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    store = RecordStore(tmp_path / "rehearsals")
    store.write(rehearsal("slca.main.joint", "split-cifar100-10"))
    target = tmp_path / "page.md"
    target.write_text(f"before\n{BEGIN}\nold\n{END}\nbetween\n{GPU_BEGIN}\nold\n{GPU_END}\nafter\n")
    main(target, store.root)
    text, _, of_gpu = target.read_text().partition("\nbetween\n")
    assert text.startswith(f"before\n{BEGIN}\n")
    assert "old" not in text
    assert "Not known (nothing of its kind was rehearsed): slca.main.slca on split-cifar100-10, " in text
    assert "; slca.main.bic on split-cifar100-10, split-cub200-10; " in text
    layout = [line for line in text.splitlines() if line.startswith(tuple(f"| {n} " for n in DEVICES))]
    assert len(layout) == len(DEVICES)
    assert layout[0].split("|")[4].strip() == "100%"
    assert f"]({PICTURE})" in text
    assert f"]({GPU_PICTURE})" in of_gpu
    assert all((tmp_path / picture).read_text().count("<svg") == 1 for picture in (PICTURE, GPU_PICTURE))
    before = target.read_text()
    main(target)  # without a store
    assert target.read_text() == before


@pytest.mark.parametrize("devices", [[], ["one", "another"]])
def test_a_store_of_one_device_is_needed(devices: list[str], tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "rehearsals")
    for device, stream in zip(devices, ("split-cifar100-10", "split-cub200-10"), strict=False):
        record = rehearsal("slca.main.joint", stream)
        record.provenance["accelerator"] = device
        store.write(record)
    with pytest.raises(ValueError, match=rf"rehearsals of {len(devices)} kinds of device(.*: give the --records)"):
        main(tmp_path / "page.md", store.root)


def test_a_store_that_says_nothing_of_time_leaves_the_page_alone(tmp_path: Path) -> None:
    noisy = rehearsal("slca.main.joint", "split-cifar100-10")
    noisy.provenance["rehearsal"]["steps"][0][1] = 40.0
    store = RecordStore(tmp_path / "rehearsals")
    store.write(noisy)
    with pytest.raises(ValueError, match=r"no time can be projected from .*try again on an idle machine"):
        main(tmp_path / "page.md", store.root)
    assert [path.name for path in tmp_path.iterdir()] == ["rehearsals"]


def test_the_page_has_the_marks() -> None:
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert [text.count(mark) for mark in (BEGIN, END, GPU_BEGIN, GPU_END)] == [1] * 4
