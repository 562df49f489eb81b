"""Every golden file is within its tolerance, a perturbed one is not, and what is no golden file is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from reclaim.benchmark.checks.conform import check
from reclaim.benchmark.checks.golden import Arrays, Deviation, recorded_vit, relative_to
from reclaim.benchmark.cli import main

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
    assert names >= {"inflora_a.npz", "inflora_b.npz", "l2p_a.npz", "l2p_b.npz", "dualprompt_a.npz", "dualprompt_b.npz"}


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
        ("l2p_a.npz", add("grad_keys_batch", 1.0), "grad_keys_batch"),
        ("l2p_a.npz", add("idx_sample", 1), "idx_sample"),
        ("l2p_b.npz", add("steps_pool", 1e-4), "steps_pool"),
        ("l2p_b.npz", add("tokens_batch", 1e-4), "tokens_batch"),
        ("dualprompt_a.npz", add("idx_train", 1), "idx_train"),
        ("dualprompt_b.npz", add("logits_sample_google", 1e-4), "logits_sample_google"),
        ("slca_ca_a.npz", add("acc_before", 0.1), "accuracy before alignment"),
        ("inflora_a.npz", add("t1.threshold", 0.005), "thresholds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_deviation_is_found_where_it_is(
    name: str, change: Callable[[Arrays], object], quantity: str, tmp_path: Path
) -> None:
    beyond = [d.quantity for d in check(with_changed(name, change, tmp_path)) if not d.within]
    assert quantity in beyond
    if not quantity.startswith(("parameters", "thresholds")):
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
    with pytest.raises(ValueError, match=r"lae_lora.npz .*unknown kind 'vera'.*lora, adapter and prefix"):
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


# --- files of other settings ---


def of_types(floating: type, whole: type) -> Callable[[Arrays], object]:
    """As somebody's script may have saved it."""
    kinds = {"f": floating, "i": whole}
    return lambda arrays: arrays.update({k: a.astype(kinds.get(a.dtype.kind, a.dtype)) for k, a in arrays.items()})


@pytest.mark.parametrize("name", ["l2p_a.npz", "dualprompt_a.npz", "inflora_a.npz", "slca_ca_a.npz", "lae_lora.npz"])
def test_the_types_of_the_arrays_do_not_matter(name: str, tmp_path: Path) -> None:
    deviations = check(with_changed(name, of_types(np.float64, np.int32), tmp_path))
    assert [d for d in deviations if not d.within] == []


def in_another_order(arrays: Arrays) -> None:
    """Of equally many votes the order is no rule; attention does not depend on that of its tokens."""
    arrays["class_mask"] = arrays["class_mask"][[2, 0, 1]]
    arrays["idx_batch"] = arrays["idx_batch"][:, ::-1].copy()
    tokens, length = arrays["tokens_batch"], arrays["pool"].shape[1]
    first, second = slice(1, 1 + length), slice(1 + length, 1 + 2 * length)
    arrays["tokens_batch"] = np.concatenate(
        [tokens[:, :1], tokens[:, second], tokens[:, first], tokens[:, 1 + 2 * length :]], axis=1
    )


@pytest.mark.parametrize("name", ["l2p_a.npz", "l2p_b.npz"])
def test_orders_that_mean_nothing_do_not_matter(name: str, tmp_path: Path) -> None:
    deviations = check(with_changed(name, in_another_order, tmp_path))
    assert [d for d in deviations if not d.within] == []
    assert len(deviations) == len(check(GOLDEN / name))


def test_a_vote_for_others_is_found_all_the_same(tmp_path: Path) -> None:
    beyond = {d.quantity for d in check(with_changed("l2p_a.npz", add("idx_batch", 1), tmp_path)) if not d.within}
    assert "idx_batch" in beyond


def test_files_without_steps_or_with_other_epochs_of_rates(tmp_path: Path) -> None:
    def without_steps(arrays: Arrays) -> None:
        for name in [name for name in arrays if name.startswith("steps_")]:
            del arrays[name]

    assert all(d.within for d in check(with_changed("l2p_a.npz", without_steps, tmp_path)))

    def other_epochs(arrays: Arrays) -> None:
        for name in ("lr_factor_20", "lr_factor_50"):
            del arrays[name]
        arrays["lr_factor_7"] = np.full(7, 9.0, np.float32)

    beyond = [d.quantity for d in check(with_changed("inflora_a.npz", other_epochs, tmp_path)) if not d.within]
    assert beyond == ["factors of the learning rate"]


def test_a_class_that_no_image_of_a_task_shows(tmp_path: Path) -> None:
    def change(arrays: Arrays) -> None:
        arrays["labels"][1][arrays["labels"][1] == 4] = 5  # the lowest of the task

    deviations = check(with_changed("inflora_a.npz", change, tmp_path))
    assert [d for d in deviations if not d.within]  # it was recorded with others


def test_gradients_that_are_zero_and_accuracies_that_are_all_the_same() -> None:
    assert relative_to(np.zeros(3)) == relative_to(np.zeros(0)) == 1.0
    assert relative_to(np.array([-2.0, 1.0])) == 2.0


def test_the_heads_of_a_vit_are_those_of_its_prefixes(tmp_path: Path) -> None:
    def of_eight_heads(arrays: Arrays) -> None:
        for name in ("g_prompt", "e_prompt"):
            arrays[name] = arrays[name].reshape(*arrays[name].shape[:-2], 8, 4)

    with np.load(GOLDEN / "dualprompt_a.npz") as archive:
        arrays = dict(archive)
    assert recorded_vit(arrays).blocks[0].attn.num_heads == 4
    of_eight_heads(arrays)
    assert recorded_vit(arrays).blocks[0].attn.num_heads == 8
    assert recorded_vit(arrays | {"num_heads": np.array(2)}).blocks[0].attn.num_heads == 2


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("olor_sgd_a.npz", lambda a: a.update(kind=np.array("lion")), "unknown kind 'lion'"),
        ("olor_sgd_a.npz", lambda a: a.update(steps=np.array(0)), "steps is 0"),
        ("olor_sgd_a.npz", lambda a: a.update(n_pretrained=np.array(99)), "n_pretrained is 99 of"),
        ("l2p_a.npz", lambda a: a.update(method=np.array("coda")), "unknown method 'coda'"),
        ("l2p_a.npz", lambda a: a.pop("logits_batch"), "lacks the array 'logits_batch'"),
        ("l2p_a.npz", lambda a: a.update(grad_queries_batch=np.zeros(3)), "nothing here computes grad_queries_batch"),
        ("l2p_a.npz", lambda a: a["labels"].__setitem__(5, 0), r"label 0 is not in class_mask"),
        ("dualprompt_a.npz", lambda a: a.pop("idx_sample"), "lacks the array 'idx_sample'"),
        ("slca_ca_c.npz", lambda a: a.update(newest_task_size=np.array(6)), "newest_task_size is 6"),
        ("slca_ca_a.npz", lambda a: a.update(X=a["X"][:, 0]), "is no sound golden file"),
        ("lae_lora.npz", lambda a: a.pop("vit.norm.weight"), "is no sound golden file"),
        ("lae_lora.npz", lambda a: a.pop("vit.patch_embed.proj.weight"), "lacks the array 'vit.patch_embed"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    name: str, change: Callable[[Arrays], object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*{said}"):
        check(with_changed(name, change, tmp_path))


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    bad = with_changed("olor_sgd_a.npz", lambda a: a.update(kind=np.array("lion")), tmp_path)
    result = CliRunner().invoke(main, ["conform", str(bad), str(GOLDEN / "olor_adam_a.npz")])
    assert result.exit_code == 1
    assert "parameters over all steps" in result.output
    assert "unknown kind 'lion'" in result.output
