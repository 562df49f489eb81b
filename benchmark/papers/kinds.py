"""What a number is, on the published side and on ours: what its seeds vary (F2), the order of its classes, what it is
averaged over, and the split of its images. Two numbers that differ in one of them are not the same quantity.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields

from ..config import Seeding
from ..data.catalogue import GIVEN_SPLIT, OTHER_SPLIT
from ..data.streams import class_order
from ..records.metrics import AVERAGED
from ..records.record import UNVERIFIED, Record

UNKNOWN = "unknown"
NATURAL_ORDER, SHUFFLED, OTHER_ORDER = "natural", "shuffled by numpy seed", "another"
OFFICIAL, NOT_VERIFIED = "official", "not verified"
_SPLITS = {OTHER_SPLIT: "not the papers'", GIVEN_SPLIT: NOT_VERIFIED, UNVERIFIED: NOT_VERIFIED}
"""How a remark on a run's images begins -> what its split is."""


@dataclass(frozen=True)
class Kind:
    """What a number is; each field "unknown" where nobody says.

    :ivar varied: what the seeds vary, in the words of a record's ``varied``: the scope of its std (F2).
    :ivar class_order: "natural", "shuffled by numpy seed", or of a record "another".
    :ivar averaged: over "images" or over "tasks", each task with one weight.
    :ivar split: of training and test images: "official", whose it is, "not verified" or "not the papers'".
    :ivar split_sha256: the identity of split and images, a record's ``data_sha256``; of no published number is it known
        so far.
    """

    varied: Seeding | str = UNKNOWN
    class_order: str = UNKNOWN
    averaged: str = UNKNOWN
    split: str = UNKNOWN
    split_sha256: str = UNKNOWN

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        known = "" if self.split_sha256 == UNKNOWN else f" ({', '.join(h[:12] for h in self.split_sha256.split(_AND))})"
        return (
            f"seeds vary {in_words(self.varied)}; class order {self.class_order}; mean over {self.averaged}; "
            f"split {self.split}{known}"
        )


_AND = " and "


def in_words(varied: str) -> str:
    """Such as "class order and initialisation"."""
    return varied.replace("_", " ").replace("+", _AND)


def kind_of(record: Record, metric: str) -> Kind:
    """What a metric of a record is: nothing that the record does not have already."""
    result = record.result
    order = result["class_order"]
    remarks = [*result.get("remarks", ())]
    of_remarks = [split for begin, split in _SPLITS.items() if any(remark.startswith(begin) for remark in remarks)]
    natural, shuffled = (order == class_order(len(order), seed) for seed in (None, record.seed))
    return Kind(
        varied=result["varied"],
        class_order=NATURAL_ORDER if natural else SHUFFLED if shuffled else OTHER_ORDER,
        averaged=AVERAGED[metric],
        split=of_remarks[0] if of_remarks else "as remarked" if remarks else OFFICIAL,
        split_sha256=result["data_sha256"],
    )


def together(kinds: Iterable[Kind]) -> Kind:
    """One for several runs: values that differ are joined by "and"."""
    found = list(kinds)
    return Kind(
        **{f.name: _AND.join(dict.fromkeys(getattr(kind, f.name) for kind in found)) or UNKNOWN for f in fields(Kind)}
    )


def comparable(varied: str, published: str) -> bool | None:
    """Whether a std over seeds that vary ``varied`` is of the kind that is published; None where the paper does not
    say.
    """
    return None if published == UNKNOWN else varied == published


def caveats(ours: Collection[Kind], published: Kind) -> list[str]:
    """Where a published number and ours are, or may be, different quantities, whatever their spread; a sentence each.

    :param ours: of every record.
    """
    notes = []
    for what, name, silent in (
        ("the order of the classes", "class_order", "does not say the order of its classes"),
        ("what is averaged over", "averaged", "does not say whether it averages over images or over tasks"),
    ):
        found, theirs = sorted({str(getattr(kind, name)) for kind in ours}), getattr(published, name)
        if len(found) > 1:
            notes.append(f"{what} is {found[0]} in some runs, {', '.join(found[1:])} in others: keep one")
        if found and theirs == UNKNOWN:
            notes.append(f"the paper {silent}; here it is: {_AND.join(found)}")
        elif other := [value for value in found if value != theirs]:
            notes.append(f"{what} is {theirs} in the published number and {_AND.join(other)} in ours: not the same")
    hashes, splits = {kind.split_sha256 for kind in ours}, sorted({kind.split for kind in ours})
    if hashes and UNKNOWN not in (published.split_sha256, *hashes):
        if hashes != {published.split_sha256}:
            notes.append(f"the split is not the published one, whose SHA-256 is {published.split_sha256[:12]}...")
    elif splits and published.split == UNKNOWN:
        notes.append(f"the paper does not say its split; here it is: {_AND.join(splits)}")
    elif other := [split for split in splits if split != published.split]:
        notes.append(f"the published split is {published.split}, ours {_AND.join(other)}: the two may differ")
    return notes


def seed_caveats(
    ours: Collection[Kind], published: Kind, seeds: Collection[int], published_seeds: Collection[int]
) -> list[str]:
    """What a reader of Welch's column has to know because the two sides' seeds are not alike, or not independent; a
    sentence each.

    :param ours: of every record; ``seeds`` are theirs.
    :param published_seeds: the paper's own; empty if it does not name them.
    """
    kinds, notes = {varied: in_words(varied) for varied in sorted({kind.varied for kind in ours})}, []
    if len(kinds) > 1:
        notes.append(
            f"the seeds of some runs vary {', of others '.join(kinds.values())}: their std is of no one kind, keep one"
        )
    for kind, words in kinds.items():
        if comparable(kind, published.varied) is None:
            notes.append(
                f"the paper does not say what its seeds vary, ours vary {words}: the two stds may be of different kinds"
            )
        elif not comparable(kind, published.varied):
            notes.append(
                f"the published std covers {in_words(published.varied)} only (F2), ours {words}: the two stds are not "
                f"comparable, run with seeding={published.varied}"
            )
    if published.varied == "class_order" and kinds and published_seeds:
        if shared := sorted(set(seeds) & set(published_seeds)):
            notes.append(
                f"of the class orders {len(shared)} are the paper's own (seeds {', '.join(map(str, shared))}): both "
                "means share their "
                "effects, and Welch, which takes the two sides as independent, is conservative"
            )
        if new := set(seeds) - set(published_seeds):
            notes.append(f"of the class orders {len(new)} are new ones, which the paper did not run")
    return notes
