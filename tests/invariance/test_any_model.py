"""Does the search find what is to be found in modules of every kind?

Compiled, exported, scripted, quantized, hooked and shared ones, and parameters of every kind: each with the
verdict of finite scaling, or one error that names the cure. What forwards keep is in test_equal_runs.py.
"""

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from decayfree import (
    InvalidInputError,
    Invariance,
    UnsupportedWeightError,
    WeightRescaling,
    find_invariant,
    rescale_,
    split_params,
)
from support.around import Around, assert_found, body, names_in, pictures

# Wrappers


@pytest.mark.usefixtures("seed")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_compiled_models_and_parts_are_probed_as_they_are_written() -> None:
    model = body()
    plain = find_invariant(model, pictures()).to_dict()
    compiled = torch.compile(model, backend="eager")
    part = copy.copy(model)
    part._modules = {name: torch.compile(one, backend="eager") for name, one in model._modules.items()}
    in_place = copy.deepcopy(model)
    in_place.compile(backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = find_invariant(compiled, pictures())
        assert whole.to_dict() == plain
        assert whole.model is model
        found = find_invariant(part, pictures())
        assert found.to_dict() == plain
        assert dict(found.model.named_parameters())["conv.weight"] is model.conv.weight
        assert find_invariant(in_place, pictures()).to_dict() == plain
    for wrapped in (compiled, part):
        assert Invariance.from_dict(plain, wrapped)[0].name == "conv.weight"
        assert [len(group["params"]) for group in split_params(wrapped, found)] == [1, 4]
        assert list(rescale_(wrapped, found)) == ["conv.weight"]
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        with WeightRescaling(optimizer, find_invariant(wrapped, pictures())) as wrs:
            model(pictures()).sum().backward()  # of the same parameters
            optimizer.step()
            assert wrs.check().largest < 1e-6


@pytest.mark.usefixtures("seed")
def test_compiled_functions_inside_run_as_they_are_written() -> None:
    activation = torch.compile(lambda x: torch.relu(x) * torch.sigmoid(x), backend="eager")

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.last = body(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(activation(self.net(x)))

    assert_found(Calls())


@pytest.mark.usefixtures("seed")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_exported_modules_are_probed() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.fc, self.ln = body(), nn.Linear(2, 5), nn.LayerNorm(5, eps=0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.ln(self.fc(self.net(x))).exp()

    exported = torch.export.export(Normed(), (pictures(),)).module()
    assert_found(exported, None, ("net.conv.weight", "fc.weight"))


@pytest.mark.usefixtures("seed")
@pytest.mark.filterwarnings("ignore")
def test_scripts_are_refused_and_share_the_result_of_their_module() -> None:
    model = body()
    found = find_invariant(model, pictures())
    for script in (torch.jit.script(model), torch.jit.trace(model, pictures(), check_trace=False)):
        with pytest.raises(UnsupportedWeightError, match=r"before torch\.jit\.script or torch\.jit\.trace"):
            find_invariant(script, pictures())
        with pytest.raises(UnsupportedWeightError, match="0 is a script"):
            find_invariant(nn.Sequential(script), pictures())
        carried = Invariance.from_dict(found.to_dict(), script)
        assert carried[0].name == "conv.weight"
        optimizer = torch.optim.SGD(script.parameters(), lr=0.1)
        with WeightRescaling(optimizer, found) as wrs:
            script(pictures()).sum().backward()
            optimizer.step()
            assert wrs.check().largest < 1e-6
    with_small_script = nn.Sequential(model.conv, model.norm, torch.jit.script(nn.SiLU()), nn.Conv2d(6, 2, 1))
    assert_found(with_small_script, None, ("0.weight",))


@pytest.mark.usefixtures("seed")
def test_an_exported_program_is_refused_by_name() -> None:
    program = torch.export.export(body(), (pictures(),))
    with pytest.raises(InvalidInputError, match=r"\.module\(\)"):
        find_invariant(program, pictures())


@pytest.mark.usefixtures("seed")
def test_data_parallel_models_run_in_one_thread() -> None:
    assert_found(nn.DataParallel(body()), None, ("conv.weight",))


# Kinds of parameters


class Recommender(nn.Module):
    def __init__(self, *, is_sparse: bool) -> None:
        super().__init__()
        self.items = nn.Embedding(50, 8, sparse=is_sparse)
        self.users = nn.EmbeddingBag(50, 8, mode="sum", sparse=is_sparse)
        self.shape = nn.Embedding(50, 8, sparse=is_sparse)
        self.norm, self.hidden = nn.LayerNorm(8, elementwise_affine=False), nn.Linear(24, 16)
        self.hidden_norm, self.out = nn.BatchNorm1d(16), nn.Linear(16, 1)

    def forward(self, ids: Tensor) -> Tensor:
        features = [self.items(ids).mean(1), self.users(ids), self.norm(self.shape(ids[:, 0]))]
        return self.out(torch.relu(self.hidden_norm(self.hidden(torch.cat(features, 1)))))


@pytest.mark.usefixtures("seed")
def test_sparse_embeddings_are_judged_as_dense_ones() -> None:
    torch.manual_seed(0)
    dense = Recommender(is_sparse=False)
    sparse = Recommender(is_sparse=True)
    sparse.load_state_dict(dense.state_dict())
    ids = torch.cat([torch.arange(50), torch.randint(0, 50, (78,))]).reshape(32, 4)[torch.randperm(32)]
    verdicts = [find_invariant(model, ids).verdicts for model in (sparse, dense)]
    assert [one.verdict for one in verdicts[0].values()] == [one.verdict for one in verdicts[1].values()]
    assert "hidden.weight" in names_in(sparse, ids)
    assert "hidden.weight" in names_in(sparse, ids, exclude=["items.*", "users.*"])
    assert names_in(sparse, ids, include="hidden.weight") == ["hidden.weight"]


class Complex(nn.Module):
    """A complex layer before a norm of moduli, and one that nothing normalizes."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 6, bias=bias, dtype=torch.complex64)
        self.head = nn.Linear(6, 2, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x.to(self.fc.weight.dtype) + 1j * x.square())
        return self.head(y / y.abs().square().mean(0, keepdim=True).sqrt())


@pytest.mark.usefixtures("seed")
@pytest.mark.parametrize("bias", [False, True])
def test_complex_weights_have_the_verdict_of_finite_scaling(bias: bool) -> None:
    found = find_invariant(Complex(bias=bias), torch.randn(12, 5))
    assert [weight.name for weight in found] == ["fc.weight"], found
    assert found["fc.weight"].block_sizes == (1,) * 6
    assert found["fc.weight"].bias == ("fc.bias" if bias else None)
    assert found.verdicts["head.weight"].verdict == "not_invariant"
    with pytest.raises(UnsupportedWeightError, match=r"fc\.weight \(6, 5\) is complex"):
        WeightRescaling(torch.optim.SGD([found.model.fc.weight], lr=0.1), found)


@pytest.mark.usefixtures("seed")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_in_half_precision_are_probed_in_float64(dtype: torch.dtype) -> None:
    assert_found(nn.Sequential(body()).to(dtype), pictures().to(dtype), ("0.conv.weight",))


@pytest.mark.usefixtures("seed")
def test_autocast_inside_changes_no_verdict() -> None:
    class Mixed(Around):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.net(x).float()

    assert_found(Mixed())


@pytest.mark.usefixtures("seed")
@pytest.mark.filterwarnings("ignore")
def test_quantized_parts_are_probed_or_refused() -> None:
    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.tail = body(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.tail(self.net(x))

    dynamic = torch.ao.quantization.quantize_dynamic(Tail(), {nn.Linear})
    with pytest.raises(UnsupportedWeightError, match=r"net\.head is quantized .*prepare_qat"):
        find_invariant(dynamic, pictures())
    trained = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))
    trained.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    found = find_invariant(torch.ao.quantization.prepare_qat(trained.train()), pictures())
    # A grid that is kept does not grow with the weight.
    assert found.verdicts["0.weight"].verdict in ("not_invariant", "undecided")


# Normalizations over processes


def test_a_synchronized_norm_is_probed_on_the_host_of_one_of_several_processes(tmp_path: Any) -> None:
    import subprocess
    import sys

    code = f"""
import sys, torch, torch.distributed as dist
from torch import nn
from decayfree import find_invariant
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=rank, world_size=2)
class Fused(nn.SyncBatchNorm):
    def forward(self, x):
        return super().forward(x).relu()
if rank == 0:
    first, second = (nn.Conv2d(3, 6, 3), nn.SyncBatchNorm(6)), (nn.Conv2d(6, 4, 3), Fused(4))
    model = nn.Sequential(*first, *second, nn.Conv2d(4, 2, 1))
    found = find_invariant(model, torch.randn(6, 3, 8, 8))
    assert [weight.name for weight in found] == ["0.weight", "2.weight"], found
    assert found["0.weight"].norm_layers[0].channels == tuple(range(6)), found["0.weight"]
    assert type(model[1]) is nn.SyncBatchNorm
    print("found")
dist.barrier()
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(rank)], stdout=subprocess.PIPE) for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert outputs[0].decode().strip() == "found"


# Hooks, parametrizations, sharing

KEPT: list[Tensor] = []


@pytest.mark.usefixtures("seed")
def test_hooks_of_users_work_on_the_copy_and_leave_what_they_keep_alone() -> None:
    model, kept, calls = body(), [], {"n": 0}

    def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept.append(output)
        KEPT.append(output)
        calls["n"] += 1
        return output * calls["n"]

    model.norm.register_forward_hook(keep)
    assert_found(model, None, ("conv.weight",))
    assert (kept, KEPT, calls) == ([], [], {"n": 0})


@pytest.mark.usefixtures("seed")
def test_a_hook_that_takes_the_scale_away_counts() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].register_forward_hook(lambda module, args, output: F.layer_norm(output, (6,)))
    assert_found(model, torch.randn(9, 5), ("0.weight",))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.usefixtures("seed")
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_parametrized_weights() -> None:
    model = body()
    parametrize.register_parametrization(model.conv, "weight", Doubled())
    assert_found(model, None, ("conv.parametrizations.weight.original",))
    model = body()
    parametrizations.weight_norm(model.conv)
    assert "conv.parametrizations.weight.original1" in find_invariant(model, pictures())
    model = body()
    nn.utils.weight_norm(model.conv)
    model(pictures()).sum().backward()  # its weight now carries a graph
    assert "conv.weight_v" in find_invariant(model, pictures())


@pytest.mark.usefixtures("seed")
def test_shared_modules_are_found_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
            self.again, self.norms = self.conv, nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

        def forward(self, x: Tensor) -> Tensor:
            return self.norms[1](self.again(torch.relu(self.norms[0](self.conv(x))))).exp()

    assert_found(Twice(), None, ("conv.weight",))


@pytest.mark.usefixtures("seed")
def test_a_model_without_a_graph_is_refused_with_the_cure() -> None:
    class NoGraph(Around):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    class InferenceOnly(Around):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    for model in (NoGraph(), InferenceOnly()):
        with pytest.raises(InvalidInputError, match="with their graph"):
            find_invariant(model, pictures())


class Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32, "float32 only"
        return x / 2

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope / 2


@pytest.mark.usefixtures("seed")
def test_a_function_in_float32_only_is_probed_in_float32() -> None:
    class Single(Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(Half.apply(x))

    found = find_invariant(Single(), pictures())
    assert [weight.name for weight in found] == ["net.conv.weight"]
    assert found.dtype == torch.float32


class Tagged(Tensor):
    """A tensor with a name of its own."""


@pytest.mark.usefixtures("seed")
def test_inputs_of_a_tensor_subclass() -> None:
    assert_found(body(), pictures().as_subclass(Tagged), ("conv.weight",))


@pytest.mark.usefixtures("seed")
def test_tensors_with_a_graph_anywhere_in_a_model_are_copied_without_it() -> None:
    class Keeps(Around):
        def __init__(self) -> None:
            super().__init__()
            self.kept: dict[str, Any] = {}

        def forward(self, x: Tensor) -> Tensor:
            y = self.net.norm(self.net.conv(x))
            self.last, self.kept["deep"] = y, [(y, {"y": y})]
            return self.net(x)

    model = Keeps()
    model(pictures()).sum().backward()
    last = model.last
    assert_found(model)
    assert model.last is last
    assert last.grad_fn is not None
