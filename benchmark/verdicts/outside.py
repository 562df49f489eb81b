"""Records from outside: of recipes that are not this project's, and on streams that are not. They are shown on boards,
marked, and no claim or verdict uses them.

What such a record names is text: nothing of it is imported or run.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..config import QUICKDRAW_VIT, Config, differences, from_dict
from ..data.streams import STREAMS
from ..papers.protocols import taken_name
from ..recipes import CHOICE_SEEDS, RECIPES, weights_sha256
from ..records.record import Record, plain
from .counting import OWN_CODE, Reason
from .soundness import problems

LONGEST = 100
"""Characters of a name: it becomes part of names of files."""


def is_outside(record: Record) -> bool:
    """Whether its place is among the marked rows of a board or on a board of its own: a recipe that is not ours on one
    of our embedded streams, or any recipe on a stream of one's own.
    """
    return "own_stream" in record.result or (record.recipe not in RECIPES and record.stream in STREAMS)


def why_not(records: Iterable[Record]) -> list[Reason | None]:
    """Why each of these records from outside is not ranked on a board; None for those that are."""
    return [_why_not(record) for record in records]


def expected_weights(record: Record, config: Config) -> str | None:
    """The fingerprint of the weights that this configuration starts from, if the record's are others; None, too, where
    they are not known here.
    """
    expected = None if config.external and config.external.backbone else weights_sha256(config)
    return expected if expected and record.result["weights_sha256"] != expected else None


def settings_changed(config: Config, base: str) -> list[str]:
    """In which settings a configuration differs from that of a recipe of ours, code from outside left out; of others'
    making, but as text for one line.
    """
    changed = differences(config.as_dict(), RECIPES[base].config)
    return [plain(text) for key, text in changed.items() if key.partition(".")[0] != "external"]


def drawn_at_random(config: Config) -> bool:
    """Whether the weights may be others for every seed: timm's names without a tag start from random weights, and what
    a backbone from outside starts from is its own affair.
    """
    return config.backbone != QUICKDRAW_VIT and not config.starts_pretrained


def _why_not(record: Record) -> Reason | None:
    result = record.result
    if result.get("rehearsal"):
        return Reason("a rehearsal")
    if record.seed >= min(CHOICE_SEEDS):
        return Reason("a seed on which hyper-parameters are chosen")
    for name in (record.recipe, record.stream):
        if len(name) > LONGEST:
            return Reason(f"a name of more than {LONGEST} characters", plain(name, 40))
    if ours := taken_name(record.recipe):
        return Reason("a recipe from outside under the name of one of ours", f"{ours} is this project's")
    if record.recipe in RECIPES and result["config"].get("external"):
        return Reason(OWN_CODE, plain(", ".join(record.external)))
    if problem := next(problems(record), None):
        return Reason("not sound (`reclaim check` says more)", plain(problem, 200))
    config = from_dict(result["config"])
    if config.part != "test":
        return Reason("evaluated on the part that hyper-parameters are chosen on")
    if expected := expected_weights(record, config):
        return Reason("other starting weights than its base's", f"not {expected[:12]}...")
    return None
