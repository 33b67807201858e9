"""The tables of docs/speed.md, and of what other pages measured, out of what the benchmarks printed.

    python docs/speed.py

Reads benchmarks/kept/, and writes what stands between the marks. It states no figure of its own.
"""

import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KEPT = HERE.parent / "benchmarks" / "kept"
NUMBER = r"[+-]?\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Row:
    """One row of the first table.

    Args:
        title: What was measured.
        kept: The benchmark's file.
        lines: How its lines begin, those of all networks and kinds; the figure is the first number behind.
        shares: Printed as a share, told in percent.
    """

    title: str
    kept: str
    lines: tuple[str, ...]
    shares: bool = False

    def told(self) -> str:
        """The smallest and the largest figure of each kind of line, and what they should be."""
        text = (KEPT / f"{self.kept}.txt").read_text(encoding="utf-8")
        measured, aims = zip(*(self._of(line, text) for line in self.lines), strict=True)
        return f"| {self.title} | {'; '.join(measured)} | {'; '.join(dict.fromkeys(aims))} |"

    def _of(self, line: str, text: str) -> tuple[str, str]:
        found = re.findall(rf"^ *{line} +({NUMBER})(.*)$", text, flags=re.MULTILINE)
        aim = re.compile(rf"(?:target|at most|at least) ({NUMBER})")
        aims = {one for _, rest in found for one in aim.findall(rest) or [""]}
        if len(aims) != 1:
            raise ValueError(f"benchmarks/kept/{self.kept}.txt: aims of lines {line!r}: {sorted(aims)}")
        figures = sorted((number for number, _ in found), key=float)
        ends = dict.fromkeys(map(self._shown, (figures[0], figures[-1])))
        return " to ".join(ends), self._shown(aims.pop())

    def _shown(self, number: str) -> str:
        return f"{round(100 * float(number), 1):g} %" if number and self.shares else number or "none"


OF_ONE = "a sampled step adds, {}, ms .*\n +a sampled step adds, share of a step"
ROWS = (
    Row(
        "a rescale with `fused=True`, in in-place multiplies of each weight",
        "rescale",
        ("fused=True / one multiply of each",),
    ),
    Row(
        "... in one multiply of a single tensor of as many bytes",
        "rescale",
        ("fused=True / one multiply of one tensor",),
    ),
    Row(
        "... without it, all that its hooks do included, in naive loops",
        "rescale",
        ("the rescale with its hooks / a plain loop",),
    ),
    Row(
        "what it adds to a step, of what SGDP adds to SGD",
        "rescale",
        ("what WRS adds / what SGDP adds",),
    ),
    Row("... of what AdamP adds to AdamW", "rescale", ("what WRS adds / what AdamP adds",)),
    Row(
        "`find_invariant` at 64 pixels, batch 4, in training steps",
        "rescale",
        ("find_invariant / one training step, time",),
    ),
    Row(
        "... its peak memory, in a training step's",
        "rescale",
        ("find_invariant / one training step, peak memory",),
    ),
    Row(
        "... of networks of timm, batch 16, in training steps: median; all",
        "discovery",
        (r"median of \d+:", r"\S+ +batch +\d+, step +[\d.]+ s"),
    ),
    Row(
        "recording every 50 steps, share of training time (64 pixels, batch 16)",
        "recorder",
        ("... all of them together",),
        shares=True,
    ),
    Row(
        "... one sample, in training steps, with numba (`decayfree[fused]`)",
        "recorder",
        (OF_ONE.format("with numba"),),
    ),
    Row("... without numba", "recorder", (OF_ONE.format("without"),)),
    Row(
        "... memory that it adds, in copies of the recorded weights",
        "recorder",
        ("what recording adds to it, in such copies",),
    ),
    Row(
        "a study's training loop (VGG11-BN/8, batch 128), throughput over a bare loop",
        "study",
        ("throughput between samples, ours over bare",),
    ),
    Row(
        "... over Lightning's Trainer with torchvision's transforms; on the same tensors",
        "study",
        (
            "throughput, ours, augmented over Lightning, torchvision's transforms",
            "throughput, ours over Lightning, tensors",
        ),
    ),
    Row(
        "... two runs at a time over one, on two cores",
        "study",
        ("throughput, --jobs 2 over --jobs 1",),
    ),
    Row(
        "all of `decayfree.study` imported, seconds; torch alone",
        "study",
        (r"from decayfree.study import \*, s", "import torch, s"),
    ),
    Row("`decayfree --help`, in `import torch`s", "study", ("decayfree --help over import torch",)),
    Row("the page of 500 runs, seconds", "study", ("reading and drawing, s",)),
)
TRAINERS = {
    "plain": "a plain loop",
    "ddp": "DDP, two processes",
    "timm": "timm's loop",
    "lightning": "Lightning",
    "transformers": "transformers",
    "jax": "JAX: Flax and optax",
}


def first_table() -> str:
    """Rescaling, search, recording and studies."""
    return "\n".join(["| | measured | aim |", "|---|---|---|", *(row.told() for row in ROWS)])


def missed() -> str:
    """How many figures meet their aim, and which do not."""
    lines = [
        line for path in sorted(KEPT.glob("*.txt")) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    judged = [line for line in lines if re.search(r"\b(met|missed)\b", line)]
    out = [" ".join(line.split()) for line in judged if re.search(r"\bmissed\b", line)]
    told = f"{len(judged) - len(out)} of {len(judged)} figures that have an aim meet it"
    return "\n".join([f"{told}; these do not:\n" if out else f"{told}.", *(f"- `{line}`" for line in out)])


def trainers_table() -> str:
    """Whole steps in other people's trainers, and what decayfree's hooks take of them."""
    text = (KEPT / "trainers.txt").read_text(encoding="utf-8")
    parts = re.split(r"^(\w+): a bare step", text, flags=re.MULTILINE)[1:]
    rows = {
        name: re.findall(
            rf"(?:over bare, \d+ steps each|over without its hooks) +({NUMBER}(?: \[.*?\])?)", part
        )
        for name, part in zip(parts[::2], parts[1::2], strict=True)
    }
    heads = "| | rescaled, whole steps | ... its hooks | recorded, whole steps | ... its hooks |"
    cells = [
        f"| {title} | {' | '.join(rows[name] + ['–'] * (4 - len(rows[name])))} |"
        for name, title in TRAINERS.items()
    ]
    return "\n".join([heads, "|---|---|---|---|---|", *cells])


def methods_table() -> str:
    """What each method adds to a step, and what it keeps."""
    text = (KEPT / "methods.txt").read_text(encoding="utf-8")
    found = re.findall(
        rf"^(\w+(?:, [a-z ]+?)?) {{2,}}({NUMBER}) \[.*?\] +({NUMBER}) \[.*?\] +({NUMBER}) \[.*?\] +(\S.*)$",
        text,
        re.MULTILINE,
    )
    if len(found) != text.partition("kept, copies\n")[2].partition("\n\n")[0].strip().count("\n") + 1:
        raise ValueError("benchmarks/kept/methods.txt has rows that are not read")
    rows = [
        f"| {name} | {over} ({step} ms) | {update} ms | {size} |" for name, step, over, update, size in found
    ]
    head = "| method | whole step, over `none` | optimizer and hooks | kept, in copies of the weights |"
    return "\n".join([head, "|---|---|---|---|", *rows])


def searches_table() -> str:
    """Time against the number of weights."""
    text = (KEPT / "discovery.txt").read_text(encoding="utf-8")
    found = re.findall(rf"n = +(\d+) +({NUMBER}) M weights +({NUMBER}) s +({NUMBER}) s per M", text)
    rows = [f"| {int(n):,} | {millions} M | {seconds} | {per} |" for n, millions, seconds, per in found]
    return "\n".join(["| n | weights | seconds | seconds per million weights |", "|--:|--:|--:|--:|", *rows])


def networks() -> str:
    """What a search takes of networks of timm."""
    text = (KEPT / "discovery.txt").read_text(encoding="utf-8")
    steps = re.findall(rf"^ +(\S+) +batch +\d+, step +[\d.]+ s +({NUMBER}) steps", text, re.MULTILINE)
    (median,) = re.findall(rf"median of {len(steps)}: ({NUMBER}) steps", text)
    name, most = max(steps, key=lambda one: float(one[1]))
    return (
        f"Over {len(steps)} networks of timm at batch 16 it is {median} steps in the median, and {most}\n"
        f"at most (`{name}`), as [kept](../benchmarks/kept/discovery.txt)."
    )


def watching() -> str:
    """What watching ResNet-18 takes."""
    text = (KEPT / "span.txt").read_text(encoding="utf-8")
    return f"```text\n{text.partition(chr(10))[2].rstrip()}\n```"


def characters() -> str:
    """What came of the tiny character model."""
    text = (KEPT / "characters.txt").read_text(encoding="utf-8")
    (balance,) = re.findall(rf"decay at balance turns a matrix by ({NUMBER}) rad", text)
    found = re.findall(rf"^(\S.*?) +validation ({NUMBER}) nats a letter; (.*)$", text, re.MULTILINE)
    names = [part.rpartition(" ")[0] for part in found[0][2].split(", ")]
    heads = [f"{name}, rad" for name in names]
    rows = [
        f"| {arm} | {loss} | {' | '.join(part.rpartition(' ')[2] for part in told.split(', '))} |"
        for arm, loss, told in found
    ]
    head = f"| | validation, nats a letter | {' | '.join(heads)} |"
    end = f"At balance decay would turn a matrix by {balance} rad."
    return "\n".join([head, "|---|--:" + "|--:" * len(heads) + "|", *rows, "", end])


def schedule_free() -> str:
    """What becomes of the points of schedule-free optimizers."""
    text = (KEPT / "schedule_free.txt").read_text(encoding="utf-8")
    figures = ", ".join(rf"{name} ({NUMBER}(?:e-\d+)?)" for name in ("norm of z", "of x", "loss", "right"))
    found = re.findall(rf"^(\w+), rate ({NUMBER}), ([\w ]+): {figures} %", text, re.MULTILINE)
    if len(found) != text.count(", rate "):
        raise ValueError("benchmarks/kept/schedule_free.txt has rows that are not read")
    rows = [f"| {kind} | {rate} | {' | '.join(rest)} % |" for kind, rate, *rest in found]
    heads = "| optimizer | rate | held | norm of z | norm of x | loss at x | right in the test |"
    return "\n".join([heads, "|---|--:|---|--:|--:|--:|--:|", *rows])


TABLES = {
    "speed.md": {"measured": first_table, "missed": missed, "trainers": trainers_table},
    "methods.md": {"time": methods_table},
    "discovery.md": {"networks": networks, "searches": searches_table},
    "instruments.md": {"characters": characters},
    "optimizers.md": {"schedule-free": schedule_free},
    "span.md": {"watching": watching},
}
"""By page, what stands between marks of a name."""


def filled(page: str) -> str:
    """The text of the page with its tables as they should be."""
    text = (HERE / page).read_text(encoding="utf-8")
    for name, table in TABLES[page].items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not end:
            raise ValueError(f"docs/{page} has no marks of {name!r}")
        text = f"{before}{mark}{table()}\n{end}{after}"
    return text


def main() -> None:
    """Write the tables."""
    for page in TABLES:
        (HERE / page).write_text(filled(page), encoding="utf-8")


if __name__ == "__main__":
    main()
