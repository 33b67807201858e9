"""The commands ``decayfree study new | schema | run | list | show | report | tune``: studies by file or name.

It computes nothing itself. Exit codes are those of the other commands: 0, 1 where a run failed, 2 where the
request cannot be met, 130 after Ctrl-C.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from decayfree.cli.completion import studies_named
from decayfree.cli.options import INTERRUPTED, JobsOption, JsonOption, count, errors_told, flag, option
from decayfree.cli.study_new import new, schema
from decayfree.cli.study_progress import (
    as_typed,
    require,
    run_and_report,
    say_how_to_go_on,
    show_page,
    tell_differing,
    tell_failed,
    tell_left_out,
    tell_own,
    watching,
)
from decayfree.cli.study_tables import follow_runs, list_builtin, list_runs, tuned_budgets, tuned_table
from decayfree.errors import InvalidInputError, closest

if TYPE_CHECKING:
    from decayfree.study.search.tuning import TuneOutcome
    from decayfree.study.spec.study_spec import StudySpec

app = typer.Typer(
    help="Run studies: methods, optimizers and networks side by side, with seeds; a file says which.",
    epilog="For a start: decayfree study list, and decayfree study run figure1",
    rich_markup_mode="markdown",
    no_args_is_help=True,
)
app.command()(new)
app.command()(schema)

_LOOK_AGAIN_AFTER_S = 2.0
Size = Literal["small", "paper"]
Format = Literal["csv", "json", "latex", "markdown"]
Named = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE",
        help="A built-in study, or a TOML file; see docs/studies.md.",
        autocompletion=studies_named,
    ),
]
SizeOption = Annotated[
    Size | None,
    typer.Option(
        help="Of a built-in study: small is Fashion-MNIST on two cores, paper is CIFAR-10 on a GPU.",
        show_default="small",
    ),
]
DeviceOption = Annotated[str | None, option("NAME", "Where to train instead: cpu, cuda, cuda:1.")]
SeedsOption = Annotated[int | None, count("So many seeds, from 0, instead of the study's.")]
DataDirOption = Annotated[Path | None, option("DIR", "Folder with the images.")]
RayOption = Annotated[str | None, option("ADDRESS", "Train on this Ray cluster instead: auto, or HOST:PORT.")]


@app.command()
def run(
    context: typer.Context,
    study: Named,
    out: Annotated[
        Path | None, option("DIR", "Folder for results and page.", show_default="named after the study")
    ] = None,
    size: SizeOption = None,
    device: DeviceOption = None,
    seeds: SeedsOption = None,
    data_dir: DataDirOption = None,
    jobs: JobsOption = 2,
    ray: RayOption = None,
) -> None:
    """Run a study and write its page, report.html; in a folder where it has begun, go on with what is left.

    Runs are kept by their settings: a changed spec runs only what is new. Ctrl-C, a crash or a power cut
    loses no more than the steps since a run's last checkpoint.
    """
    with errors_told():
        require("a study", "scikit-learn", "scipy", "jinja2")
        from decayfree.study.runner.growing import grown

        spec = _spec(study, size=size, device=device, seeds=seeds, data_dir=data_dir)
        folder = out or Path(Path(study).stem)
        tell_own(spec)
        _look_for_data(spec, on_cluster=ray is not None)
        _tell_what_is_there(grown(spec, folder), folder)
        code = run_and_report(spec, folder, n_jobs=jobs, same_command=as_typed(context), ray_address=ray)
    raise typer.Exit(code)


@app.command("list")
def list_(
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="Folder of a study; without it, the built-in studies.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
    live: Annotated[
        bool, flag("--live", "Draw it anew every two seconds, until all runs have ended.")
    ] = False,
) -> None:
    """Show the runs of a study, what failed and why, and the time left; without DIR, the built-in studies.

    Curves are of test scores, each from its own least to its own most, and the number is the last, in %.
    """
    with errors_told():
        if live and (out is None or as_json):
            raise InvalidInputError("--live draws the runs in DIR, and is not for JSON")
        if out is None:
            list_builtin(as_json=as_json)
        else:
            from decayfree.study.files.status import study_status
            from decayfree.study.spec.study_spec import StudySpec

            if live:
                follow_runs(out, Console(), _LOOK_AGAIN_AFTER_S)
            status, spec = study_status(out), StudySpec.load(out / "study.toml")
            list_runs(spec, status, as_json=as_json)
            tell_left_out(out, spec)
            tell_differing(out, spec)


@app.command()
def show(
    study: Named,
    size: SizeOption = None,
    resolved: Annotated[bool, flag("--resolved", "Write every setting out, defaults included.")] = False,
) -> None:
    """Print a study as TOML, with the claims it is held against: a start for a file of your own.

    Of a file it says what code of its author's runs when the study is run, and runs none.
    """
    from decayfree.study.builtin.specs import BUILTIN, builtin_text

    with errors_told():
        spec = _spec(study, size=size, device=None, seeds=None, data_dir=None)
        is_file = study not in BUILTIN
        text = Path(study).read_text(encoding="utf-8") if is_file else builtin_text(study, size or "small")
    tell_own(spec)
    typer.echo(spec.to_toml() if resolved else text, nl=False)


@app.command()
def report(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study.")],
    reference: Annotated[
        str | None,
        option("METHOD", "Compare the others with this method, by its name, such as weight_decay."),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(help="Print a table instead: csv and json with all digits, latex with booktabs."),
    ] = None,
    table: Annotated[
        str,
        option("NAME", "Which: comparisons, settings, runs, rows, weights, or another of the page's."),
    ] = "comparisons",
    file: Annotated[Path | None, option("FILE", "Write the table there instead.", "--out")] = None,
) -> None:
    """Write a study's page, report.html, and print its main table; runs that are not done are left out.

    With --format it is one table of its numbers, for a spreadsheet, a paper or a script.
    """
    with errors_told():
        if format is None and (file is not None or table != "comparisons"):
            raise InvalidInputError("--table and --out are for a table: say in which --format")
        require("the page", "scipy", "jinja2")
        from decayfree.study.files.results import spec_in

        spec = spec_in(out)
        if format is None:
            show_page(out, Console(), reference=reference)
        else:
            _write_table(out, format, table, reference, file)
        tell_left_out(out, spec)
        tell_differing(out, spec)


def _write_table(
    out: Path,
    format: Format,
    table: str,
    reference: str | None,
    file: Path | None,
) -> None:
    from decayfree.report.written import written
    from decayfree.study.disk import replace_text
    from decayfree.study.files.results import read_study

    text = written(read_study(out), format, table, reference)
    if file is None:
        typer.echo(text, nl=False)
    else:
        replace_text(file, text)


@app.command()
def tune(
    context: typer.Context,
    study: Named,
    trials: Annotated[int, count("Trials of each method; more go on from there.")],
    out: Annotated[
        Path | None,
        option("DIR", "Folder for the trials and best.toml.", show_default="named after the study"),
    ] = None,
    method: Annotated[
        list[str] | None, option("NAME", "Search for this method only; may be repeated.")
    ] = None,
    lr: Annotated[
        str | None,
        option("X,X", "Search between these.", show_default="a tenth and ten times the study's"),
    ] = None,
    weight_decay: Annotated[str, option("X,X", "Search between these.")] = "1e-5,1e-1",
    test_seeds: Annotated[int, count("Seeds in best.toml, none of them searched with.")] = 5,
    size: SizeOption = None,
    device: DeviceOption = None,
    seeds: SeedsOption = None,
    data_dir: DataDirOption = None,
    jobs: JobsOption = 2,
    ray: RayOption = None,
) -> None:
    """Search for learning rate and weight decay by validation accuracy, and write best.toml.

    best.toml is a study that tests what was found on new seeds. Optuna proposes; a trial is one ordinary run
    for each seed. Stopped or killed, the same command goes on and trains nothing twice.
    """
    with errors_told():
        from decayfree.study.search.tuning import Ranges
        from decayfree.study.search.tuning import tune as search

        spec = _spec(study, size=size, device=device, seeds=seeds, data_dir=data_dir)
        folder = out or Path(Path(study).stem)
        ranges = Ranges(None if lr is None else _range("--lr", lr), _range("--weight-decay", weight_decay))
        tell_own(spec)
        _look_for_data(spec, on_cluster=ray is not None)
        asked: dict[str, Any] = {"n_trials": trials, "methods": method, "n_test_seeds": test_seeds}
        if ray is not None:
            asked["ray_address"] = ray
        with watching(Console(), lambda progress: progress.label) as watch:
            outcome = search(spec, folder, ranges=ranges, n_jobs=jobs, **asked, **watch)
    raise typer.Exit(_show_tuned(outcome, folder, same_command=as_typed(context)))


def _spec(
    study: str, *, size: Size | None, device: str | None, seeds: int | None, data_dir: Path | None
) -> "StudySpec":
    """A built-in study by its name, or the study in a file."""
    from decayfree.study.builtin.specs import BUILTIN, adjusted, builtin_spec
    from decayfree.study.spec.study_spec import StudySpec

    folder = None if data_dir is None else str(data_dir.resolve())
    if study in BUILTIN:
        return builtin_spec(study, size or "small", device=device, seeds=seeds, data_dir=folder)
    path = Path(study)
    if not path.is_file():
        own = path / "study.toml"
        if own.is_file():
            raise InvalidInputError(
                f"{study} is the folder of a study, whose file is {own}: to go on there, add --out {study}"
            )
        raise InvalidInputError(
            f"{study} is neither a file nor a built-in study, which are {', '.join(BUILTIN)}"
            f"{closest(study, BUILTIN)}"
        )
    if size is not None:
        raise InvalidInputError(
            f"--size is for built-in studies; {study} is a file, which has a size of its own"
        )
    return adjusted(StudySpec.load(path), device=device, seeds=seeds, data_dir=folder)


def _look_for_data(spec: "StudySpec", *, on_cluster: bool) -> None:
    """Raise before anything runs if the images or the device are not there; a cluster looks for its own."""
    from decayfree.arguments.address import looking_in
    from decayfree.study.data.loading import load
    from decayfree.study.run_settings import library_of
    from decayfree.study.runner.own_check import check_own, try_model
    from decayfree.study.training.building import device_of

    check_own(spec, with_data=not on_cluster)
    if on_cluster:
        return
    recipes = {run.recipe for run in spec.runs()}
    for recipe in {recipe.device: recipe for recipe in recipes}.values():
        device_of(recipe)
    with looking_in(spec.source_dir):
        for task, data in {(recipe.task, recipe.data) for recipe in recipes}:
            load(data, spec.data_dir, task=task)
        for recipe in {(one.task, one.model, one.data): one for one in recipes}.values():
            if library_of(recipe.model.name):  # which may have no such network, or one for other images
                try_model(recipe, load(recipe.data, spec.data_dir, task=recipe.task))


def _tell_what_is_there(spec: "StudySpec", out: Path) -> None:
    """What becomes of the runs that a folder holds, where its spec differs from what is asked for now."""
    from decayfree.study.files.checkpoint import read_state
    from decayfree.study.files.results import run_directory
    from decayfree.study.runner.own_check import changed_sources

    for said in changed_sources(spec, out):
        typer.echo(
            f"Warning: {said}. They stay as they are, and the page says so: to compare like with like, put "
            "the source back, or use another folder.",
            err=True,
        )
    path = out / "study.toml"
    if not path.is_file() or path.read_bytes() == spec.to_toml().encode():
        tell_left_out(out, spec)
        return
    there = {folder.name for folder in (out / "runs").glob("*") if folder.is_dir()}
    wanted = {run.key for run in spec.runs()}
    n_done = sum(read_state(run_directory(out, key)) in ("done", "diverged") for key in wanted & there)
    elsewhere = _other_images(path, spec)
    if elsewhere and n_done:
        typer.echo(
            f"The {n_done} runs that are done saw the images in {elsewhere}, and those to come see those in "
            f"{spec.data_dir}: unless they are the same images, use another folder."
        )
    typer.echo(
        f"{out} holds another spec, which this one replaces: {n_done} of its {len(wanted)} runs are done "
        f"already. {len(there - wanted)} runs of the spec before are no part of it; they stay where they "
        "are, and the page leaves them out."
    )
    tell_left_out(out, spec)


def _other_images(path: Path, spec: "StudySpec") -> str | Path | None:
    """The folder of images that the spec in a file names, where it is another one."""
    from decayfree.study.spec.study_spec import SpecError, StudySpec

    try:
        before = StudySpec.load(path).data_dir
    except SpecError:
        return None
    return before if before != spec.data_dir else None


def _range(option: str, text: str) -> tuple[float, float]:
    """Two numbers with a comma between."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidInputError(f"{option}: expected two numbers such as 0.01,1; got {text!r}") from error
    return low, high


def _show_tuned(outcome: "TuneOutcome", out: Path, *, same_command: str) -> int:
    console = Console()
    if outcome.stopped_by is not None:
        if not outcome.stopped_by.interrupted:
            return tell_failed(outcome.stopped_by)
        say_how_to_go_on(console, f"{outcome.n_trials} trials are done", same_command)
        return INTERRUPTED
    console.print(tuned_table(outcome.searches))
    budgets = tuned_budgets(outcome.searches)
    if budgets:
        console.print(
            "What fewer of these trials, drawn at random, lead to in the mean, by validation:",
            highlight=False,
        )
        for sentence in budgets:
            console.print(f"  {escape(sentence)}", highlight=False)
    if outcome.left_out:
        names = ", ".join(outcome.left_out)
        console.print(
            f"Left out, since it replays another run at that run's settings: {names}", highlight=False
        )
    best = out if outcome.best_file is None else outcome.best_file
    console.print(
        "These are validation scores, and the best of many: too high. To test what was found, on new seeds:",
        highlight=False,
    )
    console.print(
        f"  decayfree study run {escape(str(best))} --out {escape(str(out))}", highlight=False, soft_wrap=True
    )
    return 0
