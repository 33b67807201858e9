"""Does the library work with torch alone? ``python tests/support/core_alone.py``, without pytest.

Keeps numpy away, finds weights, holds them in both ways and records, on the torch and the Python that it is
run with. Of numbers it asks only what is true by definition.
"""

import json
import platform
import sys
import tempfile
import warnings
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":  # pytest imports every file here
    sys.modules["numpy"] = None  # type: ignore[assignment]  # every import of it raises ImportError

with warnings.catch_warnings():
    # Some versions of torch warn where there is no numpy.
    warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)
    import torch
    from torch import Tensor, nn

    torch.ones(1)

import decayfree

CORE = (
    *("blocks", "conversion", "dynamics", "equilibrium", "invariance", "methods"),
    *("rescaling", "span", "theory"),
)


class Network(nn.Module):
    """Kernels before BatchNorm, groups before GroupNorm, rows before LayerNorm and RMSNorm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.groups = nn.Sequential(nn.ConvTranspose2d(8, 8, 3), nn.GroupNorm(4, 8), nn.ReLU())
        self.rows = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 8))
        self.norm, self.head = nn.RMSNorm(8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.groups(self.kernels(images)).mean((2, 3))
        return self.head(self.norm(self.rows(features)))


def names_load() -> None:
    """Every public name of the core, so that all its files are read."""
    for face in (decayfree, *(import_module(f"decayfree.{name}") for name in CORE)):
        for name in getattr(face, "__all__", ()):
            getattr(face, name)


def others_name_their_extra() -> None:
    """What needs numpy says what to install."""
    for face, name, extra in (
        ("study", "read_study", "study"),
        ("report", "write_report", "study"),
        ("plots", "norms", "plots"),
    ):
        said = ""
        try:
            getattr(import_module(f"decayfree.{face}"), name)
        except decayfree.errors.MissingExtraError as error:
            said = str(error)
        assert f"pip install 'decayfree[{extra}]'" in said, (face, said)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, n_steps: int) -> None:
    for _ in range(n_steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(len(images)) % 4).backward()
        optimizer.step()


def found_in(model: nn.Module, images: Tensor) -> decayfree.Invariance:
    found = decayfree.find_invariant(model, images)
    blocks = {weight.name: len(weight.block_sizes) for weight in found}
    expected = {"kernels.0.weight": 8, "groups.0.weight": 4, "rows.0.weight": 1, "rows.3.weight": 1}
    assert blocks == expected, f"expected {expected}, found {blocks}"
    again = decayfree.Invariance.from_dict(json.loads(json.dumps(found.to_dict())), model)
    assert str(again) == str(found)
    return found


def main() -> None:
    names_load()
    others_name_their_extra()
    torch.manual_seed(0)
    images = torch.randn(8, 3, 8, 8)
    model = Network()
    found = found_in(model, images)

    before = model.eval()(images)
    decayfree.rescale_(model, found, radius=2.0)
    assert torch.allclose(model(images), before, atol=1e-3)
    model.train()
    groups = decayfree.split_params(model, found, weight_decay=5e-4)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    wrs = decayfree.WeightRescaling(optimizer, found)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dynamics.jsonl"
        with decayfree.Recorder(optimizer, found, every=2, sink=path):
            trained(model, optimizer, images, 6)
        lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    norms = model.kernels[0].weight.flatten(1).norm(dim=1)  # type: ignore[index, union-attr]
    assert torch.allclose(norms, torch.ones(8), atol=1e-5)
    assert wrs.check().largest < 1e-5
    wrs.load_state_dict(wrs.state_dict())
    wrs.detach()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    decayfree.exempt_(optimizer, found)
    with decayfree.Turning(optimizer, found, steps_per_epoch=10) as turning:
        trained(model, optimizer, images, 4)
        assert turning.check().largest < 1e-5
    print(f"decayfree {decayfree.__version__} works with torch {torch.__version__} alone")
    print(f"  on Python {platform.python_version()}; numpy was kept away")


if __name__ == "__main__":
    main()
