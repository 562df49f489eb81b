"""A record from elsewhere: whether it is sound and fits the recipe and stream that it names, and whether a leaderboard
would show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Component, Config, config_hash, differences, from_dict, shown
from ..data.streams import STREAMS
from ..papers.protocols import taken_name
from ..papers.published import cells
from ..recipes import CHOICE_SEEDS, RECIPES, weights_sha256
from ..records.record import Comparison, Record, RecordError, compare, plain
from ..records.store import RecordStore
from .counting import current, not_counted
from .outside import is_outside, settings_changed, why_not
from .soundness import expected_order, stream_of
from .soundness import problems as soundness

BACKED = (
    "of its accuracies only the last row of result.accuracy is backed by bits, one per test image: "
    "the others are as stated"
)


LINE = 1000
"""Most characters of a line that is printed of a record."""


@dataclass(frozen=True)
class Submission:
    """What there is to say of a file.

    :ivar problems: why it cannot be merged; none means that it can.
    :ivar notes: why the leaderboard would not show it although it is sound.
    :ivar facts: what a maintainer wants to know of a record from outside.
    :ivar place: where it belongs, None for what is no record.
    :ivar on_record: how it agrees with the record already in its place; None where there is none.
    """

    path: Path
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    place: Path | None = None
    on_record: Comparison | None = None
    facts: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.problems:
            lines = [plain(text, LINE) for text in (*self.problems, *self.facts)]
            return "\n".join([f"{self.path}: not a record to merge", *(f"  {line}" for line in lines)])
        todo = (
            f"already on record, {self.place}: they {self.on_record}" if self.on_record else f"copy it to {self.place}"
        )
        shown = "not shown on the leaderboard" if self.notes else "shown on the leaderboard"
        marked = ", marked" if self.facts and not self.notes else ""
        lines = [plain(text, LINE) for text in (*self.notes, *self.facts, BACKED)]
        return "\n".join([f"{self.path}: sound; {todo}; {shown}{marked}", *(f"  {line}" for line in lines)])


class _Inbox(RecordStore):
    """Reads a file as a store does, wherever it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self.path = path

    def path_of(self, *_: Any, **__: Any) -> Path:
        return self.path

    def read(self) -> Record:
        return self._read(self.path)


def check(path: Path, store: RecordStore | None = None) -> Submission:
    """Read a JSON file as a record store would and hold it against what this version knows.

    :param store: that it would be copied into: held against its records, too. None where there is none:
        leaderboards/records is named.
    """
    try:
        record = _Inbox(path).read()
    except (RecordError, OverflowError) as error:
        return Submission(path, (str(error),))
    run = record.recipe, record.stream, record.config_hash, record.seed
    place = (store or RecordStore(Path("leaderboards", "records"))).path_of(*run)
    problems, on_record = list(soundness(record)), None
    if store:
        problems += _against_alike(record, store, place)
        try:
            on_record = compare(known, record) if (known := store.get(*run)) else None
        except RecordError as error:  # a damaged file is not to be overwritten, either
            problems.append(str(error))
    if on_record and not on_record.agree:
        problems.append(f"copying {path} would overwrite another record, {place}: they {on_record}")
    notes = () if problems else tuple(_notes(record))
    return Submission(path, tuple(problems), notes, place, on_record, tuple(_facts(record, path, store, place)))


def _against_alike(record: Record, store: RecordStore, place: Path) -> Iterator[str]:
    """What runs of one configuration on one stream have alike, whatever their seed."""
    config = record.result["config"]
    # how many photographs a memory holds may depend on the order of classes of unequal sizes, their bytes on how they
    # were loaded
    alike = (
        ["trained_parameters"]
        if config.get("memory") and config.get("images")
        else ["trained_parameters", "bytes_kept"]
    )
    for path in sorted(store.root.glob(f"*/{record.stream}/{record.config_hash}/*.json")):
        try:
            other = _Inbox(path).read().result
        except RecordError:
            continue
        differing = [key for key in alike if path != place and other[key] != record.result[key]]
        if differing:
            yield from (
                f"result.{key} is {record.result[key]}: {path}, of the same configuration, has {other[key]}"
                for key in differing
            )
            return


def _notes(record: Record) -> Iterator[str]:
    """Why neither the boards of the embedded tier nor the table of published cells would show it."""
    result, recipe = record.result, RECIPES.get(record.recipe)
    if is_outside(record):
        (reason,) = why_not([record])
        yield from [str(reason)] if reason else []
    elif (record.recipe, record.stream) in {(cell.recipe, cell.stream) for cell in cells()}:
        yield from not_counted([record])
    elif recipe is None:
        yield (
            f"no recipe is called {record.recipe!r} here: on {record.stream} only runs under the name of a published "
            "cell are shown; recipes from outside are on the embedded streams and on streams of their own"
        )
    elif recipe.tier == "middle":
        yield from not_counted([record])
    elif record.stream not in STREAMS:
        yield (
            f"a recipe is shown on the embedded tier: on {record.stream} only runs under the name "
            "of a published cell are"
        )
    elif current([record]):
        if recipe.fact:
            yield f"{record.recipe} turns the switch {recipe.fact}: it is shown in docs/fidelity.md"
    else:
        if record.seed >= min(CHOICE_SEEDS):
            yield (
                f"seed {record.seed} is one of those that choose hyper-parameters: leaderboards "
                f"use 0 to {min(CHOICE_SEEDS) - 1}"
            )
        if record.config_hash != (present := config_hash(recipe.config.as_dict())):
            changed = ", ".join(differences(result["config"], recipe.config).values())
            yield (
                f"config is {record.config_hash}, that of {record.recipe} is {present}: {changed}. It is no run of our "
                f"{record.recipe}: under a name of its own it is shown, marked as external"
            )
        if result["weights_sha256"] != (weights := weights_sha256(recipe.config)):
            yield (
                f"it starts from the weights {result['weights_sha256'][:12]}..., the recipe from {str(weights)[:12]}..."
            )


# --- what a maintainer wants to know of a record from outside ---


def _facts(record: Record, path: Path, store: RecordStore | None, place: Path) -> Iterator[str]:
    """Nothing for a run of our recipes on our streams."""
    try:
        config = from_dict(record.result["config"])
    except (ValueError, TypeError, OverflowError):  # named among the problems
        return
    if not is_outside(record) and not config.external:
        return
    yield from _facts_of_code(record, config)
    if "own_stream" in record.result:
        yield from _facts_of_stream(record, config)
    if base := _base(record, config):
        yield from _against_base(record, config, base, _stores(record, path, store))
    origin = record.result["hyperparameters_from"]
    yield f"hyper-parameters: {origin}, as the record states" + (
        "; how they were chosen is not in it" if origin == "validation" else ""
    )
    yield _seeds_beside(record, (path.parent, place.parent))


def _facts_of_code(record: Record, config: Config) -> Iterator[str]:
    external = config.external
    if record.recipe in RECIPES and external:
        yield (
            f"it goes by the name of our recipe {record.recipe}, but takes code from outside: it is not passed off as "
            "ours, give it a name of its own"
        )
    elif ours := taken_name(record.recipe):
        yield f"its name is {ours}'s but for case, or that of a run of ours: give it a name of its own"
    elif record.recipe not in RECIPES:
        yield f"external: {record.recipe} is no recipe of this project"
    if external:
        for where, component in external.components.items():
            yield f"{where}: {_called(component)}; not imported, not run here"
    elif record.recipe not in RECIPES:
        yield "no code from outside: it differs from our recipes in settings alone"
    if external and external.base not in RECIPES:
        named = f"the base {plain(external.base)!r}, which is no recipe here" if external.base else "no base"
        yield f"it names {named}: which settings it changes cannot be said"


def _called(component: Component) -> str:
    arguments = ", ".join(f"{plain(key)}={plain(shown(value))}" for key, value in component.arguments.items())
    return f"{plain(component.path)}({plain(arguments, 300)}), source {component.sha256[:12]}"


def _base(record: Record, config: Config) -> str:
    """The recipe of ours to hold it against: the one that it states, or whose name it has, or else the closest one;
    empty if the one that it states is not ours.
    """
    if config.external:
        return config.external.base if config.external.base in RECIPES else ""
    if record.recipe in RECIPES:
        return record.recipe
    return min(RECIPES, key=lambda name: len(differences(config.as_dict(), RECIPES[name].config)))


def _stores(record: Record, path: Path, store: RecordStore | None) -> list[RecordStore]:
    """Where its base may be on record: the store at hand, and the one that the file lies in."""
    place = Path(record.recipe, record.stream, record.config_hash, f"{record.seed}.json")
    inside = path.parts[-len(place.parts) :] == place.parts
    return [*([store] if store else []), *([RecordStore(path.parents[len(place.parts) - 1])] if inside else [])]


def _against_base(record: Record, config: Config, base: str, stores: Sequence[RecordStore]) -> Iterator[str]:
    result, settings = record.result, ", ".join(settings_changed(config, base))
    said = "base" if config.external or record.recipe == base else "closest recipe of ours, as it states no base"
    yield f"{said}: {base}, {f'with {settings}' if settings else 'all settings as there'}"
    expected = weights_sha256(config)
    if config.external and config.external.backbone:
        yield f"starting weights: {result['weights_sha256'][:12]}, of a backbone from outside"
    elif expected is None:
        yield f"starting weights: {result['weights_sha256'][:12]}, of {plain(config.backbone)}; not known here"
    else:
        same = result["weights_sha256"] == expected
        yield f"starting weights: {f'those of {base}' if same else f'others than those of {base}'}"
    known, mine = _run_of(base, record, stores), _costs(record)
    if known:
        theirs = _costs(known)
        yield f"{mine}; {base} on record: {'the same' if theirs == mine else theirs}"
    else:
        yield f"{mine}; {base} has no record on {record.stream} to compare them with"


def _costs(record: Record) -> str:
    return f"{record.result['trained_parameters']:,} trained parameters, {record.result['bytes_kept']:,} bytes kept"


def _run_of(base: str, record: Record, stores: Sequence[RecordStore]) -> Record | None:
    """Another run, of the base, on the same stream and images: of its present configuration, or of any on a stream of
    one's own.
    """
    own = "own_stream" in record.result
    configuration = "*" if own else config_hash(RECIPES[base].config.as_dict())
    places = f"{base}/{record.stream}/{configuration}/*.json"
    for path in (path for store in stores for path in sorted(store.root.glob(places))):
        try:
            known = _Inbox(path).read()
        except (RecordError, OverflowError):
            continue
        mine = (known.recipe, known.config_hash) == (record.recipe, record.config_hash)
        if known.recipe == base and not mine and ("own_stream" in known.result) == own and known.images & record.images:
            return known
    return None


def _seeds_beside(record: Record, folders: tuple[Path, ...]) -> str:
    """Which seeds of the same configuration lie beside the file or in its place in the store."""
    found = {record.seed}
    for path in {path for folder in folders for path in folder.glob("*.json")}:
        try:
            other = _Inbox(path).read()
        except (RecordError, OverflowError):
            continue
        alike = ("recipe", "stream", "config_hash")
        if all(other.result[key] == record.result[key] for key in alike):
            found.add(other.seed)
    most = max(found)
    missing = sorted(set(range(most + 1)) - found) if most < min(CHOICE_SEEDS) else []
    lacking = f"; {_listed(missing)} of 0 to {most} missing" if missing else ""
    return f"seeds of this configuration beside it: {len(found)} ({_listed(sorted(found))}){lacking}"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"{shown} and {len(numbers) - 10} more" if len(numbers) > 10 else shown


def _facts_of_stream(record: Record, config: Config) -> Iterator[str]:
    result = record.result
    try:
        stream = stream_of(record)
        order = (
            "that of the seed"
            if result["class_order"] == expected_order(result, config, len(result["class_order"]))
            else "not the seed's"
        )
    except ValueError:  # named among the problems
        return
    images = f"{sum(result['own_stream']['train_counts']):,} training and {sum(result['test_counts']):,} test images"
    yield (
        f"stream {stream.name}: somebody's own, {stream.description}; its {images} (SHA-256 "
        f"{result['data_sha256'][:12]}) cannot be checked here"
    )
    if stream.made_by:
        yield f"stream: {_called(stream.made_by)}; not imported, not run here"
    yield f"class order: {order}"
