"""L2P: prompts stand where they should, and features are the mean of what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.l2p import L2P, attach_l2p
from test_prompt_pool import IMAGES, attach_small_l2p, naive, train, vit

pytestmark = pytest.mark.trains


@pytest.mark.parametrize("arguments", [{}, {"reg_tokens": 2}, {"global_pool": "avg"}, {"pre_norm": True}])
def test_features_are_the_mean_of_the_prompts_outputs(arguments: dict[str, Any]) -> None:
    model = vit(**arguments)
    pool = attach_small_l2p(model)
    tokens = model.forward_features(IMAGES)
    own = model.num_prefix_tokens
    assert tokens.shape == (6, own + 2 * 2 + 4, 8)
    torch.testing.assert_close(model(IMAGES), model.fc_norm(tokens[:, own : own + 4].mean(dim=1)))
    assert pool.prompts.shape == (4, 2, 8)


def test_the_positions_of_prompts() -> None:
    outputs = {}
    for positions in ("reference", "google"):
        model = vit()
        pool = attach_small_l2p(model, positions=positions)
        outputs[positions] = model(IMAGES)
    assert not torch.allclose(outputs["reference"], outputs["google"])
    pool.prompts.data += model.pos_embed[0, 0]
    torch.testing.assert_close(model(IMAGES), outputs["reference"])


def test_positions_need_a_class_token_with_one() -> None:
    for arguments in ({"no_embed_class": True}, {"class_token": False, "global_pool": "avg"}, {"pos_embed": "none"}):
        with pytest.raises(ValueError, match="adds the position of the class token, and this ViT has none"):
            attach_small_l2p(vit(**arguments))
        model = vit(**arguments)
        attach_small_l2p(model, positions="google")
        assert model(IMAGES).shape == (6, 8)
    with pytest.raises(ValueError, match="positions must be 'reference' or 'google', got 'both'"):
        attach_small_l2p(vit(), positions="both")
    with pytest.raises(ValueError, match="a prompt needs at least 1 token, got length=0"):
        attach_small_l2p(vit(), length=0)


def test_only_the_chosen_prompts_matter_and_learn() -> None:
    model = vit()
    pool = attach_small_l2p(model, test_vote="batch")
    output = model(IMAGES)
    output.sum().backward()
    used = set(pool.indices[0].tolist())
    assert len(used) == 2
    assert {i for i in range(4) if pool.prompts.grad[i].any()} == used
    pool.prompts.data[[i for i in range(4) if i not in used]] = 0
    assert torch.equal(model(IMAGES), output)


def test_the_next_experience_shares_prompts() -> None:
    for share in (True, False):
        model = ContinualModel(vit())
        pool = attach_small_l2p(model)
        plugin = L2P(share=share)
        strategy = train(naive(model, plugin), 0)
        before = pool.prompts.detach().clone()
        plugin.before_training_exp(strategy)
        after = pool.prompts.detach()
        assert torch.equal(after[:2], before[:2])
        assert torch.equal(after[2:], before[:2] if share else before[2:])
        train(strategy, 1)
        before = pool.prompts.detach().clone()
        plugin.before_training_exp(strategy)  # the pool is at its end
        assert torch.equal(pool.prompts, before)


def test_the_defaults_are_the_pytorch_twins() -> None:
    model = vit()
    pool = attach_l2p(model)
    assert pool.prompts.shape == (10, 5, 8)
    assert (pool.top_k, pool.positions, pool.train_vote, pool.test_vote) == (5, "reference", "batch", "image")
    plugin = L2P()
    assert (plugin.pull, plugin.clip, plugin.clip_over, plugin.copy_prompts) == (0.1, 1.0, "trained", False)
