"""Dropping the decay of a tuned recipe: radii by hand, groups, schedules, refusals, and real trainings."""

import copy
import doctest
import io
import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from typer.testing import CliRunner

import decayfree
from decayfree.cli.app import app
from decayfree.conversion.converted_rescaling import ConvertedRescaling, drop_decay, fixed_norm_recipe
from decayfree.conversion.gradient_norms import GradientNorms
from decayfree.errors import InvalidInputError
from support import bounds
from support.networks import digit_losses, digits, find, mixed_net, step_once

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
SIZES = {"conv.weight": 1, "grouped.weight": 1, "transposed.weight": 1, "hidden.weight": 8}  # rows in a block


def norms_for(found, value=2.0):
    return {one.name: torch.full((one.blocks.n_blocks,), value) for one in found}


def sgdw(*arguments, **settings):
    """Another SGD under the name of the one with decoupled decay; it takes no step here."""
    return type("SGDW", (torch.optim.SGD,), {})(*arguments, **settings)


def lion(parameters, **settings):
    return type("Lion", (torch.optim.AdamW,), {})(parameters, **settings)


def test_under_adamw_the_radius_goes_with_the_root_of_the_fan_in(seed):
    model = mixed_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    wrs = drop_decay(optimizer, find(model))
    fan_ins = {"conv.weight": 9, "grouped.weight": 18, "transposed.weight": 12, "hidden.weight": 101}
    for name, fan_in in fan_ins.items():
        expected = (1e-3 * fan_in / 0.2) ** 0.5  # √(ηC/(2λ)); the bias of the LayerNorm's block counts
        torch.testing.assert_close(
            wrs.radii[name], torch.full_like(wrs.radii[name], expected), rtol=1e-3, atol=0
        )
    hidden = torch.cat([model.hidden.weight.flatten(), model.hidden.bias]).detach()
    assert float(hidden.norm()) == pytest.approx(float(wrs.radii["hidden.weight"]) * 8**0.5)
    assert wrs.check().problems == ()


@pytest.mark.parametrize(
    ("make", "settings", "radius_of_a_row"),
    [
        (torch.optim.SGD, {}, (0.1 * 4 / 2e-4) ** 0.25),  # (ηG²/(2λ))^¼
        (torch.optim.SGD, {"momentum": 0.9}, (0.1 * 4 / 2e-5) ** 0.25),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, (0.1 * 4 / 2e-5) ** 0.25),
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}, (0.05 * 4 / 2e-5) ** 0.25),
        (sgdw, {"momentum": 0.9}, (0.1 * 4 / 2e-6) ** 0.25),
        (sgdw, {"momentum": 0.9, "dampening": 0.5}, (0.1 * 1 / 2e-6) ** 0.25),
    ],
    ids=["SGD", "momentum", "nesterov", "dampening", "SGDW", "SGDW dampening"],
)
def test_under_sgd_the_radius_goes_with_the_root_of_the_gradient_norm(make, settings, radius_of_a_row):
    model = mixed_net()
    optimizer = make(model.parameters(), lr=0.1, weight_decay=1e-4, **settings)
    found = find(model)
    gradient_norms = norms_for(found)
    gradient_norms["conv.weight"] = torch.tensor([2.0, 8.0, 2.0, 2.0])
    radii = drop_decay(optimizer, found, gradient_norms=gradient_norms).radii
    for name, values in radii.items():
        expected = torch.full_like(values, radius_of_a_row / SIZES[name] ** 0.5)
        if name == "conv.weight":
            expected[1] *= 2
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=0)


def test_adam_means_l2_unless_its_group_says_otherwise(seed):
    for settings, is_decoupled in (({}, False), ({"decoupled_weight_decay": True}, True)):
        model = mixed_net()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4, **settings)
        found = find(model)
        recipe = fixed_norm_recipe(
            optimizer, found, gradient_norms=None if is_decoupled else norms_for(found)
        )
        coupled = (1e-3 * 9**0.5 * 2.0 / 2e-4) ** (1 / 3)
        expected = (1e-3 * 9 / 2e-4) ** 0.5 if is_decoupled else coupled
        assert recipe.radii["conv.weight"].tolist() == pytest.approx([expected] * 4, rel=1e-3)


def test_lion_is_known_by_its_name(seed):
    model = mixed_net()
    recipe = fixed_norm_recipe(
        lion(model.parameters(), lr=1e-4, weight_decay=0.1, betas=(0.0, 0.99)), find(model)
    )
    assert recipe.radii["conv.weight"].tolist() == pytest.approx([(1e-4 * 9 / 0.2) ** 0.5] * 4, rel=1e-4)


def test_a_block_without_gradient_keeps_its_norm(seed):
    model = mixed_net()
    with torch.no_grad():
        model.grouped.weight[0] = 0
    found = find(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    before = model.conv.weight[2].norm().item()
    gradient_norms = norms_for(found)
    gradient_norms["conv.weight"][2] = gradient_norms["grouped.weight"][0] = 0.0
    recipe = fixed_norm_recipe(optimizer, found, gradient_norms=gradient_norms)
    assert recipe.radii["conv.weight"][2].item() == pytest.approx(before)
    assert "2 blocks had no gradient; they keep the norm that they have." in repr(recipe)
    with pytest.warns(UserWarning, match="blocks of norm zero"):
        drop_decay(optimizer, found, gradient_norms=gradient_norms)
    assert model.conv.weight[2].norm().item() == pytest.approx(before)
    assert torch.count_nonzero(model.grouped.weight[0]) == 0


def test_groups_are_split_and_everything_else_stays(seed):
    model = mixed_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.8, 0.99))
    step_once(model, optimizer, digit_losses(1)[0])
    steps = {id(p): float(state["step"]) for p, state in optimizer.state.items()}
    wrs = drop_decay(optimizer, find(model))
    rest, held = optimizer.param_groups
    assert {id(p) for p in held["params"]} == {
        id(p)
        for p in (
            model.conv.weight,
            model.grouped.weight,
            model.transposed.weight,
            model.hidden.weight,
            model.hidden.bias,
        )
    }
    assert (rest["weight_decay"], held["weight_decay"]) == (0.1, 0.0)
    for group in (rest, held):
        assert (group["lr"], group["betas"]) == (1e-3, (0.8, 0.99))
    assert len(rest["params"]) + len(held["params"]) == len(list(model.parameters()))
    assert {id(p): float(state["step"]) for p, state in optimizer.state.items()} == steps
    head, kernel = model.head.weight.detach().clone(), model.conv.weight.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for state in optimizer.state.values():
        state["exp_avg"].zero_()
    optimizer.step()
    torch.testing.assert_close(model.head.weight.detach(), head * (1 - 1e-4))  # still decayed
    torch.testing.assert_close(model.conv.weight.detach(), kernel)
    assert wrs.check().problems == ()


def test_a_group_of_held_weights_only_is_not_split(seed):
    model = mixed_net()
    found = find(model)
    groups = decayfree.split_params(model, found, weight_decay=0.3)
    groups[0]["weight_decay"] = 0.1
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    drop_decay(optimizer, found)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.3]


def test_groups_with_settings_of_their_own_get_radii_of_their_own(seed):
    model = mixed_net()
    groups = [
        {"params": [model.conv.weight], "weight_decay": 0.4},
        {
            "params": [p for name, p in model.named_parameters() if name != "conv.weight"],
            "weight_decay": 0.1,
        },
    ]
    wrs = drop_decay(torch.optim.AdamW(groups, lr=1e-3), find(model))
    ratio = wrs.radii["grouped.weight"][0] / wrs.radii["conv.weight"][0]
    assert float(ratio) == pytest.approx(2 * 2**0.5, rel=2e-3)  # a quarter of the decay, twice the fan-in
    assert len(wrs.schedules(lambda step: 1.0)) == 3


def test_names_of_parameters_go_with_them(seed):
    model = mixed_net()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-3, weight_decay=0.1)
    drop_decay(optimizer, find(model))
    parameters = dict(model.named_parameters())
    for group in optimizer.param_groups:
        assert all(
            parameters[name] is p for name, p in zip(group["param_names"], group["params"], strict=True)
        )
    assert "conv.weight" in optimizer.param_groups[1]["param_names"]


def test_a_learning_rate_in_a_tensor_stays_its_owners(seed):
    model, lr = mixed_net(), torch.tensor(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=0.01, momentum=0.9, foreach=False)
    found = find(model)
    drop_decay(optimizer, found, gradient_norms=norms_for(found))
    one, other = (group["lr"] for group in optimizer.param_groups)
    assert one is other is lr
    assert float(lr) == pytest.approx(0.1)


def test_weights_of_another_optimizer_are_left_alone(seed):
    model = mixed_net()
    before = model.grouped.weight.detach().clone()
    optimizer = torch.optim.AdamW([model.conv.weight], lr=1e-3, weight_decay=0.1)
    wrs = drop_decay(optimizer, find(model))
    assert list(wrs.radii) == ["conv.weight"]
    assert torch.equal(model.grouped.weight, before)


def test_outputs_stay_and_so_does_what_comes_after_a_resume(seed):
    runs = []
    for is_resumed in (False, True):
        model = mixed_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        found = find(model)
        images = digits()[0][:16]
        before = copy.deepcopy(model)(images)
        wrs = drop_decay(optimizer, found, gradient_norms=norms_for(found))
        torch.testing.assert_close(model(images), before, rtol=1e-9, atol=1e-9)
        losses = digit_losses(6)
        for loss in losses[:3]:
            step_once(model, optimizer, loss)
        if is_resumed:
            states = copy.deepcopy((model.state_dict(), optimizer.state_dict(), wrs.state_dict()))
            model = mixed_net(seed=1)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
            wrs = drop_decay(optimizer, find(model), gradient_norms=norms_for(found, 5.0))
            for thing, state in zip((model, optimizer, wrs), states, strict=True):
                thing.load_state_dict(state)
        for loss in losses[3:]:
            step_once(model, optimizer, loss)
        runs.append(model.state_dict())
    assert all(torch.equal(values, runs[1][name]) for name, values in runs[0].items())


# Schedules


def test_held_groups_follow_equal_angles_and_the_rest_the_schedule_itself(seed):
    model = mixed_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0)
    wrs = drop_decay(optimizer, find(model))

    def multiplier(step):
        return 1.0 if step < 1000 else 0.01

    rest, held = wrs.schedules(multiplier)
    expected = decayfree.equal_angle_schedule(multiplier, time_constant_steps=500)
    assert rest is multiplier
    assert [held(step) for step in (0, 1000, 3000)] == [expected(step) for step in (0, 1000, 3000)]
    scheduler = LambdaLR(optimizer, wrs.schedules(multiplier))
    assert scheduler.get_last_lr() == [1e-3, 1e-3]
    torch.save(scheduler.state_dict(), io.BytesIO())  # holds no function
    by_epoch = wrs.schedules(multiplier, steps_per_call=50)[1]
    expected = decayfree.equal_angle_schedule(multiplier, time_constant_steps=10)
    assert by_epoch(3000) == expected(3000)
    assert wrs.schedules(multiplier, start_angle=2.0)[1](0) == 2.0


def test_adam_with_l2_follows_the_power_of_two_thirds(seed):
    model = mixed_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    found = find(model)
    gradient_norms = norms_for(found)
    for name in ("conv.weight", "grouped.weight"):
        gradient_norms[name].zero_()  # no time constant of their own
    wrs = drop_decay(optimizer, found, gradient_norms=gradient_norms)
    assert wrs.schedules(lambda step: 0.125)[1](2000) == pytest.approx(0.25, rel=1e-3)


def test_steps_per_call_must_be_above_0(seed):
    model = mixed_net()
    wrs = drop_decay(torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1), find(model))
    with pytest.raises(InvalidInputError, match="steps_per_call must be a finite number above 0, got 0"):
        wrs.schedules(lambda step: 1.0, steps_per_call=0)


# What is printed


def test_the_recipe_is_printed_with_its_derivation_and_its_limits(seed):
    model = mixed_net()
    recipe = fixed_norm_recipe(torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1), find(model))
    lines = repr(recipe).splitlines()
    assert lines[0] == "AdamW, lr 0.001, weight decay 0.1, betas 0.9 and 0.999"
    assert "  it turns in a step by   chord² = 2ηλ(1−β₁)/(1+β₁), so 0.00324 rad (0.186 degrees)" in lines
    assert "  and remembers for       1/(ηλ) = 10,000 steps, until its cosine is 1/e" in lines
    assert "  at a norm of            r² = ηC/(2λ), C weights in the block" in lines
    assert "  which it approaches in  1/(2ηλ) = 5,000 steps, up to 1/e" in lines
    # About √0.045, and 0.001 over it.
    assert "  conv.weight        (4, 1, 3, 3)  9        0.212   0.00472" in lines
    assert {"Schedule", "Limits"} <= set(lines)
    assert max(map(len, lines)) <= 140


def test_each_rule_has_a_table_of_its_own_and_blocks_a_range(seed):
    model = mixed_net()
    groups = [
        {"params": [model.conv.weight], "weight_decay": 4e-2},
        {"params": [model.grouped.weight], "weight_decay": 1e-2},
    ]
    found = find(model)
    gradient_norms = norms_for(found)
    gradient_norms["conv.weight"] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    text = repr(fixed_norm_recipe(optimizer, found, gradient_norms=gradient_norms))
    assert text.count("SGD with Nesterov momentum 0.9, lr 0.1, weight decay") == 2
    assert "conv.weight  (4, 1, 3, 3)  2 (1 to 4)" in text
    assert "G changes in the course of training" in text
    assert "unbalance" not in text


def test_the_recipe_is_json(seed):
    model = mixed_net()
    found = find(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    recipe = fixed_norm_recipe(optimizer, found, gradient_norms=norms_for(found))
    (first, *_) = json.loads(json.dumps(recipe.to_dict()))["weights"]
    assert (first["name"], first["optimizer"], first["lr"], first["fan_in"]) == ("conv.weight", "SGD", 0.1, 9)
    assert first["lr_at_radius_1"] == pytest.approx([0.1 / radius**2 for radius in first["radii"]])
    assert first["gradient_norms"] == [2.0] * 4


# A radius for every block


def test_radii_may_be_given_block_by_block(seed):
    model = mixed_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    radii = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    wrs = decayfree.WeightRescaling(optimizer, find(model), radius={"conv.*": radii, "*": 0.5})
    torch.testing.assert_close(model.conv.weight.flatten(1).norm(dim=1).detach(), radii)
    radii[0] = 9.0  # what was given stays the caller's
    assert wrs.radii["conv.weight"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert wrs.radii["grouped.weight"].tolist() == [0.5] * 6


# The page


def test_the_page_shows_what_comes_out(seed):
    results = doctest.testfile(
        str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE, encoding="utf-8"
    )
    assert results.attempted > 10
    assert results.failed == 0


def test_the_page_shows_what_the_command_line_prints():
    shown = re.findall(r"\$ decayfree (recipe [^\n]*)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(shown) == 2
    for words, text in shown:
        assert text in CliRunner().invoke(app, words.split()).stdout


# Real trainings


@pytest.fixture(scope="module")
def pixels():
    """The pixels of the digits that vary, (1797, 47) float32, and the labels."""
    images, labels = digits()
    images = images.flatten(1).float() - 0.3
    vary = images.std(dim=0) > 0.1
    assert vary.sum() == 47  # as docs/recipes.md says
    return images[:, vary], labels


def network(pixels, optimizer, settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(47, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU()]
        model = nn.Sequential(
            *layers, nn.Linear(48, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10)
        )
    found = decayfree.find_invariant(model, pixels[0][:32])
    groups = decayfree.split_params(model, found, weight_decay=0.0)
    groups[0]["weight_decay"] = settings["weight_decay"]
    return model, found, optimizer(groups, **settings)


def train(model, optimizer, pixels, *, n_steps, batch_size, seed, noise=0.3):
    """Root mean square chord over blocks and steps, by weight; a share of the labels is drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = pixels
    squares = {index: [] for index in (0, 3)}
    for _ in range(n_steps):
        chosen = torch.randint(len(labels), (batch_size,), generator=generator)
        wrong = torch.randint(10, (batch_size,), generator=generator)
        target = torch.where(torch.rand(batch_size, generator=generator) < noise, wrong, labels[chosen])
        optimizer.zero_grad()
        F.cross_entropy(model(images[chosen]), target).backward()
        before = {index: F.normalize(model[index].weight.detach()) for index in squares}
        optimizer.step()
        for index, direction in before.items():
            after = F.normalize(model[index].weight.detach())
            squares[index].append((after - direction).square().sum(dim=1).mean())
    return {f"{index}.weight": float(torch.stack(values).mean().sqrt()) for index, values in squares.items()}


@pytest.mark.parametrize(
    ("optimizer", "settings", "batch_size"),
    [
        (torch.optim.AdamW, {"lr": 3e-3, "weight_decay": 3.0}, 8),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-3}, 32),
    ],
    ids=["AdamW", "SGD with momentum"],
)
def test_a_real_network_turns_as_predicted_and_as_much_without_decay(pixels, optimizer, settings, batch_size):
    model, found, decayed = network(pixels, optimizer, settings)
    train(model, decayed, pixels, n_steps=400, batch_size=batch_size, seed=1)
    with GradientNorms(decayed, found) as measured:
        chords = train(model, decayed, pixels, n_steps=300, batch_size=batch_size, seed=2)
    gradient_norms = measured if optimizer is torch.optim.SGD else None
    recipe = fixed_norm_recipe(decayed, found, gradient_norms=gradient_norms)
    for one in recipe.weights:
        assert chords[one.name] == pytest.approx(float(one.angles_rad.median()), rel=bounds.PREDICTED)
    model, found, without = network(pixels, optimizer, settings)
    wrs = drop_decay(without, found, gradient_norms=gradient_norms)
    assert isinstance(wrs, ConvertedRescaling)
    assert all(group["weight_decay"] == 0 for group in without.param_groups)
    train(model, without, pixels, n_steps=400, batch_size=batch_size, seed=1)
    ours = train(model, without, pixels, n_steps=300, batch_size=batch_size, seed=2)
    for name, chord in chords.items():
        assert ours[name] == pytest.approx(chord, rel=bounds.WITHOUT_DECAY)


def test_where_a_weak_decay_meets_labels_that_are_learned_angles_without_it_are_others(pixels):
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    model, found, decayed = network(pixels, torch.optim.SGD, settings)
    own = {"batch_size": 32, "noise": 0.0}
    train(model, decayed, pixels, n_steps=3000, seed=1, **own)
    with GradientNorms(decayed, found) as measured:
        chords = train(model, decayed, pixels, n_steps=300, seed=2, **own)
    model, found, without = network(pixels, torch.optim.SGD, settings)
    drop_decay(without, found, gradient_norms=measured)
    train(model, without, pixels, n_steps=3000, seed=1, **own)
    ours = train(model, without, pixels, n_steps=300, seed=2, **own)
    assert max(abs(ours[name] / chord - 1) for name, chord in chords.items()) > bounds.LEARNED_LABELS


def test_a_row_has_as_many_numbers_whether_the_others_are_held_or_not():
    model = mixed_net()
    known = find(model).to_dict()
    for weight in known["weights"]:
        weight["block_sizes"], weight["starts"] = (1, 2), (0, 2)
    found = decayfree.Invariance.from_dict(known, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    sizes = {one.name: one.fan_in for one in fixed_norm_recipe(optimizer, found).weights}
    # The last with its bias.
    assert sizes == {"conv.weight": 9, "grouped.weight": 18, "transposed.weight": 12, "hidden.weight": 101}
