"""The command line: ``demo`` trains and draws, ``inspect`` shows what is scale-invariant in a model.

It computes nothing itself. Exit code 0 where what was asked was done, 1 where a run failed, 2 where the
request cannot be met, 130 after Ctrl-C.
"""

import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from decayfree.cli.doctor import doctor
from decayfree.cli.options import (
    FAILED,
    FORMS,
    ArgsOption,
    JobsOption,
    JsonOption,
    TokensOption,
    count,
    errors_told,
    flag,
    option,
    print_json,
)
from decayfree.cli.study import app as study_app
from decayfree.cli.study_progress import as_typed, require, run_and_report
from decayfree.cli.watch import watch
from decayfree.errors import DecayFreeError, InvalidInputError, faults_of, raise_all
from decayfree.optimizers import settling

# torch is there by now: it comes with the package. Everything else that is heavy is imported by the command
# that needs it.
if TYPE_CHECKING:
    from torch import Tensor, nn

    from decayfree.theory.check import Check

# Names that may be given.
Data = Literal["digits", "fashion-mnist"]
Schedule = Literal["constant", "cosine", "linear", "step"]

app = typer.Typer(
    name="decayfree",
    help="Train networks with normalization layers without weight decay.",
    epilog="For a start: decayfree demo, or decayfree inspect ./model.py:Net --input 4,3,64,64",
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(study_app, name="study")


def main() -> None:
    """Run the command line."""
    app(prog_name="decayfree")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"decayfree {version('decayfree')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, option("", "Show the version and exit.", "--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    context: typer.Context,
    data: Annotated[Data, typer.Option(help="Images to train on.")] = "digits",
    data_dir: Annotated[
        Path | None,
        option("DIR", "Folder with Fashion-MNIST's four idx files; found by itself where Debian puts them."),
    ] = None,
    download: Annotated[bool, flag("--download", "Fetch Fashion-MNIST if it is not here.")] = False,
    seeds: Annotated[int, count("Runs of each method.")] = 5,
    epochs: Annotated[int | None, count("Passes over the training images, instead of the default.")] = None,
    width: Annotated[int | None, count("Channels of the first stage, instead of the default.")] = None,
    out: Annotated[Path, option("DIR", "Folder for the results and the page.")] = Path("demo"),
    jobs: JobsOption = 2,
) -> None:
    """Train a small network by five ways to treat norms and write one page, report.html.

    The ways: no decay, two coefficients of weight decay, learning-rate scaling, weight rescaling. The images
    are real: the 1,797 digits that come with scikit-learn, or Fashion-MNIST. Ctrl-C stops; the same command
    goes on from there.
    """
    with errors_told():
        require("the demo", "scikit-learn", "jinja2")
        from decayfree.study.demo import demo_spec

        spec = demo_spec(
            data=data, data_dir=data_dir, download=download, seeds=seeds, epochs=epochs, width=width
        )
        code = run_and_report(spec, out, n_jobs=jobs, same_command=as_typed(context))
    raise typer.Exit(code)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{FORMS}.")],
    input: Annotated[
        list[str],
        option("SHAPE", "Shape of a random input, as in 4,3,64,64; once for each input.", "--input"),
    ],
    arg: ArgsOption = None,
    tokens: TokensOption = None,
    include: Annotated[
        list[str] | None, option("PATTERN", "Show only weights that this pattern matches; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, option("PATTERN", "Leave out weights that this pattern matches; may be repeated.")
    ] = None,
    seed: Annotated[int, option("N", "Seeds the weights, the inputs and the probe.")] = 0,
    everything: Annotated[bool, flag("--all", "Every weight and parameter, nothing cut.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which weights of a model are scale-invariant, and why the others are not.

    The model is built with random weights, in train mode; nothing is downloaded. A file or a module in the
    current directory can be named: it is imported, so that its code runs.
    """
    with errors_told(DecayFreeError):
        from decayfree.invariance.discovery import find_invariant

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            built, inputs = _named(model, input, arg, tokens=tokens, seed=seed)
            found = find_invariant(built, inputs, include=include, exclude=exclude or (), seed=seed)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            typer.echo(f"Warning: {warning.message}", err=True)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(found.table(everything=everything))


app.command()(watch)
app.command()(doctor)


@app.command()
def recipe(
    optimizer: Annotated[str, option("NAME", f"One of {', '.join(settling())}; adam is the one with L2.")],
    lr: Annotated[float, option("X", "Learning rate where its schedule is 1.")],
    weight_decay: Annotated[float, option("X", "Weight decay, as the optimizer takes it.")],
    momentum: Annotated[float | None, option("X", "Of SGD.")] = None,
    nesterov: Annotated[bool, flag("--nesterov", "Of SGD.")] = False,
    dampening: Annotated[float | None, option("X", "Of SGD.")] = None,
    decoupled: Annotated[bool, flag("--decoupled", "Of SGD: decay the weight, not the gradient.")] = False,
    betas: Annotated[str | None, option("X,X", "Of the others, as in 0.9,0.999.")] = None,
    steps: Annotated[int | None, count("Length of the training, in optimizer steps.")] = None,
    steps_per_epoch: Annotated[int | None, count("Optimizer steps that go once through the data.")] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="Of the learning rate; constant without.")] = None,
    warmup_steps: Annotated[int | None, count("Steps in which it grows from 0.", least=0)] = None,
    last_share: Annotated[
        float | None, option("X", "Share of the full rate where cosine and linear end, 0 without.")
    ] = None,
    drops: Annotated[
        str | None, option("N,N", "Steps at which step is smaller; without, after 1/2 and 3/4.")
    ] = None,
    drop_factor: Annotated[float | None, option("X", "What step multiplies with, 0.1 without.")] = None,
    fan_in: Annotated[str | None, option("N,N", "Weights in a row, for radii without a model.")] = None,
    gradient_norm: Annotated[
        float | None, option("X", "Norm of gradient times norm of weight, for sgd and adam.")
    ] = None,
    model: Annotated[str | None, option("MODEL", f"{FORMS}.")] = None,
    input: Annotated[
        list[str] | None, option("SHAPE", "Shape of a random input for the model.", "--input")
    ] = None,
    arg: ArgsOption = None,
    tokens: Annotated[int | None, count("Make the inputs whole numbers below this.")] = None,
    as_json: Annotated[bool, flag("--json", "Print JSON instead of text.")] = False,
) -> None:
    """Say what a recipe with weight decay implies, and how to do the same without.

    How far weights turn in a step and for how long they remember a direction, which is what decay decides,
    and the norms that it settles at. For adamw and lion these follow from the settings. For sgd and adam they
    depend on how large gradients are, which only your own training tells; then it prints how to measure
    that, or takes a number.
    """
    with errors_told(DecayFreeError):
        from decayfree.cli.recipe import implied
        from decayfree.invariance.discovery import find_invariant

        said = implied(
            optimizer,
            lr=lr,
            weight_decay=weight_decay,
            betas=betas,
            of_sgd={
                "momentum": momentum,
                "nesterov": nesterov,
                "dampening": dampening,
                "decoupled": decoupled,
            },
            n_steps=steps,
            steps_per_epoch=steps_per_epoch,
            of_schedule={
                "shape": schedule,
                "n_warmup_steps": warmup_steps,
                "last_share": last_share,
                "drops": drops,
                "drop_factor": drop_factor,
            },
            fan_ins=fan_in,
            gradient_norm=gradient_norm,
            find=None
            if model is None
            else lambda: find_invariant(*_named(model, input or [], arg, tokens=tokens, seed=0)),
            faults=_apart("--model and --input", "--model torchvision:resnet18", model, input),
        )
    if as_json:
        print_json(said.to_dict())
    else:
        typer.echo(said.text())


def _apart(names: str, example: str, model: str | None, shapes: list[str] | None) -> list[str]:
    """What is wrong where a model or its input was given without the other."""
    together = (model is None) == (not shapes)
    return [] if together else [f"{names} go together: {example} --input 4,3,64,64"]


def _named(
    model: str, shapes: list[str], args: list[str] | None, *, tokens: int | None, seed: int
) -> "tuple[nn.Module, tuple[Tensor, ...]]":
    """The model that is asked for, and random inputs for it."""
    from decayfree.cli.named_models import build_named, random_input

    inputs = tuple(
        random_input(shape, n_tokens=tokens, seed=seed + index) for index, shape in enumerate(shapes)
    )
    return build_named(model, seed=seed, args=args or ()), inputs


@app.command()
def verify(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help=f"{FORMS}; a small network on scanned digits without it."),
    ] = None,
    input: Annotated[
        list[str] | None,
        option("SHAPE", "Shape of a random input for MODEL, as in 4,3,64,64.", "--input"),
    ] = None,
    arg: ArgsOption = None,
    tokens: TokensOption = None,
    steps: Annotated[int, count("Length of each short training of MODEL.", least=2)] = 6,
    seed: Annotated[int, option("N", "Seeds weights, inputs and batches.")] = 0,
    explain: Annotated[bool, flag("--explain", "Say of each statement what was done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the statements of theory by measuring them, each with its tolerance; exit code 1 where one fails.

    Without MODEL all of them, on a small network that trains on real digits. With MODEL those that make sense
    on any model, on random inputs and targets, in float64.
    """
    checks: list[Check] = []
    console, began_s = Console(stderr=True), time.perf_counter()
    with errors_told(DecayFreeError):
        apart = _apart("MODEL and --input", "decayfree verify torchvision:resnet18", model, input)
        raise_all(faults_of(InvalidInputError, apart))
        with console.status("measuring") as status:
            for check in _checks(model, input or [], arg, tokens=tokens, n_steps=steps, seed=seed):
                checks.append(check)
                status.update(f"measuring: {len(checks)} statements done")
    passed = all(check.passed for check in checks)
    if as_json:
        print_json({"passed": passed, "checks": [check.to_dict() for check in checks]})
    else:
        _show_checks(checks, time.perf_counter() - began_s, explain=explain)
    if not passed:
        raise typer.Exit(FAILED)


def _checks(
    model: str | None,
    shapes: list[str],
    args: list[str] | None,
    *,
    tokens: int | None,
    n_steps: int,
    seed: int,
) -> "Iterator[Check]":
    from decayfree.theory.verification import verify, verify_model

    if model is None:
        from decayfree.cli.verify import tinted_digits

        return verify(*tinted_digits(), seed=seed)
    return verify_model(*_named(model, shapes, args, tokens=tokens, seed=seed), n_steps=n_steps, seed=seed)


def _show_checks(checks: "list[Check]", elapsed_s: float, *, explain: bool) -> None:
    from decayfree.cli.verify import SOURCES, notes, summary, table, what_does_not_apply

    console = Console()
    console.print(table(checks, console.width))
    said = [f"Does not apply. {escape(reason)}" for reason in what_does_not_apply(checks)]
    said += [f"\\[{number}] {escape(note)}" for number, note in enumerate(notes(checks), start=1)]
    said.append(escape(SOURCES))
    for check in checks:
        if explain or check.verdict == "fails":
            said.append(f"{escape(check.statement)}\n  {check.verdict}: {escape(check.sentence)}")
            if check.is_applicable:
                said[-1] += f"\n  residual {check.residual:.1e}, tolerance {check.tolerance:.0e}"
    for paragraph in (*said, summary(checks, elapsed_s)):
        console.print(f"\n{paragraph}", highlight=False)
