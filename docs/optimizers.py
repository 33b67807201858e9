"""Which optimizers hold: docs/optimizers.md, out of what each of them really does.

    python docs/optimizers.py

Makes every optimizer of each collection, takes steps with it under a WeightRescaling, and writes down what
came of it; `python docs/speed.py` fills in what was measured. Needs the packages of the extra `test`, and no
accelerator.
"""

import functools
import importlib
import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

import decayfree

HERE = Path(__file__).parent
WIDTH = 110
# RAdam and its kin begin to move in the sixth.
N_STEPS = 7
INPUTS = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
Make = Callable[[nn.Module, decayfree.Invariance], Any]


@dataclass(frozen=True)
class Trial:
    """One optimizer: what makes it, and what else its steps want.

    Args:
        name: On the page.
        make: Of a model and what was found in it.
        closure: That makes gradients, or the loss only.
        graph: Whether gradients need one.
    """

    name: str
    make: Make
    closure: Literal["", "gradients", "loss"] = ""
    graph: bool = False

    def take_steps(self, *, rescaled: bool) -> str:
        """What went wrong, in words; nothing where all is well."""
        model = net()
        found = decayfree.Invariance.from_dict(found_once(), model)
        try:
            optimizer = self.make(model, found)
            if rescaled:
                decayfree.exempt_(optimizer, found)
                wrs = decayfree.WeightRescaling(optimizer, found)
            before = [one.weight.detach().clone() for one in found.parts().values()]
            getattr(optimizer, "train", bool)()  # of those that are free of a schedule
            for _ in range(N_STEPS):
                self._step(model, optimizer)
        except Exception as error:  # of whatever kind
            said = str(error).strip().splitlines()
            return f"{type(error).__name__}{': ' * bool(said)}{''.join(said[:1])}"
        if any(map(torch.equal, before, (one.weight for one in found.parts().values()))):
            return "a weight did not move"
        if not rescaled:
            return ""
        seen = wrs.check()
        if seen.largest > 1e-5 or wrs.n_steps != N_STEPS:
            return f"off the radius by {seen.largest:.1g} after {wrs.n_steps} steps of {N_STEPS}"
        return "; ".join(seen.problems)

    def _step(self, model: nn.Module, optimizer: Any) -> None:
        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            value = (model(INPUTS) - 1).square().mean()
            value.backward(create_graph=self.graph)
            return value

        if self.closure == "gradients":
            optimizer.step(loss)
            return
        value = float(loss())
        optimizer.step(*([lambda: value] if self.closure == "loss" else []))


def net() -> nn.Sequential:
    """Two weights without scale, of a size that 8-bit optimizers take for large."""
    torch.manual_seed(0)
    first = (nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU())
    return nn.Sequential(*first, nn.Linear(128, 64), nn.LayerNorm(64), nn.Linear(64, 4))


@functools.cache
def found_once() -> dict[str, Any]:
    """What is found in it, as a dictionary for every copy."""
    return decayfree.find_invariant(net(), INPUTS).to_dict()


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """What optimizers for matrices take."""
    return [parameter for parameter in model.parameters() if parameter.ndim == 2]


def muon_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Groups for those that use Muon for matrices, and something else for the rest."""
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [{"params": matrices(model), "use_muon": True}, {"params": vectors, "use_muon": False}]


def classes_of(module: Any) -> dict[str, type[Optimizer]]:
    """Public optimizers of a package, by name."""
    kinds = {name: one for name, one in vars(module).items() if inspect.isclass(one) and name[0] != "_"}
    names = sorted(kinds, key=str.lower)
    return {name: kinds[name] for name in names if issubclass(kinds[name], Optimizer) or "Wrapper" in name}


def by_class(kind: Any, **settings: Any) -> Make:
    """An optimizer of all parameters, with a learning rate of 0.01."""
    return lambda model, found: kind(model.parameters(), **{"lr": 0.01} | settings)


def of_torch() -> Iterator[Trial]:
    """torch.optim."""
    own: dict[str, Make] = {"Muon": lambda model, found: torch.optim.Muon(matrices(model), lr=0.01)}
    for name, kind in classes_of(torch.optim).items():
        if kind is not Optimizer:
            yield Trial(name, own.get(name, by_class(kind)), "gradients" if name == "LBFGS" else "")


def of_timm() -> Iterator[Trial]:
    """Every name of timm.optim.list_optimizers(), as its training script makes it, and Lookahead over one."""
    optim = importlib.import_module("timm.optim")

    def make(name: str) -> Make:
        settings = {"lr": 0.01, "weight_decay": 0.1}
        return lambda model, found: optim.create_optimizer_v2(model, name, **settings)

    for name in [*optim.list_optimizers(), "lookahead_adamw"]:
        yield Trial(name, make(name), graph=name == "adahessian")


def of_pytorch_optimizer() -> Iterator[Trial]:
    """Every optimizer that it says it supports, and those around another."""
    package = importlib.import_module("pytorch_optimizer")
    settings: dict[str, dict[str, Any]] = {
        "Ranger21": {"num_iterations": 10},
        "BSAM": {"num_data": 16},
        "AliG": {"max_lr": 0.01},
        "AdaShift": {"keep_num": 3},
    }
    closures: dict[str, Any] = {"AliG": "loss", "LBFGS": "gradients", "BSAM": "gradients"}
    own: dict[str, Callable[[Any], Make]] = {
        **dict.fromkeys(
            ("AdaGO", "AdaMuon", "DistributedMuon", "Muon", "MuonClip", "NorMuon"),
            lambda kind: lambda model, found: kind(muon_groups(model), lr=0.01),
        ),
        "AdamMini": lambda kind: lambda model, found: kind(model, lr=0.01),
        "SpectralSphere": lambda kind: lambda model, found: kind(matrices(model), lr=0.01),
        # Which says initial_lr of its groups, so that they cannot be divided any more.
        "FlashAdamW": lambda kind: lambda model, found: kind(decayfree.split_params(model, found), lr=0.01),
        **dict.fromkeys(
            ("Lookahead", "OrthoGrad", "TRAC", "ScheduleFreeWrapper"),
            lambda kind: lambda model, found: kind(torch.optim.AdamW(model.parameters(), lr=0.01)),
        ),
    }
    kinds = [package.load_optimizer(name) for name in package.get_supported_optimizers()]
    kinds = [kind for kind in kinds if "LOMO" not in kind.__name__]  # told of below
    around = [package.Lookahead, package.OrthoGrad, package.TRAC, package.ScheduleFreeWrapper]
    for kind in [*sorted(kinds, key=lambda one: one.__name__.lower()), *around]:
        name = kind.__name__
        said = {"lr": 0.01} | settings.get(name, {})
        said = {key: one for key, one in said.items() if key in inspect.signature(kind).parameters}
        make = own[name](kind) if name in own else functools.partial(_of_all, kind, said)
        yield Trial(name, make, closures.get(name, ""), graph=name in ("AdaHessian", "SophiaH"))


def _of_all(kind: Any, settings: dict[str, Any], model: nn.Module, found: decayfree.Invariance) -> Any:
    return kind(model.parameters(), **settings)


def of_heavyball() -> Iterator[Trial]:
    """All of its classes, uncompiled."""
    package = importlib.import_module("heavyball")
    package.utils.compile_mode = None
    own: dict[str, Make] = {
        "SAMWrapper": lambda model, found: package.SAMWrapper(
            model.parameters(), wrapped_optimizer=package.AdamW(model.parameters(), lr=0.01)
        ),
        "SplitOpt": lambda model, found: package.SplitOpt(
            [{"params": list(model.parameters()), "optimizer": package.AdamW, "lr": 0.01}]
        ),
    }
    for name, kind in classes_of(package).items():
        if name in package.__all__:
            yield Trial(name, own.get(name, by_class(kind)), "gradients" if name == "SAMWrapper" else "")


def of_schedulefree() -> Iterator[Trial]:
    """All of its classes."""
    for name, kind in classes_of(importlib.import_module("schedulefree")).items():
        if "Wrapper" in name:
            make = functools.partial(_around_sgd, kind)
            yield Trial(name, make)
        else:
            yield Trial(name, by_class(kind), "gradients" if "Closure" in name else "")


def _around_sgd(kind: Any, model: nn.Module, found: decayfree.Invariance) -> Any:
    return kind(torch.optim.SGD(model.parameters(), lr=0.01))


def of_prodigyopt() -> Iterator[Trial]:
    """Its one class."""
    yield Trial("Prodigy", by_class(importlib.import_module("prodigyopt").Prodigy, lr=1.0))


def of_bitsandbytes() -> Iterator[Trial]:
    """All of its classes, on the CPU, with all weights in 8 bits where it has them."""
    for name, kind in classes_of(importlib.import_module("bitsandbytes.optim")).items():
        takes = inspect.signature(kind).parameters
        settings = {"min_8bit_size": 256} if "min_8bit_size" in takes else {}
        yield Trial(name, by_class(kind, **settings, **({"momentum": 0.9} if "momentum" in takes else {})))


def of_torchao() -> Iterator[Trial]:
    """All of its classes, with all weights in few bits."""
    for name, kind in classes_of(importlib.import_module("torchao.optim")).items():
        if name == "CPUOffloadOptimizer":
            yield Trial(name, functools.partial(_offloaded, kind))
        else:
            yield Trial(name, by_class(kind, block_size=64))


def _offloaded(kind: Any, model: nn.Module, found: decayfree.Invariance) -> Any:
    return kind(model.parameters(), torch.optim.AdamW, lr=0.01)


COLLECTIONS: dict[str, Callable[[], Iterator[Trial]]] = {
    "torch": of_torch,
    "timm": of_timm,
    "pytorch_optimizer": of_pytorch_optimizer,
    "heavyball": of_heavyball,
    "schedulefree": of_schedulefree,
    "prodigyopt": of_prodigyopt,
    "bitsandbytes": of_bitsandbytes,
    "torchao": of_torchao,
}

INTRO = f"""
Every optimizer of these packages was made as it is by default, weights without scale were taken out of its
decay by `exempt_`, a `WeightRescaling` was put on it, and {N_STEPS} steps were taken on the CPU. It *holds*
where both weights moved in them, norms are on the radius to 1e-5, every step was counted, and `check()` has
no problem. Of the others a table has the error, and what they do without decayfree.
"""
OUTRO = (
    (
        "Schedule-free optimizers",
        """
        They keep three points: gradients are taken at y, steps at z, and x, what is to be used, averages z.
        The weight is y in their train mode, so that y is held; z is scaled by the same factors after every
        rescale, whatever `momentum` says, and x, which follows from both, with them.
        """,
        """
        The reason is x, which is what is used (`benchmarks/schedule_free.py`: digits of 8×8, 30 % of 900
        labels random, two layers of 64 with BatchNorm): with y alone held, z goes away from it, and x falls
        short of the radius. Three seeds are too few to say whether that matters for accuracy; their means:
        """,
        "<!-- schedule-free -->",
        "<!-- /schedule-free -->",
        """
        Known are the classes of schedulefree and pytorch_optimizer, but not their wrappers, nor those called
        Reference, nor heavyball's SFAdamW: there y alone is held. In the optimizer's eval mode the weight is
        x, which is shorter than the radius, and `check()` says so; go back to train mode before you train on.
        """,
    ),
    (
        "Not tried",
        """
        LOMO and AdaLOMO take their steps inside the backward pass, so that there is no step to follow. The
        optimizers of Apex, of DeepSpeed, and of Emerging-Optimizers, which needs Python 3.12.
        """,
    ),
)


def section(package: str) -> list[str]:
    """The lines about one package."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        return list(_section(package))


def _section(package: str) -> Iterator[str]:
    outcomes = {trial: trial.take_steps(rescaled=True) for trial in COLLECTIONS[package]()}
    holds = [trial.name for trial, outcome in outcomes.items() if not outcome]
    yield f"## {package} {version(package).partition('+')[0]}\n"
    yield from paragraph(f"{len(holds)} of {len(outcomes)} hold: {', '.join(holds)}.")
    rest: dict[tuple[str, str], list[str]] = {}
    for trial, outcome in outcomes.items():
        if outcome:
            alone = trial.take_steps(rescaled=False)
            is_same = alone.partition(":")[0] == outcome.partition(":")[0]
            said = "the same" if is_same else alone or "takes its steps"
            rest.setdefault((outcome, said), []).append(trial.name)
    if rest:
        yield "| does not | what it says | without decayfree |\n|---|---|---|"
        for (outcome, alone), names in rest.items():
            yield f"| {', '.join(names)} | {outcome.replace('|', '/')} | {alone} |"
        yield ""


def paragraph(text: str) -> list[str]:
    """Lines of prose, and an empty one."""
    words = " ".join(text.split())
    return [*textwrap.wrap(words, WIDTH, break_long_words=False, break_on_hyphens=False), ""]


def written() -> str:
    """The whole page, without what docs/speed.py puts between marks."""
    sections = [line for package in COLLECTIONS for line in section(package)]
    return "\n".join([*intro(), *sections, *outro()]).rstrip() + "\n"


def intro() -> list[str]:
    """What stands before the packages."""
    return ["# Optimizers\n", "<!-- Written by `python docs/optimizers.py`. -->\n", *paragraph(INTRO)]


def outro() -> list[str]:
    """What stands behind them."""
    lines = []
    for title, *texts in OUTRO:
        lines += [f"## {title}\n", *(line for text in texts for line in paragraph(text))]
    return lines


if __name__ == "__main__":
    (HERE / "optimizers.md").write_text(written(), encoding="utf-8")
