"""Every golden file is within its tolerance, a perturbed one is not, and what is no golden file is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reclaim.benchmark.checks.conform import check
from reclaim.benchmark.checks.golden import Arrays, Deviation

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(GOLDEN.glob("*.npz"))


def test_deviations_know_their_tolerance() -> None:
    assert Deviation("x", 1.0, 1.0).within
    assert not Deviation("x", 1.1, 1.0).within
    assert not Deviation("x", float("nan"), 1.0).within


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_implementations_conform(path: Path) -> None:
    deviations = check(path)
    assert deviations
    assert all(d.within for d in deviations), deviations
    assert all(d.quantity and d.tolerance > 0 for d in deviations)


def test_there_is_a_golden_file_of_every_kind() -> None:
    names = {path.name for path in FILES}
    assert names >= {"olor_adam_a.npz", "olor_sgd_b.npz", "slca_ca_a.npz", "slca_ca_c.npz"}
    assert names >= {"lae_lora.npz", "lae_adapter.npz", "lae_prefix.npz"}
    assert names >= {"inflora_a.npz", "inflora_b.npz"}


def with_changed(name: str, change: Callable[[Arrays], object], folder: Path) -> Path:
    with np.load(GOLDEN / name) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(folder / name, **arrays)
    return folder / name


def add(key: str, amount: float) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({key: arrays[key] + np.asarray(amount, arrays[key].dtype)})


@pytest.mark.parametrize(
    ("name", "change", "quantity"),
    [
        ("olor_adam_a.npz", add("param_3_0", 1e-4), "parameters over all steps"),
        ("olor_adam_b.npz", add("back_level_max", 0.5), "parameters over all steps"),
        ("olor_sgd_a.npz", add("param_0_0", float("nan")), "parameters over all steps"),
        ("lae_lora.npz", add("tokens_adapted", 1e-4), "tokens_adapted"),
        ("lae_lora.npz", add("tokens_plain", 1e-4), "tokens_plain"),
        ("lae_lora.npz", add("grad_pet0.lora_A.0", 1.0), "grad_pet0.lora_A.0"),
        ("lae_adapter.npz", add("tokens_adapted", 1e-4), "tokens_adapted"),
        ("lae_adapter.npz", add("grad_pet1.layer.2.bias", 1.0), "grad_pet1.layer.2.bias"),
        ("lae_prefix.npz", add("tokens_adapted", 1e-4), "tokens_adapted"),
        ("lae_prefix.npz", add("grad_pet1.key.scaler.scale", 1e-3), "grad_pet1.key.scaler.scale"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_deviation_is_found_where_it_is(
    name: str, change: Callable[[Arrays], object], quantity: str, tmp_path: Path
) -> None:
    beyond = [d.quantity for d in check(with_changed(name, change, tmp_path)) if not d.within]
    assert quantity in beyond
    if change.__closure__ and not quantity.startswith("parameters"):
        assert beyond == [quantity]


def test_a_deviation_of_alignment_is_found(tmp_path: Path) -> None:
    def change(arrays: Arrays) -> None:
        arrays["weight_after_mean"] = arrays["weight_after_mean"] + 10 * arrays["weight_after_std"]
        arrays["class_means"] = arrays["class_means"] + 1e-3

    beyond = {d.quantity for d in check(with_changed("slca_ca_a.npz", change, tmp_path)) if not d.within}
    assert {"class means", "fraction of mean weights beyond 4 standard errors"} <= beyond
    assert "class covariances" not in beyond


@pytest.mark.parametrize(
    ("change", "quantities"),
    [
        (add("lr_factor_50", 1e-4), {"factors of the learning rate"}),
        (add("t1.b0.cov_after", 1e-4), {"second moments after training"}),
        (add("t2.b1.cov_before", 1e-4), {"second moments before training"}),
        (add("t2.b0.merged_v", 1e-3), {"merged W_v", "chain: merged W_v"}),
        (add("t2.b1.basis_size", 1), {"bases of another size", "chain: bases of another size"}),
        (add("logits_all", 1e-3), {"logits of all heads", "chain: logits of all heads"}),
        (add("probe.tokens", 1e-4), {"probe: tokens"}),
        (add("probe.b1.grad_B_k", 1e-3), {"probe: gradient of B_k"}),
        (add("lr", 1e-3), {"B_k A", "B_v A", "head's weight", "chain: B_k A", "chain: logits of all heads"}),
    ],
)
def test_a_deviation_of_inflora_is_found(
    change: Callable[[Arrays], object], quantities: set[str], tmp_path: Path
) -> None:
    beyond = {d.quantity for d in check(with_changed("inflora_b.npz", change, tmp_path)) if not d.within}
    assert quantities <= beyond


def test_a_file_that_lacks_an_array_is_named(tmp_path: Path) -> None:
    path = with_changed("olor_sgd_a.npz", lambda arrays: arrays.pop("steps"), tmp_path)
    with pytest.raises(ValueError, match=r"olor_sgd_a\.npz is not a whole golden file: it lacks the array 'steps'"):
        check(path)


def test_an_unknown_module_is_named(tmp_path: Path) -> None:
    path = with_changed("lae_lora.npz", lambda arrays: arrays.update(kind=np.array("vera")), tmp_path)
    with pytest.raises(ValueError, match=r"unknown kind 'vera'.*lora, adapter and prefix"):
        check(path)


def cut(path: Path) -> None:
    path.write_bytes((GOLDEN / "olor_sgd_a.npz").read_bytes()[:-100])


def spoil(path: Path) -> None:
    data = bytearray((GOLDEN / "lae_lora.npz").read_bytes())
    for i in range(300, len(data) - 5000, 7):
        data[i] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not an archive"),
        lambda path: np.save(path.open("wb"), np.zeros(3)),
        lambda path: np.savez(path, x=np.array([{}], dtype=object)),
        cut,
        spoil,
    ],
    ids=["absent", "folder", "empty", "text", "npy", "objects", "cut", "spoilt"],
)
def test_what_cannot_be_read_is_named(make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    make(path)
    with pytest.raises(ValueError, match=r"cannot read .*file\.npz as an \.npz archive"):
        check(path)


def test_another_archive_is_named_with_its_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", b=np.zeros(1), a=np.zeros(1))
    with pytest.raises(ValueError, match=r"mine\.npz is no golden file known here: its arrays are a, b"):
        check(tmp_path / "mine.npz")
