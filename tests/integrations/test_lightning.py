"""Lightning's own Trainer holds norms by one callback, whatever else is in it."""

import copy
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn import functional
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import decayfree
from support import bounds
from support.available import import_or_skip
from support.processes import in_processes

pl = import_or_skip("lightning.pytorch")
integration = import_or_skip("decayfree.integrations.lightning")
WeightRescalingCallback = integration.WeightRescalingCallback
RecorderCallback = integration.RecorderCallback

GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randn(64, 3, 8, 8, generator=GENERATOR) + 0.5
LABELS = torch.randint(0, 3, (64,), generator=GENERATOR)
HELD = ["net.0.weight", "net.3.weight", "net.6.weight"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]


class Net(pl.LightningModule):
    """Automatic optimization of one optimizer; what differs is said by subclasses."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        kernel = {"kernel_size": 3, "padding": 1, "bias": False}
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 8, **kernel), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, **kernel), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, **kernel), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(8, 3),
        )
        self.lr = lr

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, index):
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        first, second = list(self.net[:3].parameters()), list(self.net[3:7].parameters())
        return [
            torch.optim.SGD(first, lr=0.1),
            torch.optim.SGD(self.net[10].parameters(), lr=0.1),
            torch.optim.Adam(second, lr=0.01),
        ]


def loader() -> DataLoader:
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)


def trained(
    folder: Path, module: pl.LightningModule, callbacks: Iterable, resume=None, **settings
) -> pl.Trainer:
    settings = {"max_epochs": 2, "logger": False, "enable_checkpointing": False} | settings
    trainer = pl.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **settings,
    )
    trainer.fit(module, loader(), ckpt_path=resume)
    return trainer


def norms(module: pl.LightningModule) -> list[float]:
    return [module.get_parameter(name).detach().flatten(1).norm(dim=1).mean().item() for name in HELD[:2]]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_automatic_optimization_holds_and_accumulation_counts_the_optimizers_steps(tmp_path, precision):
    callback, module = WeightRescalingCallback(IMAGES[:8]), Net()
    trained(tmp_path, module, [callback], accumulate_grad_batches=4, precision=precision)
    (wrs,) = callback.attached.values()
    assert (wrs.n_steps, list(wrs.radii), wrs.check().problems) == (4, HELD, ())
    assert norms(module) == pytest.approx([1, 1])
    assert callback.found is not None
    assert [weight.name for weight in callback.found] == HELD


def test_each_optimizer_holds_its_own_in_manual_optimization(tmp_path):
    callback, recorder = WeightRescalingCallback(IMAGES[:8], radius=2.0), RecorderCallback(every=4)
    module = Manual()
    trained(tmp_path, module, [recorder, callback])
    assert {index: list(one.radii) for index, one in callback.attached.items()} == {0: HELD[:1], 2: HELD[1:]}
    assert [one.n_steps for one in callback.attached.values()] == [16, 16]
    assert [one.check().problems for one in callback.attached.values()] == [(), ()]
    assert norms(module) == pytest.approx([2, 2])
    samples = decayfree.dynamics.read_jsonl(tmp_path / "dynamics.jsonl")
    assert [(sample.step, list(sample.weights)) for sample in samples][:2] == [(4, HELD[:1]), (4, HELD[1:])]


def test_a_second_fit_goes_on_and_training_is_what_it_is_without_the_trainer(tmp_path):
    callback, module = WeightRescalingCallback(IMAGES[:8]), Net()
    for _ in range(2):
        trained(tmp_path, module, [callback], max_epochs=1)
    plain = Net()
    found = decayfree.find_invariant(plain, IMAGES[:8])
    for _ in range(2):
        optimizer = plain.configure_optimizers()
        decayfree.WeightRescaling(optimizer, found)
        for batch in loader():
            optimizer.zero_grad()
            functional.cross_entropy(plain(batch[0]), batch[1]).backward()
            optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-6, atol=1e-6)


class Split(Net):
    """Decay on what has a scale, by the weights that the callback found."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)
        decayfree.exempt_(optimizer, integration.found_in(self.trainer))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16),
                "interval": "step",
            },
        }


@pytest.mark.parametrize(
    "settings", [{"radius": "init", "every": 3}, {"radius": {"net.3*": 2.0}, "every": 3}], ids=str
)
def test_a_run_that_is_resumed_is_bitwise_the_one_that_went_on(tmp_path, settings):
    class Differs(Split):  # radii must come from the checkpoint
        def __init__(self) -> None:
            super().__init__()
            nn.init.normal_(self.net[0].weight, std=0.5)

    def fit(module, *, epochs, resume=None):
        callback = WeightRescalingCallback(IMAGES[:8], **settings)
        recorder = RecorderCallback(sink=tmp_path / "samples.jsonl", every=5)
        callbacks = [callback, recorder]
        trainer = trained(tmp_path, module, callbacks, resume, max_epochs=epochs)
        return trainer, callback.attached[0], recorder.attached[0]

    whole, half, resumed = Split(), Split(), Differs()
    _, wrs, _ = fit(whole, epochs=2)
    trainer, _, stopped = fit(half, epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, again, recorder = fit(resumed, epochs=2, resume=tmp_path / "half.ckpt")
    assert again.n_steps == 16
    assert [*map(str, again.radii.values())] == [*map(str, wrs.radii.values())]
    assert all(torch.equal(one, resumed.state_dict()[name]) for name, one in whole.state_dict().items())
    assert again.check().problems == ()
    assert (recorder.run, recorder.n_steps) == (stopped.run, 16)


def difference_to_recomputed(module: Net) -> float:
    """Of outputs in eval mode, relative, to those with statistics of all training data."""
    right = copy.deepcopy(module)
    update_bn([batch[0] for batch in loader()], right)
    with torch.no_grad():
        outputs, expected = module.eval()(IMAGES), right.eval()(IMAGES)
    return float((outputs - expected).norm() / expected.norm())


AVERAGES = {
    "SWA": lambda: pl.callbacks.StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=2, annealing_epochs=1),
    "mean": pl.callbacks.WeightAveraging,
    "EMA": lambda: pl.callbacks.EMAWeightAveraging(decay=0.9),
}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.filterwarnings("ignore:.*Swapping scheduler")
def test_an_average_has_the_running_statistics_of_its_own_after_a_fit(tmp_path, average):
    callback, module = WeightRescalingCallback(IMAGES[:8]), Net()
    trained(tmp_path, module, [callback, AVERAGES[average]()], max_epochs=6)
    assert difference_to_recomputed(module) < bounds.AFTER_AVERAGING
    assert norms(module) == pytest.approx([1, 1])
    assert callback.attached[0].n_steps >= 48


def test_statistics_are_measured_by_forward_also_where_a_function_finds_the_weights(tmp_path):
    class Brighter(Net):
        def forward(self, images, factor):
            return self.net(factor * images)

        def training_step(self, batch, index):
            return functional.cross_entropy(self(batch[0], 3.0), batch[1])

    def found_in(module):
        return decayfree.find_invariant(module, (IMAGES[:8], 3.0))

    def forward(module, batch):
        return module(batch[0], 3.0)

    module = Brighter()
    callbacks = [WeightRescalingCallback(found_in, forward=forward), AVERAGES["EMA"]()]
    trained(tmp_path, module, callbacks, max_epochs=1)
    right = copy.deepcopy(module.net)
    update_bn([3.0 * batch[0] for batch in loader()], right)
    torch.testing.assert_close(dict(module.net.named_buffers()), dict(right.named_buffers()))


@pytest.mark.parametrize("average", AVERAGES)
def test_a_callback_that_averages_must_come_later(tmp_path, average):
    kind = type(AVERAGES[average]()).__name__
    with pytest.raises(decayfree.InvalidInputError, match=f"must come before {kind}.* put it first"):
        trained(tmp_path, Net(), [AVERAGES[average](), WeightRescalingCallback(IMAGES[:8])])


def test_an_average_begins_with_rescaled_weights(tmp_path):
    norms_in_average = []

    class Looks(pl.callbacks.WeightAveraging):
        def on_fit_start(self, trainer, pl_module):
            norms_in_average.extend(norms(self._average_model.module))

    module = Net()
    with torch.no_grad():
        module.net[0].weight *= 5
    trained(tmp_path, module, [WeightRescalingCallback(IMAGES[:8]), Looks()], max_epochs=1)
    assert norms_in_average == pytest.approx([1, 1])


def test_turning_knows_the_trainers_epochs(tmp_path):
    callback, module = integration.TurningCallback(IMAGES[:8], memory_epochs=2), Net()
    before = norms(module)
    trained(tmp_path, module, [callback], accumulate_grad_batches=3, max_epochs=1)
    (turning,) = callback.attached.values()
    assert norms(module) == pytest.approx(before)
    # κθ²/2 = 1/(2 epochs · 3 steps), and κ is 19 with a momentum of 0.9.
    assert turning.angles_rad[HELD[0]] == pytest.approx((2 / (19 * 6)) ** 0.5, rel=1e-3)


def test_samples_go_to_the_loggers_at_the_trainers_step(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    trained(
        tmp_path, Net(), [RecorderCallback(IMAGES[:8], every=5)], logger=logger, enable_checkpointing=False
    )
    text = Path(logger.log_dir, "metrics.csv").read_text(encoding="utf-8")
    head, *rows = (line.split(",") for line in text.splitlines())
    at = head.index("decayfree/norm/mean")
    assert [row[head.index("step")] for row in rows if row[at]] == ["4", "9", "14"]
    losses = [row[head.index("step")] for row in rows if row[head.index("loss")]]
    assert losses == [str(step) for step in range(16)]


def test_a_function_of_the_module_may_find_the_weights(tmp_path):
    def head_too(module):
        return decayfree.find_invariant(module, IMAGES[:8]).by_request({"net.10.weight": "row"})

    callbacks = [
        WeightRescalingCallback(head_too, radius={"net.10.*": 2.0}),
        RecorderCallback(decayfree.watch, every=1),
    ]
    module = Net()
    trained(tmp_path, module, callbacks)
    assert module.net[10].weight.norm(dim=1).tolist() == pytest.approx([2.0] * 3)
    assert set(callbacks[1].attached[0].last.weights) == {*HELD, "net.10.weight"}
    choice = {"forward": lambda module, images: module(images), "exclude": ["net.0.*"]}
    with pytest.raises(decayfree.InvalidInputError, match=r"not called with forward, exclude: say it in the"):
        RecorderCallback(decayfree.watch, **choice)
    with pytest.raises(decayfree.InvalidInputError, match=r"is not called with exclude: say it in the"):
        WeightRescalingCallback(head_too, **choice)
    with pytest.raises(decayfree.InvalidInputError, match="found must come from"):
        trained(tmp_path, Net(), [WeightRescalingCallback(lambda module: None)])


def test_what_cannot_be_is_said_where_it_is(tmp_path):
    class Another(Net):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net[10].parameters(), lr=0.1)

    with pytest.raises(decayfree.MismatchError, match="WeightRescalingCallback: none of the 3 scale-inv"):
        trained(tmp_path, Another(), [WeightRescalingCallback(IMAGES[:8])])
    with pytest.raises(decayfree.InvalidInputError, match="wants inputs to find the weights with"):
        trained(tmp_path, Net(), [RecorderCallback()])
    with pytest.raises(decayfree.InvalidInputError, match="radius must be a positive number"):
        trained(tmp_path, Net(), [WeightRescalingCallback(IMAGES[:8], radius=-1)])


def test_a_setting_that_is_unknown_is_told_at_once():
    for kind in (WeightRescalingCallback, integration.TurningCallback, RecorderCallback):
        with pytest.raises(TypeError, match="unexpected keyword argument 'radios'"):
            kind(IMAGES[:8], radios=2.0)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'copies'"):
        WeightRescalingCallback(IMAGES[:8], copies=[])


def test_a_checkpoint_of_other_optimizers_is_refused(tmp_path):
    class Second(Manual):
        def configure_optimizers(self):
            return super().configure_optimizers()[1:]

    trainer = trained(tmp_path, Manual(), [WeightRescalingCallback(IMAGES[:8])], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt") | {"optimizer_states": [], "lr_schedulers": []}
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(decayfree.MismatchError, match=r"optimizers \[0, 2\], and these weights are in \[1\]"):
        trained(tmp_path, Second(), [WeightRescalingCallback(IMAGES[:8])], tmp_path / "a.ckpt")


def train_on_rank(rank: int, folder: Path) -> None:
    """DDP, also with an average, and FSDP2 through ModelParallelStrategy."""

    class Sharded(Net):
        def configure_model(self):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    strategies = pl.strategies
    settings = {"timeout": timedelta(seconds=30), "process_group_backend": "gloo"}
    ways = {
        "DDP": (Net(), strategies.DDPStrategy(**settings), []),
        "average": (Net(), strategies.DDPStrategy(**settings), [pl.callbacks.EMAWeightAveraging(decay=0.5)]),
        "FSDP2": (Sharded(), strategies.ModelParallelStrategy(2, 1, **settings), []),
    }
    trained_weights = {}
    for way, (module, strategy, averaging) in ways.items():
        if way != "FSDP2" and rank:  # rank 0's are sent to all, and so must its radii be
            nn.init.normal_(module.net[0].weight)
        callback = WeightRescalingCallback(IMAGES[:8], radius="init")
        trained(folder, module, [callback, *averaging], strategy=strategy, devices=2, max_epochs=1)
        (wrs,) = callback.attached.values()
        weights = [one.full_tensor() if hasattr(one, "full_tensor") else one for one in module.parameters()]
        assert (wrs.n_steps, wrs.check().problems) == (4, ())
        statistics = list(module.buffers()) if averaging else []  # measured by each rank on its own batches
        trained_weights[way] = [one.detach() for one in (*weights, *statistics)]
    torch.save(trained_weights, folder / f"{rank}.pt")


def test_ranks_stay_equal_in_ddp_and_fsdp2_trains_the_same(tmp_path):
    in_processes(train_on_rank, 2, tmp_path, meet=False)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for way in first:
        assert all(map(torch.equal, first[way], second[way])), way
    torch.testing.assert_close(first["DDP"], first["FSDP2"], rtol=1e-5, atol=1e-6)


class FSDPOnCPU(pl.strategies.FSDPStrategy):
    """Lightning wants an accelerator of this class by its name; what it does is the same without one."""


def refuse_flattened(rank: int, folder: Path) -> None:
    class Flattened(Net):
        def configure_model(self):
            self.net = FullyShardedDataParallel(self.net, device_id=torch.device("cpu"))

    strategy = FSDPOnCPU(process_group_backend="gloo")
    with pytest.raises(decayfree.UnsupportedWeightError, match=r"flat parameter of FSDP1.*use FSDP2"):
        trained(folder, Flattened(), [WeightRescalingCallback(IMAGES[:8])], strategy=strategy, max_epochs=1)


def test_flattened_parameters_are_refused(tmp_path):
    # In a process of its own: Lightning leaves the process group that it has begun.
    in_processes(refuse_flattened, 1, tmp_path, meet=False)
