"""The losses of aEPG's and SLCA++'s papers as plain functions of logits and targets. Needs torch only.

Notation: p is the softmax of the logits, y the label of a sample, CE = -log p_y its cross-entropy, H(p) the entropy of
p. All logs are natural, so losses and entropies are in nats. Every loss is the mean over the batch.

Half-precision logits are converted to float32 once at the start of a loss, so their gradient is rounded only once. The
loss is then float32.

The Avalanche criteria of the same losses are in :mod:`~reclaim.strategies.aepg`, :mod:`~reclaim.strategies.entropy` and
:mod:`~reclaim.strategies.slca_pp`. While training, they pass only the logits of the current experience's classes to
these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import require_fraction, require_not_negative

# Per-sample quantities


def target_log_prob(logits: Tensor, targets: Tensor) -> Tensor:
    """log p_y of each sample, in nats.

    :param logits: (N, C).
    :param targets: class indices (N,), integers from 0 to C - 1.
    :return: (N,), float32 if the logits are less precise than that.
    :raises ValueError: the shapes do not match.
    """
    _check_shapes(logits, targets)
    log_p = F.log_softmax(logits, dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return log_p.gather(1, targets.unsqueeze(1)).squeeze(1)


def _check_shapes(logits: Tensor, targets: Tensor) -> None:
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"expected logits (N, C) and class indices (N,), got shapes {shapes}")


def entropy(logits: Tensor) -> Tensor:
    """H(p) = -sum_c p_c log p_c of each sample, in nats. A logit of -inf adds nothing.

    :param logits: (N, C).
    :return: (N,), float32 if the logits are less precise than that.
    """
    log_p = F.log_softmax(_at_least_float32(logits), dim=1)
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(dim=1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


FEW_CLASSES = 128
"""Up to this many classes the focal, LS, CP and EP losses are differentiated by autograd as they are written, which
rounds as in the runs on record. Beyond, where the time is that of reading (N, C) numbers, they read them less often.
"""


class _TargetAndEntropy(torch.autograd.Function):
    """:func:`target_log_prob` and :func:`entropy` of many classes, from one softmax, with the gradient written out:
    onehot(y) - p, and -p (log p + H).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(logits, dim=1)
        log_p_y, p = log_p.gather(1, targets.unsqueeze(1)).squeeze(1), log_p.exp()
        log_p.clamp_min_(-1e30)  # 0 log 0 is 0
        with torch.autocast(logits.device.type, enabled=False):  # which would round p and log p
            h = -torch.linalg.vecdot(p, log_p)
        ctx.save_for_backward(logits, targets, log_p, p, h)
        return log_p_y, h

    @staticmethod
    def backward(ctx: Any, of_target: Tensor, of_entropy: Tensor) -> Any:
        logits, targets, log_p, p, h = ctx.saved_tensors
        if torch.is_grad_enabled():  # it will be differentiated once more
            parts = target_log_prob(logits, targets), entropy(logits)
            return *torch.autograd.grad(parts, logits, (of_target, of_entropy), create_graph=True), None
        rest = -(of_entropy * h + of_target).unsqueeze(1)
        gradient = torch.addcmul(rest, log_p, of_entropy.unsqueeze(1), value=-1).mul_(p)
        return gradient.scatter_add_(1, targets.unsqueeze(1), of_target.unsqueeze(1)), None


def _target_and_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log p_y and H(p) of each sample."""
    _check_shapes(logits, targets)
    if logits.shape[1] <= FEW_CLASSES:
        return target_log_prob(logits, targets), entropy(logits)
    log_p_y, h = _TargetAndEntropy.apply(logits, targets)
    return log_p_y, h


# EPG and its annealing from cross-entropy (arXiv 2602.14078)


def epg_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Expected policy gradient: the mean of -p_y, a number in [-1, 0] (arXiv 2602.14078).

    The gradient of -p_y in the logits is p_y (p - onehot(y)), which is p_y times that of cross-entropy.

    :param logits: (N, C).
    :param targets: class indices (N,).
    :return: a scalar.
    :raises ValueError: the shapes do not match.
    """
    return -target_log_prob(logits, targets).exp().mean()


def annealed_epg_loss(logits: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """Annealed EPG: the mean of alpha CE + (1 - alpha) EPG, with EPG = -p_y (arXiv 2602.14078).

    :param logits: (N, C).
    :param targets: class indices (N,).
    :param alpha: weight of cross-entropy at the current step, in [0, 1]; see :func:`annealing_weight`.
    :return: a scalar.
    :raises ValueError: the shapes do not match, or alpha is outside [0, 1].
    """
    require_fraction(alpha=alpha)
    log_p = target_log_prob(logits, targets)
    return -(alpha * log_p + (1 - alpha) * log_p.exp()).mean()


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    # tanh does not overflow, whatever tau is
    "sigmoid": lambda progress, tau: 0.5 + 0.5 * math.tanh(0.5 * tau * (1 - 2 * progress)),
    "linear": lambda progress, tau: 1 - progress,
    "cosine": lambda progress, tau: 0.5 + 0.5 * math.cos(math.pi * progress),
}
"""alpha by schedule, as a function of the progress t / T in [0, 1] and the steepness tau, which only the sigmoid uses.
"""


def annealing_weight(progress: float, schedule: str = "sigmoid", tau: float = 6.0) -> float:
    """Weight alpha of cross-entropy in :func:`annealed_epg_loss` after t of T optimizer steps.

    :param progress: t / T, in [0, 1].
    :param schedule: ``"sigmoid"``, the paper's: alpha = sigmoid(tau (T - 2t) / T). From its ablation ``"linear"``: (T -
        t) / T, and ``"cosine"``: 1/2 + 1/2 cos(pi t / T).
    :param tau: steepness of the sigmoid; 6 in the paper.
    :return: alpha, in [0, 1].
    :raises ValueError: the schedule is unknown, or progress is outside [0, 1].
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    require_fraction(progress=progress)
    return SCHEDULES[schedule](progress, tau)


# The losses that aEPG's tables compare with: cross-entropy with more, or less, entropy in the predictions


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 1.0) -> Tensor:
    """Focal loss: the mean of (1 - p_y)^gamma CE (Lin et al., 2017).

    :param logits: (N, C).
    :param targets: class indices (N,).
    :param gamma: focusing parameter, at least 0; 0 is cross-entropy.
    :return: a scalar.
    :raises ValueError: the shapes do not match, or gamma is negative, infinite or NaN.
    """
    require_not_negative(gamma=gamma)
    logits = _at_least_float32(logits)
    log_p_y = target_log_prob(logits, targets)
    # 1 - p_y is the sum over the other classes. As a difference it would round to 0, where its power has no gradient.
    if logits.shape[1] > FEW_CLASSES:
        with torch.no_grad():
            others = logits.softmax(dim=1).scatter_(1, targets.unsqueeze(1), 0).sum(dim=1)
            others.clamp_min_(torch.finfo(others.dtype).tiny)
        p_y = log_p_y.exp()
        return -((others + (p_y.detach() - p_y)) ** gamma * log_p_y).mean()  # the gradient is that of 1 - p_y
    log_p = F.log_softmax(logits, dim=1)
    # The lowest finite number instead of -inf: with a single class, -inf would make the gradient NaN.
    others = log_p.scatter(1, targets.unsqueeze(1), torch.finfo(log_p.dtype).min)
    return -((gamma * others.logsumexp(dim=1)).exp() * log_p_y).mean()


def label_smoothing_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.01) -> Tensor:
    """Label smoothing: the mean of (1 - smoothing) CE + smoothing KL(uniform || p) (Szegedy et al., 2016).

    Equal to torch's cross-entropy with ``label_smoothing``, minus the constant smoothing x log C.

    :param logits: (N, C).
    :param targets: class indices (N,).
    :param smoothing: gamma in aEPG's paper, in [0, 1]; 0 is cross-entropy.
    :return: a scalar.
    :raises ValueError: the shapes do not match, or smoothing is outside [0, 1].
    """
    require_fraction(smoothing=smoothing)
    logits = _at_least_float32(logits)
    _check_shapes(logits, targets)
    if logits.shape[1] > FEW_CLASSES:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing) - smoothing * math.log(logits.shape[1])
    cross_entropy = -target_log_prob(logits, targets)
    divergence = -F.log_softmax(logits, dim=1).mean(dim=1) - math.log(logits.shape[1])
    return ((1 - smoothing) * cross_entropy + smoothing * divergence).mean()


def confidence_penalty_loss(logits: Tensor, targets: Tensor, beta: float = 0.1) -> Tensor:
    """Confidence penalty: the mean of CE - beta H(p) (Pereyra et al., 2017).

    :param logits: (N, C).
    :param targets: class indices (N,).
    :param beta: weight of the entropy, at least 0; 0 is cross-entropy.
    :return: a scalar.
    :raises ValueError: the shapes do not match, or beta is negative, infinite or NaN.
    """
    require_not_negative(beta=beta)
    log_p_y, h = _target_and_entropy(_at_least_float32(logits), targets)
    return -(log_p_y + beta * h).mean()


def entropy_penalty_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Entropy penalty: the mean of CE + H(p) (arXiv 2602.14078).

    :param logits: (N, C).
    :param targets: class indices (N,).
    :return: a scalar.
    :raises ValueError: the shapes do not match.
    """
    log_p_y, h = _target_and_entropy(_at_least_float32(logits), targets)
    return -(log_p_y - h).mean()


# The loss of SLCA++ (arXiv 2408.08295)


def symmetric_cross_entropy(logits: Tensor, targets: Tensor, alpha: float = 1.0, beta: float = 0.1) -> Tensor:
    """Symmetric cross-entropy: the mean of alpha CE + beta RCE (Wang et al., 2019).

    The reverse cross-entropy RCE is -sum_c p_c log q_c. p is the softmax, clamped to at least 1e-7; q is the one-hot
    target, clamped to at least 1e-4.

    :param logits: (N, C).
    :param targets: class indices (N,).
    :param alpha: weight of CE, at least 0.
    :param beta: weight of RCE, at least 0.
    :return: a scalar.
    :raises ValueError: the shapes do not match, or alpha or beta is negative, infinite or NaN.
    """
    require_not_negative(alpha=alpha, beta=beta)
    logits = _at_least_float32(logits)
    cross_entropy = -target_log_prob(logits, targets)
    p = logits.softmax(dim=1).clamp_min(1e-7)
    # log q is 0 for the target and log 1e-4 for all other classes
    reverse = -math.log(1e-4) * p.scatter(1, targets.unsqueeze(1), 0).sum(dim=1)
    return (alpha * cross_entropy + beta * reverse).mean()
