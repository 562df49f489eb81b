"""DualPrompt: prefixes held against attention written out by hand, the pairing fault, and whose prompt it is."""

from __future__ import annotations

import pytest
import torch
from reclaim.strategies.dualprompt import DualPrompt, attach_dualprompt
from reclaim.strategies.heads import ContinualModel
from test_prompt_pool import IMAGES, attach_small_dualprompt, naive, train, vit
from torch import Tensor

pytestmark = pytest.mark.trains


def attended(attention: object, x: Tensor, prefix: Tensor) -> Tensor:
    """One image's tokens (L, width) through attention with a prefix (2, length, width), head by head."""
    a: object = attention
    heads, width = a.num_heads, a.head_dim  # type: ignore[attr-defined]
    queries, keys, values = (x @ a.qkv.weight.T + a.qkv.bias).chunk(3, dim=1)  # type: ignore[attr-defined]
    keys, values = torch.cat([keys, prefix[0]]), torch.cat([values, prefix[1]])
    outputs = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        outputs.append(torch.softmax(queries[:, part] @ keys[:, part].T / width**0.5, dim=1) @ values[:, part])
    return a.proj(torch.cat(outputs, dim=1))  # type: ignore[attr-defined, no-any-return]


def test_each_image_attends_to_its_prompts() -> None:
    model = vit()
    pool = attach_small_dualprompt(model, pool=6, top_k=2)
    assert model(IMAGES).shape == (6, 8)
    tokens = torch.randn(6, 5, 8)
    for index, block in enumerate(model.blocks):
        outputs = block.attn(tokens)
        for b in range(6):
            prompts = block.attn.prefix.prompts
            own = prompts[:, 0] if index == 0 else prompts[:, pool.indices[b]].flatten(1, 2)
            torch.testing.assert_close(outputs[b], attended(block.attn, tokens[b], own))


def test_the_pairing_of_the_twin_makes_an_image_depend_on_its_place() -> None:
    outputs = {}
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        for pairing in ("google", "reference"):
            model = vit()
            attach_small_dualprompt(model, pool=6, pairing=pairing)
            outputs[pairing] = model(IMAGES)
            moved = not torch.allclose(model(IMAGES[order]), outputs[pairing][order], atol=1e-6)
            assert moved == (pairing == "reference")
            outputs[f"{pairing} alone"] = torch.cat([model(image[None]) for image in IMAGES])
    assert not torch.allclose(outputs["google"], outputs["reference"], atol=1e-6)
    torch.testing.assert_close(outputs["google alone"], outputs["google"])
    assert torch.equal(outputs["google alone"], outputs["reference alone"])


def test_the_pairing_of_the_twin_is_entry_2b_and_2b_plus_1() -> None:
    model = vit()
    pool = attach_small_dualprompt(model, pool=6, pairing="reference")
    model(IMAGES)
    (prefix,) = pool._experts[:1]
    entries = [*prefix.prompts[0, pool.indices[:, 0]], *prefix.prompts[1, pool.indices[:, 0]]]
    keys, values = prefix.chosen(pool.indices)
    for b in range(6):
        assert torch.equal(keys[b], entries[2 * b])
        assert torch.equal(values[b], entries[2 * b + 1])


def test_training_uses_the_prompt_of_the_experience_as_long_as_there_is_one() -> None:
    for top_k, choice in ((1, "task"), (2, "task"), (1, "query")):
        model = vit()
        pool = attach_small_dualprompt(model, pool=5, top_k=top_k, train_choice=choice)
        for experience in range(7):
            pool.experiences.fill_(experience)
            model.eval()(IMAGES)
            free = pool.indices.tolist()
            model.train()(IMAGES)
            own = [list(range(experience * top_k, (experience + 1) * top_k))] * 6
            inside = choice == "task" and (experience + 1) * top_k <= 5
            assert pool.indices.tolist() == (own if inside else free)


def test_only_the_experts_key_is_pulled() -> None:
    model = ContinualModel(vit())
    pool = attach_small_dualprompt(model)
    strategy = train(naive(model, DualPrompt()), 0)
    before, experts = pool.keys.detach().clone(), [e.prompts.detach().clone() for e in pool._experts]
    train(strategy, 1)
    assert (pool.keys != before).any(dim=1).tolist() == [False, True, False, False]
    for expert, old in zip(pool._experts, experts, strict=True):
        assert (expert.prompts != old).any(dim=3).any(dim=2).any(dim=0).tolist() == [False, True, False, False]


def test_an_experts_prompt_starts_as_the_one_before() -> None:
    for copied in (True, False):
        model = ContinualModel(vit())
        pool = attach_small_dualprompt(model, pool=2)
        plugin = DualPrompt(copy_prompts=copied)
        strategy = train(naive(model, plugin), 0)
        keys, before = pool.keys.detach().clone(), [e.prompts.detach().clone() for e in pool._experts]
        plugin.before_training_exp(strategy)
        assert torch.equal(pool.keys, keys)
        for expert, old in zip(pool._experts, before, strict=True):
            assert torch.equal(expert.prompts[:, 0], old[:, 0])
            assert torch.equal(expert.prompts[:, 1], old[:, 0] if copied else old[:, 1])
        train(strategy, 1)
        before = [e.prompts.detach().clone() for e in pool._experts]
        plugin.before_training_exp(strategy)  # the pool is at its end
        assert all(torch.equal(e.prompts, old) for e, old in zip(pool._experts, before, strict=True))


def test_a_length_is_that_of_the_keys_and_of_the_values() -> None:
    model = vit(depth=6)
    pool = attach_dualprompt(model)
    shapes = {i: tuple(b.attn.prefix.prompts.shape) for i, b in enumerate(model.blocks) if hasattr(b.attn, "prefix")}
    assert shapes == {**dict.fromkeys((0, 1), (2, 1, 5, 8)), **dict.fromkeys((2, 3, 4), (2, 10, 20, 8))}
    assert (pool.top_k, pool.train_choice, pool.train_vote, pool.test_vote) == (1, "task", "image", "image")
    plugin = DualPrompt()
    assert (plugin.pull, plugin.clip, plugin.clip_over, plugin.copy_prompts) == (1.0, 1.0, "trained", True)


def test_what_makes_no_sense_is_named() -> None:
    for arguments, complaint in (
        ({"pairing": "twin"}, "pairing must be 'google' or 'reference', got 'twin'"),
        ({"train_choice": "any"}, "train_choice must be 'task' or 'query', got 'any'"),
        ({"e_length": 0}, "a prompt needs a length of at least 1, got 0"),
        ({"g_layers": [0, 1], "e_layers": [1]}, "blocks must be distinct indices"),
        ({"e_layers": [3]}, "blocks must be distinct indices from 0 to 2"),
    ):
        model = vit()
        with pytest.raises(ValueError, match=complaint):
            attach_small_dualprompt(model, **arguments)
        assert all(p.requires_grad for p in model.parameters())
