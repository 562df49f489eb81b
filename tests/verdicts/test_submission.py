"""Records from elsewhere: what is wrong with one is named, and a leaderboard shows what the check says it would."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from outside_records import IMAGES, PLUGIN, on_own_images, ours, theirs
from reclaim.benchmark.config import Config, config_hash
from reclaim.benchmark.data.drawings import downstream
from reclaim.benchmark.data.streams import class_order
from reclaim.benchmark.papers.protocols import find_cell
from reclaim.benchmark.recipes import RECIPES, weights_sha256
from reclaim.benchmark.records.provenance import PACKAGES
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.report.leaderboard import write
from reclaim.benchmark.verdicts import submission
from small_runs import synthetic_record

SLCA_CELL = "slca/main/slca/split-cifar100-10"


def from_elsewhere(
    recipe: str = "slca", stream: str = "split-quickdraw-10", seed: int = 0, settings: Sequence[str] = ()
) -> dict[str, Any]:
    """A document without any fault."""
    known = RECIPES.get(recipe, RECIPES["slca"])
    record = synthetic_record(recipe, stream, seed, config=(config := known.config.set(settings)))
    record.result["hyperparameters_from"] = known.origin_of(config)
    record.result["entropy"] = [1.0] * len(record.result["entropy"])
    record.provenance.update(dict.fromkeys(PACKAGES, "1.0"))
    return {"result": record.result, "provenance": record.provenance}


def of_a_cell(seed: int = 1993, settings: Sequence[str] = ()) -> dict[str, Any]:
    """The same for SLCA on Split CIFAR-100, whose ten experiences have ten classes each,
    as the drawings' in ``split-quickdraw-10``.
    """
    recipe, stream, _ = find_cell(SLCA_CELL)
    record = synthetic_record(recipe.name, "split-quickdraw-10", seed, config=(config := recipe.config.set(settings)))
    record.result["hyperparameters_from"] = recipe.origin_of(config)
    record.result.update(stream=stream.name, data_sha256="0" * 64, entropy=[1.0] * len(record.result["entropy"]))
    record.provenance.update(dict.fromkeys(PACKAGES, "1.0"))
    return {"result": record.result, "provenance": record.provenance}


def check(document: Any, folder: Path, store: RecordStore | None = None) -> submission.Submission:
    path = folder / "theirs.json"
    path.write_text(json.dumps(document) + "\n")
    return submission.check(path, store)


@pytest.mark.parametrize(
    ("make", "page", "row"), [(from_elsewhere, "embedded.csv", ",slca,1,"), (of_a_cell, "index.html", "50.00")]
)
def test_what_is_shown_is_shown(make: Callable[[], dict[str, Any]], page: str, row: str, tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "records")
    store.write(synthetic_record("linear"))  # a board needs a recipe
    checked = check(make(), tmp_path, store)
    assert (checked.problems, checked.notes) == ((), ())
    assert str(checked).startswith(f"{checked.path}: sound; copy it to {checked.place}; shown on the leaderboard\n")
    assert str(checked).endswith(
        "only the last row of result.accuracy is backed by bits, one per test image: the others are as stated"
    )
    assert checked.place
    before = (tmp_path / "before", tmp_path / "after")
    for folder in before:
        write(store, folder, ["csv", "html"])
        checked.place.parent.mkdir(parents=True, exist_ok=True)
        checked.place.write_text(checked.path.read_text())  # merging is copying
    texts = [(folder / page).read_text().replace("split-quickdraw-10", "") for folder in before]
    assert texts[1].count(row) > texts[0].count(row)


def change(**entries: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["result"].update(entries)


def origin(**entries: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["provenance"].update(entries)


def configured(**entries: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(document: dict[str, Any]) -> None:
        config = {**document["result"]["config"], **entries}
        document["result"].update(config=config, config_hash=config_hash(config))

    return spoil


def losses(n: int) -> Callable[[dict[str, Any]], None]:
    return change(entropy=[1.0] * n, train_loss=[1.0] * n)


def one_entropy(place: int, nats: float) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["result"]["entropy"].__setitem__(place, nats)


def first_task_known(correct: float) -> Callable[[dict[str, Any]], None]:
    matrix = [[50.0] * (t + 1) for t in range(10)]
    return change(accuracy_task_known=[[correct], *matrix[1:]])


def between_images(document: dict[str, Any]) -> None:
    document["result"]["accuracy"][0][0] = 50.1


EMBEDDED_FAULTS = [
    (change(recipe=3), "result.recipe is 3"),
    (change(config_hash="0" * 12), "the hash of result.config"),
    (change(correct="AAAA"), "the bits of 2000 test images"),
    (lambda document: document["result"].pop("seed"), "result lacks seed"),
    (change(rehearsal=True), "it is a rehearsal"),
    (origin(timm=None, numpy=3), "provenance lacks the versions of timm, numpy"),
    (origin(cpu_seconds="12"), "provenance.cpu_seconds is '12', wanted a number from 0 to"),
    (origin(cpu_seconds=-1.0), "provenance.cpu_seconds is -1.0"),
    (origin(wall_seconds=float("nan")), "provenance.wall_seconds is nan"),
    (origin(wall_seconds=True), "provenance.wall_seconds is True"),
    (change(train_loss=[10**400] * 30), "train_loss"),
    (change(varied="class_order"), "one of them is wrong"),
    (configured(epochs=None), "result.config is not one of this version: epochs must be an integer, got None"),
    (configured(epoch=3), "result.config is not one of this version: unknown setting 'epoch'"),
    (configured(images={}), "result.config is for photographs, which split-quickdraw-10 is not made of"),
    (change(stream="split-quickdraw-5"), "has 10 rows: split-quickdraw-5 has 5 experiences"),
    (change(stream="mine"), "unknown stream 'mine'"),
    (change(class_order=list(range(100))), "not the one of seed 0"),
    (change(class_order=[0, 1]), "no permutation of the 100 classes"),
    (change(seed=2**32), "result.seed is 4294967296: seed must be in"),
    (change(data_sha256="0" * 64), "the drawings of this version"),
    (losses(7), "7 entries"),
    (one_entropy(3, 2.31), "result.entropy[3] is 2.31: over 10 classes it is 2.3026 at most"),
    (change(accuracy_task_known=[[0.0] * (t + 1) for t in range(10)]), "without knowing the task, which cannot be"),
    (between_images, "100.20 of 200 images"),
    (first_task_known(50.5), "accuracy_task_known[0][0] is 50.5, accuracy[0][0] 50.0: there are no other classes yet"),
    (change(hyperparameters_from="paper"), "is 'paper': for slca with this configuration it is 'validation'"),
    (change(hyperparameters_from="given"), "is 'given': for slca with this configuration it is 'validation'"),
]
CELL_FAULTS = [
    (change(class_order=class_order(100, 1996)), "not the one of seed 1993"),
    (change(class_order=[0, *range(2, 101)]), "no permutation of the 100 classes of split-cifar100-10"),
    (configured(seeding="initialisation"), "not the one of the data set"),
    (lambda document: change(data_sha256=downstream().sha256)(document), "data_sha256 is that of the drawings"),
    (
        lambda document: change(weights_sha256=weights_sha256(Config()))(document),
        "weights_sha256 is that of quickdraw_vit",
    ),
    (lambda document: document["result"]["config"].pop("images"), "hash of result.config"),
    (change(stream="split-quickdraw-10"), "result.config is for photographs"),
    (change(stream="split-imagenet-r-10"), "no permutation of the 200 classes"),
    (one_entropy(199, 2.31), "over 10 classes"),
    (
        change(hyperparameters_from="validation"),
        "is 'validation': for slca.main.slca with this configuration it is 'paper'",
    ),
]


@pytest.mark.parametrize(
    ("document", "spoil", "message"),
    [
        (make, *fault)
        for make, faults in ((from_elsewhere, EMBEDDED_FAULTS), (of_a_cell, CELL_FAULTS))
        for fault in faults
    ],
)
def test_what_is_wrong_is_named(
    document: Callable[[], dict[str, Any]], spoil: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    theirs = document()
    spoil(theirs)
    checked = check(theirs, tmp_path)
    assert message in "\n".join(checked.problems)
    assert "not a record to merge" in str(checked)


def test_what_an_earlier_choice_gave_is_sound(tmp_path: Path) -> None:
    document = from_elsewhere(settings=["lr=0.77"])
    document["result"]["hyperparameters_from"] = "validation"
    checked = check(document, tmp_path)
    assert (checked.problems, len(checked.notes)) == ((), 1)  # but not shown


def test_only_a_head_of_all_classes_errs_between_tasks_after_the_first(tmp_path: Path) -> None:
    document = from_elsewhere("der++")
    first_task_known(50.5)(document)
    assert check(document, tmp_path).problems == ()


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    """Seed 0 of SLCA, made elsewhere."""
    store = RecordStore(tmp_path / "records")
    store.write(Record(**from_elsewhere()))
    return store


def test_what_is_on_record_is_said_and_not_to_be_copied(store: RecordStore, tmp_path: Path) -> None:
    theirs = from_elsewhere()
    (place,) = store.root.rglob("*.json")
    known = check(theirs, tmp_path, store)
    assert (known.problems, known.place) == ((), place)
    said = f"sound; already on record, {place}: they agree to the last bit, same accuracies; shown on the leaderboard\n"
    assert said in str(known)
    assert submission.check(place, store).problems == ()

    theirs["provenance"]["cpu_model"] = "another"
    theirs["result"]["accuracy"][5][2] += 0.5
    assert "they agree within 0.5 point and one image, largest deviation 0.50 points at accuracy[5][2]" in str(
        check(theirs, tmp_path, store)
    )

    theirs["result"]["accuracy"][5][2] += 1.0
    (problem,) = check(theirs, tmp_path, store).problems
    assert problem.startswith(
        f"copying {tmp_path / 'theirs.json'} would overwrite another record, {place}: they do not agree within 0.5"
    )
    assert check(theirs, tmp_path).problems == ()  # no store at hand

    place.write_text("{")
    assert check(theirs, tmp_path, store).problems[0].startswith(f"{place}: is cut short")


@pytest.mark.parametrize("key", ["trained_parameters", "bytes_kept"])
def test_what_other_seeds_have_alike_must_be_alike(key: str, store: RecordStore, tmp_path: Path) -> None:
    theirs = from_elsewhere(seed=1)
    (seed_0,) = store.root.rglob("*.json")
    (seed_0.parent / "2.json").write_text("{")  # says nothing of others
    assert check(theirs, tmp_path, store).problems == ()
    theirs["result"][key] += 1
    (problem,) = check(theirs, tmp_path, store).problems
    other = theirs["result"][key] - 1
    assert problem == f"result.{key} is {other + 1}: {seed_0}, of the same configuration, has {other}"
    for elsewhere in (
        from_elsewhere(stream="split-quickdraw-uneven", seed=1),
        from_elsewhere(settings=["lr=0.77"], seed=1),
    ):
        elsewhere["result"][key] += 1
        assert check(elsewhere, tmp_path, store).problems == ()


def test_what_a_memory_holds_of_photographs_may_change_with_the_order(tmp_path: Path) -> None:
    store, settings = RecordStore(tmp_path / "records"), ["alignment=null", "memory={}"]
    store.write(Record(**of_a_cell(settings=settings)))
    theirs = of_a_cell(1994, settings)
    theirs["result"]["bytes_kept"] += 1
    assert check(theirs, tmp_path, store).problems == ()
    theirs["result"]["trained_parameters"] += 1
    assert "result.trained_parameters is 1235" in check(theirs, tmp_path, store).problems[0]


def test_entropy_is_bounded_by_the_classes_of_its_experience(tmp_path: Path) -> None:
    document = from_elsewhere(stream="split-quickdraw-uneven")
    epochs = document["result"]["config"]["epochs"]
    document["result"]["entropy"][-epochs - 1 :] = [1.75] + [1.38] * epochs  # ln 6 = 1.792, ln 4 = 1.386
    assert check(document, tmp_path).problems == ()
    document["result"]["entropy"][-1] = 1.75
    assert "over 4 classes it is 1.3863 at most" in check(document, tmp_path).problems[0]


def test_the_order_of_a_data_set_is_one_for_all_seeds(tmp_path: Path) -> None:
    document = of_a_cell(settings=["seeding=initialisation"])
    document["result"]["class_order"] = list(range(100))
    assert check(document, tmp_path).problems == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{\n", "is not JSON"),
        ("[1]\n", "the record is"),
        ("NaN\n", "the record is"),
        ("{}", "is cut short, its last line is incomplete"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_record_is_named_as_a_store_does(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    if content is not None:
        path.write_text(content)
    (problem,) = submission.check(path).problems
    assert message in problem
    if content is not None:
        assert RecordStore(tmp_path).load()[1][0].reason == problem


@pytest.mark.parametrize(
    ("document", "note"),
    [
        (partial(from_elsewhere, "slca.main.slca"), "under the name of one of ours: slca.main.slca is this project's"),
        (partial(from_elsewhere, settings=["lr=0.77"]), "lr=0.77 instead of"),
        (partial(from_elsewhere, seed=1000), "seed 1000 is one of those that choose hyper-parameters"),
        (partial(from_elsewhere, "slca.f3"), "turns the switch F3"),
        (
            partial(of_a_cell, settings=["lr=0.77"]),
            f"1 of {SLCA_CELL}: not made by the paper's protocol: lr=0.77 instead of 0.01",
        ),
    ],
)
def test_why_a_sound_record_is_not_shown(document: Callable[[], dict[str, Any]], note: str, tmp_path: Path) -> None:
    checked = check(document(), tmp_path)
    assert checked.problems == ()
    assert note in "\n".join(checked.notes)
    assert "; not shown on the leaderboard\n" in str(checked)


def test_a_recipe_on_a_stream_of_the_papers_is_not_shown(tmp_path: Path) -> None:
    document = of_a_cell()
    document["result"].update(recipe="slca", hyperparameters_from="given")
    checked = check(document, tmp_path)
    assert checked.problems == ()
    assert "on split-cifar100-10 only runs under the name of a published cell are" in checked.notes[0]


# --- records from outside ---


def document(record: Record) -> dict[str, Any]:
    return {"result": record.result, "provenance": record.provenance}


def test_what_a_maintainer_wants_to_know_of_a_record_from_outside(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "records")
    store.write(ours())
    store.write(theirs(seed=2, settings=["lr=0.77"]))
    record = theirs(settings=["lr=0.77"])
    checked = check(document(record), tmp_path, store)
    assert (checked.problems, checked.notes) == ((), ())
    assert f"theirs.json: sound; copy it to {checked.place}; shown on the leaderboard, marked\n" in str(checked)
    assert checked.facts == (
        "external: their-method is no recipe of this project",
        "plugins[0]: their_pkg.method:Their(rate=0.5), source abababababab; not imported, not run here",
        f"base: slca, with lr=0.77 instead of {RECIPES['slca'].config.lr}",
        "starting weights: those of slca",
        "1,433,316 trained parameters, 6,604,800 bytes kept; slca on record: the same",
        "hyper-parameters: given, as the record states",
        "seeds of this configuration beside it: 2 (0, 2); 1 of 0 to 2 missing",
    )
    record.result.update(bytes_kept=7, hyperparameters_from="validation", weights_sha256="0" * 64)
    changed = check(document(record), tmp_path)
    assert "starting weights: others than those of slca" in changed.facts
    assert any(note.startswith("other starting weights than its base's") for note in changed.notes)
    assert "hyper-parameters: validation, as the record states; how they were chosen is not in it" in changed.facts
    assert "7 bytes kept; slca has no record on split-quickdraw-10 to compare them with" in str(changed)


def test_what_is_shown_of_outside_is_what_the_board_shows(tmp_path: Path) -> None:
    for number, record in enumerate(
        (
            theirs(),
            theirs("mine", settings=["lr=0.77"], external=None),
            on_own_images(),
            theirs(weights_sha256="0" * 64),
        )
    ):
        checked = check(document(record), tmp_path)
        store = RecordStore(tmp_path / str(number))
        store.write(ours())
        store.write(record)
        write(store, tmp_path / "pages", ["csv"])
        name = "birds.csv" if "own_stream" in record.result else "embedded.csv"
        page = tmp_path / "pages" / name
        assert (f",{record.recipe}," in page.read_text()) == (not checked.notes), checked


def test_a_recipe_of_other_settings_alone_is_held_against_the_closest_one(tmp_path: Path) -> None:
    checked = check(document(theirs("mine", settings=["lr=0.77"], external=None)), tmp_path)
    assert "no code from outside: it differs from our recipes in settings alone" in checked.facts
    lr = RECIPES["slca"].config.lr
    assert f"closest recipe of ours, as it states no base: slca, with lr=0.77 instead of {lr}" in checked.facts


@pytest.mark.parametrize(
    ("external", "fact"),
    [
        ({"base": "derpp", "plugins": [PLUGIN]}, "it names the base 'derpp', which is no recipe here"),
        ({"base": "../../etc", "plugins": [PLUGIN]}, "it names the base '../../etc', which is no recipe here"),
        ({"plugins": [PLUGIN]}, "it names no base: which settings it changes cannot be said"),
    ],
)
def test_a_base_that_is_not_here_is_said(external: dict[str, Any], fact: str, tmp_path: Path) -> None:
    assert fact in "\n".join(check(document(theirs(external=external)), tmp_path).facts)


def test_a_backbone_from_outside_is_a_setting_that_differs(tmp_path: Path) -> None:
    record = theirs(external={"base": "slca", "backbone": PLUGIN}, weights_sha256="7" * 64)
    checked = check(document(record), tmp_path)
    facts = "\n".join(checked.facts)
    assert checked.problems == ()
    assert "base: slca, with backbone=their_pkg.method:Their instead of quickdraw_vit" in facts
    assert "of a backbone from outside" in facts


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (partial(theirs, "slca"), "it goes by the name of our recipe slca, but takes code from outside"),
        (partial(theirs, "slca", settings=["lr=0.77"], external=None), "It is no run of our slca"),
        (partial(theirs, "Slca"), "its name is slca's but for case"),
        (partial(on_own_images, "slca", external={"base": "slca", "plugins": [PLUGIN]}), "not passed off as ours"),
    ],
)
def test_what_goes_by_our_name_is_not_passed_off_as_ours(
    record: Callable[[], Record], said: str, tmp_path: Path
) -> None:
    checked = check(document(record()), tmp_path)
    assert checked.problems == ()
    assert "; not shown on the leaderboard\n" in str(checked)
    assert said in str(checked)


def test_a_stream_of_ones_own_is_described_and_not_vouched_for(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "records")
    store.write(on_own_images("slca"))
    own = {"sizes": [10] * 9 + [6, 4], "train_counts": [80] * 11, "split": {"seed": 3, "test": 0.2}}
    shape = {key: ours("slca", "split-quickdraw-uneven").result[key] for key in UNEVEN}
    record = on_own_images(own_stream=own, **shape)
    checked = check(document(record), tmp_path, store)
    assert (checked.problems, checked.notes) == ((), ())
    assert (
        "stream birds: somebody's own, 100 classes in 11 experiences (9 x 10 + 6 + 4), a folder of images, split by "
        "seed 3, test 0.2; its 880 training and 2,000 test images (SHA-256 111111111111) cannot be checked here"
    ) in checked.facts
    assert "class order: that of the seed" in checked.facts
    assert "slca on record: the same" in str(checked)

    made = own | {"made_by": PLUGIN}
    checked = check(document(on_own_images(own_stream=made, **shape | {"class_order": list(range(7, 107))})), tmp_path)
    assert checked.problems == ()
    assert "class order: not the seed's" in checked.facts
    assert "stream: their_pkg.method:Their(rate=0.5), source abababababab; not imported, not run here" in checked.facts


def test_an_experience_of_classes_that_come_back_brings_none_and_has_entropy(tmp_path: Path) -> None:
    own = {"sizes": [98, 2, *[0] * 8], "train_counts": [80] * 10, "made_by": PLUGIN}
    record = on_own_images("slca", own_stream=own)
    record.result["entropy"] = [1.5] * len(record.result["entropy"])
    assert not [problem for problem in check(document(record), tmp_path).problems if "entropy" in problem]
    record.result["entropy"][-1] = 4.7  # above log 100
    (problem,) = (problem for problem in check(document(record), tmp_path).problems if "entropy" in problem)
    assert "over 100 classes it is 4.6052 at most" in problem


UNEVEN = ("accuracy", "accuracy_task_known", "correct", "test_counts", "entropy", "train_loss", "class_order")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"stream": "split-quickdraw-10"}, "split-quickdraw-10 is a stream of this project"),
        ({"stream": "Split-CIFAR100-10"}, "split-cifar100-10 is a stream of this project"),
        ({"own_stream": {"sizes": [50] * 2, "train_counts": [80] * 2}}, "birds has 2 experiences"),
        ({"own_stream": {"sizes": [9] * 10, "train_counts": [80] * 10}}, "no permutation of the 90 classes of birds"),
        ({"class_order": list(range(100))}, "not the one of seed 0"),
        (
            {"class_order": [3, 5], "own_stream": {"sizes": [10] * 10, "train_counts": [80] * 10, "made_by": PLUGIN}},
            "result.class_order has 2 classes: birds has 100",
        ),
        ({"data_sha256": downstream().sha256}, "data_sha256 is that of this project's drawings"),
        ({"own_stream": {"sizes": [10] * 10}}, "result.own_stream is"),
    ],
)
def test_what_cannot_be_of_a_stream_of_ones_own_is_named(changed: dict[str, Any], problem: str, tmp_path: Path) -> None:
    theirs = document(on_own_images())
    theirs["result"].update(changed)
    assert problem in "\n".join(check(theirs, tmp_path).problems)


def test_settings_of_another_version_are_refused_by_name(tmp_path: Path) -> None:
    theirs_ = document(theirs())
    configured(warmup=3)(theirs_)
    assert "result.config is not one of this version: unknown setting 'warmup'" in check(theirs_, tmp_path).problems[0]


def test_text_of_others_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    hostile = "\x1b[2J\n" + "long" * 1000
    plugin = PLUGIN | {"path": f"{'p' * 5000}:C", "arguments": {hostile: hostile}}
    split = {"sizes": [10] * 10, "train_counts": [1] * 10, "split": {hostile: hostile}}
    records = [
        theirs(external={"base": hostile, "plugins": [plugin]}, settings=[f"backbone={hostile}"]),
        theirs("slca", settings=[f"backbone={hostile}"], external=None),
        on_own_images(own_stream=split, settings=[f"backbone={hostile}"], data_sha256=IMAGES),
    ]
    for record in records:
        lines = str(check(document(record), tmp_path)).split("\n")
        assert not any("\x1b" in line or line.startswith("long") or len(line) > 1100 for line in lines)


@pytest.mark.parametrize("path", ["a.b", "a:b\nc", "a:b;c", "<b>:x", "a:\x1b[31m", "..:..", "a..b:c", "1:2"])
def test_what_is_no_import_path_is_no_record(path: str, tmp_path: Path) -> None:
    record = document(theirs())
    configured(external={"base": "slca", "plugins": [PLUGIN | {"path": path}]})(record)
    assert check(record, tmp_path).problems
