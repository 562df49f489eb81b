"""Studies: what a file says, as runs; whatever is wrong with one is named before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from reclaim.benchmark.cli import main
from reclaim.benchmark.papers.protocols import Protocol, protocol_of, run_names
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.studies import StudyError, is_study, read_study
from reclaim.benchmark.training.engines import Needs
from reclaim.benchmark.training.runtime import Setup
from small_runs import synthetic_record

STUDY = """
seeds = 2
needs.gpus = 0.5

[[runs]]
recipes = ["slca", "linear"]
streams = ["split-quickdraw-5", "split-quickdraw-10"]
settings.epochs = 1
needs.cores = 4

[[runs]]
recipes = ["linear"]
seeds = [7]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_runs_are_recipes_times_streams_times_seeds(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, STUDY))
    assert [str(job) for job in study] == [
        f"{recipe} split-quickdraw-{n} seed {seed}" for recipe in ("slca", "linear") for n in (5, 10) for seed in (0, 1)
    ] + ["linear split-quickdraw-10 seed 7"]
    assert list(study.values()) == 8 * [Needs(4, 0.5)] + [Needs(1, 0.5)]
    assert [job.config.epochs for job in study][:8] == 8 * [1]


def test_only_runs_on_photographs_get_their_folder(tmp_path: Path) -> None:
    text = """
        [[runs]]
        recipes = ["slca", "lite-slca"]

        [[runs]]
        recipes = ["slca"]
        streams = ["split-cifar10-5"]
        settings.backbone = "resnet50"
    """
    drawn, *photographed = read_study(write(tmp_path, text), Setup(root=tmp_path, weights=tmp_path / "w.pth"))
    assert drawn.setup.root is drawn.setup.weights is None
    assert [job.setup.root for job in photographed] == 2 * [tmp_path]
    assert [job.setup.weights for job in photographed] == 2 * [tmp_path / "w.pth"]


def test_all_cells_of_a_paper_are_one_line(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, '[[runs]]\npapers = ["slca"]\nseeds = 3\n'))
    covered = {run.replace("/", ".") for run in run_names() if isinstance(protocol_of(run), Protocol)}
    runs = {run for run in covered if run.startswith("slca.")}
    assert {job.recipe for job in study} == {run.rpartition(".")[0] for run in runs}
    assert len(study) == 3 * len({job.place[:3] for job in study}) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs = 3", "runs is 3: write tables"),
        ("[[runs]]\n", r"\[\[runs\]\] 1: name either recipes or papers"),
        ('[[runs]]\nrecipes = ["slca"]\npapers = ["slca"]', "name either recipes or papers"),
        ('[[runs]]\nrecipes = ["nothing"]', "nothing"),
        ('[[runs]]\nrecipes = ["slca"]\nstreams = ["nothing"]', "nothing"),
        ('[[runs]]\nrecipes = ["slca"]\nseeds = 0', "seeds is 0: write how many"),
        ('[[runs]]\nrecipes = ["slca"]\nseeds = 4000000000', "seeds is 4000000000: write how many.*at most 1000"),
        ('[[runs]]\nrecipes = ["slca"]\nseeds = [-1]', "seeds is .-1.: write how many"),
        ('[[runs]]\nrecipes = ["slca"]\nseed = 3', "unknown key 'seed'.*did you mean seeds"),
        ('[[runs]]\nrecipes = ["slca"]\nneeds.gpu = 3', "unknown key 'gpu'.*did you mean gpus"),
        ('[[runs]]\nrecipes = ["slca"]\nneeds.cores = 0', "cores must be above 0"),
        ('[[runs]]\nrecipes = ["slca"]\nneeds.gpus = nan', "gpus is nan"),
        ('[[runs]]\nrecipes = ["slca"]\nsettings.epoch = 1', "epoch"),
        ('[[runs]]\npapers = ["nobody"]', "there is no paper 'nobody': choose among"),
        ('[[runs]]\npapers = ["slca"]\nstreams = ["split-quickdraw-5"]', "leave out streams"),
        ("[[runs]]\nrecipes = []", r"recipes is \[\]: write a list of names"),
        ('[[runs]]\nrecipes = ["slca"]\nstreams = []', r"streams is \[\]: write a list of names"),
        ("[[runs]]\npapers = []", r"papers is \[\]: write a list of names"),
        ('[[runs]]\nrecipes = ["slca"]\nsettings.lr = 2024-01-01', r"\[\[runs\]\] 1: .*date"),
        ("[[runs]\n", "study.toml is not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=message):
        read_study(write(tmp_path, text))


def test_a_recipe_is_no_study(tmp_path: Path) -> None:
    assert is_study(write(tmp_path, STUDY))
    assert not is_study(write(tmp_path, 'base = "linear"\n'))
    assert not is_study(Path("slca"))


def test_the_command_says_how_far_it_is(tmp_path: Path) -> None:
    path, folder = write(tmp_path, STUDY), tmp_path / "records"
    status = ["run", str(path), "--status", "--records", str(folder)]
    said = CliRunner().invoke(main, status)
    assert said.exit_code == 0, said.output
    assert "9 runs: 0 done, 0 running, 0 failed, 9 waiting" in said.output
    assert "time left, one run after another: not known, no run is on record" in said.output
    job = list(read_study(path))[-1]
    record = synthetic_record(job.recipe, job.stream.name, job.seed, config=job.config)
    record.provenance["wall_seconds"] = 3600.0
    RecordStore(folder).write(record)
    said = CliRunner().invoke(main, status)
    assert "9 runs: 1 done, 0 running, 0 failed, 8 waiting" in said.output
    assert "time left, one run after another: " in said.output
    assert "not known" not in said.output


def test_a_finished_study_runs_nothing_and_has_a_table_for_each_configuration(tmp_path: Path) -> None:
    path, store = write(tmp_path, STUDY), RecordStore(tmp_path / "records")
    for job in read_study(path):
        store.write(synthetic_record(job.recipe, job.stream.name, job.seed, config=job.config))
    said = CliRunner().invoke(main, ["run", str(path), "--records", str(store.root)])
    assert said.exit_code == 0, said.output
    assert [line.split("  ")[0] for line in said.output.splitlines() if ", n = " in line] == [
        *(f"{recipe} on split-quickdraw-{n}, n = 2" for recipe in ("slca", "linear") for n in (5, 10)),
        "linear on split-quickdraw-10, n = 1",
    ]
    assert "9 runs: 9 done, 0 running, 0 failed, 0 waiting" in said.output


@pytest.mark.parametrize(
    "options",
    [
        ["--again"],
        ["--set", "epochs=1"],
        ["--stream", "a:b"],
        ["--seeds", "1"],
        ["--tasks", "5"],
        ["--split-seed", "0"],
        ["--precision", "bf16"],
        ["--micro-batch", "4"],
    ],
)
def test_options_that_a_study_has_itself_are_refused(options: list[str], tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["run", str(write(tmp_path, STUDY)), *options])
    assert said.exit_code == 2
    assert f"a study says itself which runs: leave out {options[0]}" in said.output


def test_an_address_is_of_a_ray_cluster(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["run", str(write(tmp_path, STUDY)), "--address", "auto"])
    assert said.exit_code == 2
    assert "--address auto is of a Ray cluster: add --engine ray" in said.output


@pytest.mark.parametrize(("options", "n_jobs"), [([], 1), (["--engine", "ray"], None), (["--jobs", "3"], 3)])
def test_ray_uses_the_whole_machine_whatever_the_device(
    options: list[str], n_jobs: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local engine makes one run at a time on an accelerator; Ray counts what each run needs."""
    asked: list[int | None] = []

    def run_study(
        needs: object, store: object, engine: str, jobs: int | None, address: str | None
    ) -> tuple[dict, dict]:  # type: ignore[type-arg]
        asked.append(jobs)
        return {}, {}

    monkeypatch.setattr("reclaim.benchmark.cli.run_study", run_study)
    CliRunner().invoke(
        main, ["run", str(write(tmp_path, STUDY)), "--device", "meta", "--records", str(tmp_path / "r"), *options]
    )
    assert asked == [n_jobs]


@pytest.mark.parametrize("options", [["--status"], ["--engine", "ray"], ["--address", "auto"]])
def test_options_of_studies_are_for_them(options: list[str]) -> None:
    said = CliRunner().invoke(main, ["run", "linear", *options])
    assert said.exit_code == 2
    assert "are for a STUDY.toml" in said.output
