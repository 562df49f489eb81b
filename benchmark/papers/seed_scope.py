"""What the seeds vary, on the published side and on ours (F2).

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from collections.abc import Collection

from .headers import papers


def comparable(varied: str, paper: str) -> bool | None:
    """Whether a std over seeds that vary ``varied`` is of the kind that the paper prints; None where it does not say.

    :param varied: of a record.
    :param paper: a key of :func:`~reclaim.benchmark.papers.headers.papers`.
    """
    published = _published(paper)
    return varied == published if published else None


def caveats(varied: Collection[str], seeds: Collection[int], published_seeds: Collection[int], paper: str) -> list[str]:
    """What a reader of Welch's column has to know because the two sides' seeds are not alike, or not independent; a
    sentence each.

    :param varied: what our seeds vary, of every record.
    :param seeds: our seeds.
    :param published_seeds: the paper's own; empty if it does not name them.
    """
    kinds = {kind: kind.replace("_", " ").replace("+", " and ") for kind in sorted(set(varied))}
    published, notes = _published(paper), []
    if len(kinds) > 1:
        notes.append(
            f"the seeds of some runs vary {', of others '.join(kinds.values())}: their std is of no one kind, keep one"
        )
    for kind, words in kinds.items():
        if comparable(kind, paper) is None:
            notes.append(
                f"the paper does not say what its seeds vary, ours vary {words}: the two stds may be of different kinds"
            )
        elif not comparable(kind, paper):
            theirs = str(published).replace("_", " ")
            notes.append(
                f"the published std covers {theirs} only (F2), ours {words}: the two stds are not comparable, "
                f"run with seeding={published}"
            )
    if published == "class_order" and kinds and published_seeds:
        if shared := sorted(set(seeds) & set(published_seeds)):
            notes.append(
                f"of the class orders {len(shared)} are the paper's own (seeds {', '.join(map(str, shared))}): both "
                "means share their "
                "effects, and Welch, which takes the two sides as independent, is conservative"
            )
        if new := set(seeds) - set(published_seeds):
            notes.append(f"of the class orders {len(new)} are new ones, which the paper did not run")
    return notes


def _published(paper: str) -> str | None:
    return papers()[paper].varied if paper in papers() else None
