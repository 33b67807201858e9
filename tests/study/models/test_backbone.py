"""Backbones that were trained before: what is loaded, what is refused, what stays frozen."""

import copy

import pytest
import torch
from torch import nn

from decayfree.errors import InvalidInputError
from decayfree.study.models.backbone import FrozenBatchNorm2d, backbone_of, freeze_
from decayfree.study.models.sizes import Sizes
from decayfree.study.run_settings import MODELS_OF_TASK, ModelSpec
from decayfree.study.tasks.table import TASKS
from support.available import import_or_skip

OURS = {task: own[0] for task, (own, _) in MODELS_OF_TASK.items() if task != "classification"}
UNET = "smp:Unet/resnet18"


def build(task, name, *, seed=0, **settings):
    width = 1.0 if ":" in name else 0.125
    sizes = Sizes(n_classes=3, image_size=(32, 32), width_factor=width)
    return TASKS[task].build(ModelSpec(name=name, width_factor=width, **settings), sizes, seed)


def save(state, folder):
    torch.save(state, folder / "state.pt")
    return str(folder / "state.pt")


@pytest.mark.parametrize(("task", "name"), OURS.items())
def test_a_backbone_begins_with_the_state_in_a_file_and_the_rest_with_the_seed(task, name, tmp_path):
    trained = backbone_of(build(task, name, seed=5)).state_dict()
    fresh, begun = build(task, name), build(task, name, backbone=save(trained, tmp_path))
    assert all(torch.equal(trained[key], value) for key, value in backbone_of(begun).state_dict().items())
    names = {id(tensor) for tensor in backbone_of(begun).parameters()}
    rest = [key for key, parameter in begun.named_parameters() if id(parameter) not in names]
    assert rest
    assert all(torch.equal(begun.get_parameter(key), fresh.get_parameter(key)) for key in rest)


def test_a_classifiers_checkpoint_is_taken_without_its_last_layer(tmp_path):
    models = import_or_skip("torchvision.models")
    import_or_skip("segmentation_models_pytorch")
    classifier = models.resnet18()
    state = {key: value for key, value in classifier.state_dict().items() if "num_batches" not in key}
    begun = build("segmentation", UNET, backbone=save(state, tmp_path))
    assert torch.equal(begun.encoder.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)


def test_a_state_of_something_else_is_refused_with_what_is_wrong(tmp_path):
    state = backbone_of(build("segmentation", "unet-bn")).state_dict()
    state["stages.9.weight"] = torch.zeros(1)
    del state["stages.0.0.weight"]
    state["stages.1.0.weight"] = torch.zeros(2, 2)
    path = save(state, tmp_path)
    with pytest.raises(InvalidInputError) as error:
        build("segmentation", "unet-bn", backbone=path)
    assert str(error.value) == (
        f"model.backbone: {path} is not a state of the backbone of unet-bn; missing: stages.0.0.weight; "
        "unexpected: stages.9.weight; of another shape: stages.1.0.weight (2, 2) instead of (16, 8, 3, 3)"
    )


def test_of_many_wrong_keys_a_few_are_told(tmp_path):
    path = save({f"key{number}": torch.zeros(1) for number in range(9)}, tmp_path)
    with pytest.raises(InvalidInputError, match=r"unexpected: key0, key1, key2, key3 and 5 more"):
        build("counting", "csrnet-bn", backbone=path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"model.backbone: .*state.pt cannot be read: FileNotFoundError"),
        (b"text", r"model.backbone: .*state.pt cannot be read: "),
        ([torch.zeros(1)], r"expected a state_dict in .*state.pt, tensors by name, got list"),
        ({"state_dict": {}}, r"expected a state_dict in .*state.pt, tensors by name, got dict"),
        (nn.Linear(1, 1), r"model.backbone: .*state.pt cannot be read: UnpicklingError"),
    ],
)
def test_a_file_that_is_no_state_is_refused(content, said, tmp_path):
    if isinstance(content, bytes):
        (tmp_path / "state.pt").write_bytes(content)
    elif content is not None:
        save(content, tmp_path)
    with pytest.raises(InvalidInputError, match=said):
        build("counting", "csrnet-bn", backbone=str(tmp_path / "state.pt"))


@pytest.mark.parametrize("settings", [{"batch_norm": "frozen"}, {"backbone": "state.pt"}])
def test_a_classifier_has_no_backbone(settings):
    with pytest.raises(InvalidInputError, match="classifiers have no backbone to load or to freeze"):
        build("classification", "vgg4-bn", **settings)


@pytest.mark.parametrize(("task", "name"), [*OURS.items(), ("segmentation", UNET)])
def test_frozen_norms_of_the_backbone_stay_as_they_are(task, name):
    if ":" in name:
        import_or_skip("segmentation_models_pytorch")
    frozen, live = build(task, name, batch_norm="frozen"), build(task, name)
    assert frozen.state_dict().keys() == live.state_dict().keys()
    for model in (frozen, copy.deepcopy(frozen), frozen.train(), frozen.eval().train()):
        norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
        inside = [one for one in backbone_of(model).modules() if isinstance(one, nn.BatchNorm2d)]
        assert inside
        assert len(norms) > len(inside)
        assert not any(norm.training for norm in inside)
        assert not any(parameter.requires_grad for norm in inside for parameter in norm.parameters())
        assert all(norm.training for norm in norms if norm not in inside)
    state = copy.deepcopy(frozen.state_dict())
    with torch.no_grad():
        TASKS[task].outputs(frozen, torch.randn(4, 3, 32, 32))
    moved = {key for key, value in frozen.state_dict().items() if not torch.equal(state[key], value)}
    inside = {id(buffer) for buffer in backbone_of(frozen).buffers()}
    assert moved == {key for key, buffer in frozen.named_buffers() if id(buffer) not in inside}


def test_a_norm_that_does_more_than_normalize_cannot_be_frozen():
    class WithActivation(nn.BatchNorm2d):
        pass

    with pytest.raises(InvalidInputError, match=r"only BatchNorm2d can be frozen, got 0 \(WithActivation\)"):
        freeze_(nn.Sequential(WithActivation(2)))


def test_a_frozen_norm_is_a_batch_norm_that_does_not_learn():
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(1.0)
    freeze_(nn.Sequential(norm))
    assert type(norm) is FrozenBatchNorm2d
    torch.testing.assert_close(norm.train()(torch.ones(3, 2, 1, 1)), torch.zeros(3, 2, 1, 1))


def test_a_network_without_a_backbone_is_told():
    with pytest.raises(InvalidInputError, match="Linear has no part that is called backbone or encoder"):
        backbone_of(nn.Linear(1, 1))
