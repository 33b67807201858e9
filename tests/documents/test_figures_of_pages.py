"""Figures that a page repeats are those of the page that measured them."""

import re
import tomllib
from pathlib import Path

from decayfree.methods import METHODS
from decayfree.optimizers import in_studies
from decayfree.study.run_settings import DATA_OF_TASK, OWN_MODELS

DOCS = Path(__file__).parents[2] / "docs"


def text_of(page: str) -> str:
    return " ".join((DOCS / page).read_text(encoding="utf-8").split())


def test_the_first_page_counts_what_studies_have() -> None:
    words = {6: "six", 10: "ten", 11: "Eleven", 20: "twenty"}
    images = [name for name in DATA_OF_TASK["classification"] if name != "image-folder"]
    of_other_tasks = 6
    page = text_of("index.md")
    assert f"{words[len(METHODS)]} [methods]" in page
    assert f"{words[len(in_studies())]} optimizers" in page
    assert f"{words[len(OWN_MODELS) - of_other_tasks]} [networks]" in page
    assert f"{words[len(images)]} [data sets]" in page


def test_the_page_of_questions_counts_the_optimizers_that_were_tried() -> None:
    tried = sum(map(int, re.findall(r"\d+ of (\d+) hold", text_of("optimizers.md"))))
    assert f"With {tried} that were tried" in text_of("faq.md")


def test_the_page_of_questions_says_what_a_step_costs_as_it_was_measured() -> None:
    shares = [
        float(share)
        for peer in ("SGDP adds to SGD", "AdamP adds to AdamW")
        for share in re.findall(rf"of what {peer} \| ([\d.]+) to ([\d.]+)", text_of("speed.md"))[0]
    ]
    assert f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % of what AdamP or SGDP add" in text_of(
        "faq.md"
    )


def test_what_a_step_takes_in_trainers_is_what_the_benchmark_printed() -> None:
    printed = (DOCS.parent / "benchmarks" / "kept" / "trainers.txt").read_text(encoding="utf-8")
    page = (DOCS / "speed.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(): cells[2:-1] for line in page.splitlines() if len(cells := line.split("|")) == 7}
    titles = (
        "a plain loop",
        "timm's loop",
        "Lightning",
        "transformers",
        "JAX: Flax and optax",
        "DDP, two processes",
    )
    for title, part in zip(
        titles, re.split(r"^\w+: a bare step", printed, flags=re.MULTILINE)[1:], strict=True
    ):
        figures = re.findall(r"(\d\.\d{3,4}(?: \[[\d., ]+\])?)(?:  |\n)", part)
        assert [cell.strip() for cell in rows[title] if cell.strip() != "–"] == figures
        assert "missed" not in part


def test_the_memory_that_one_moves_to_is_that_of_the_published_recipe() -> None:
    recipes = tomllib.loads((DOCS / "published.toml").read_text(encoding="utf-8"))["recipes"]
    assert recipes[0]["name"] == "ResNet-18, CIFAR-10"
    row = next(
        line for line in (DOCS / "published.md").read_text().splitlines() if "| ResNet-18, CIFAR-10" in line
    )
    assert "| 5.12 |" in row
    for page in ("migration.md", "published.md"):
        assert "memory_epochs=5.12" in text_of(page)
