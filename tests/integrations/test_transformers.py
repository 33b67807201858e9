"""The Trainer of transformers, and Accelerate, hold norms by one line, and resume."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import decayfree
from support.available import import_or_skip
from support.processes import in_processes

transformers = import_or_skip("transformers")
integration = import_or_skip("decayfree.integrations.transformers")
accelerate = import_or_skip("accelerate")

GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randn(24, 3, 16, 16, generator=GENERATOR)
TOKENS = torch.randint(1, 64, (24, 8), generator=GENERATOR)
LABELS = torch.randint(0, 3, (24,), generator=GENERATOR)
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
TEXT = {"num_key_value_heads": 2, "vocab_size": 64, "head_dim": 4, "pad_token_id": 0, "eos_token_id": 1}


def resnet() -> nn.Module:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=3))


def vit() -> nn.Module:
    config = transformers.ViTConfig(**SIZES, image_size=16, patch_size=8, num_labels=3)
    return transformers.ViTForImageClassification(config)


def vit_with_qk_norm() -> nn.Module:
    sizes = {"image_size": [16, 16], "patch_size": [8, 8]}
    return transformers.InternVLVisionModel(
        transformers.InternVLVisionConfig(**SIZES, **sizes, use_qk_norm=True)
    )


def qwen3() -> nn.Module:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, **TEXT))


def olmo2() -> nn.Module:
    return transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**SIZES, **TEXT))


# By model: what makes it, and by the ends of their names the blocks of what has no scale.
PICTURES, WORDS = {"pixel_values": IMAGES}, {"input_ids": TOKENS, "use_cache": False}
MODELS: dict[str, tuple[Any, Mapping[str, Any], dict[str, int]]] = {
    "ResNet": (
        resnet,
        PICTURES,
        {
            "embedder.convolution.weight": 8,
            "0.layer.0.convolution.weight": 8 + 16,
            "0.layer.1.convolution.weight": 8 + 16,
            "shortcut.convolution.weight": 16,
        },
    ),
    "ViT": (vit, PICTURES, {}),
    "ViT with QK-norm": (vit_with_qk_norm, PICTURES, {"q_proj.weight": 1, "k_proj.weight": 1}),
    "Qwen3": (qwen3, WORDS, {"q_proj.weight": 4, "k_proj.weight": 2}),
    "OLMo2": (
        olmo2,
        WORDS,
        {f"{one}_proj.weight": 1 for one in ("q", "k", "v", "o", "up", "down")},
    ),
}


def made(name: str, seed: int = 0) -> tuple[nn.Module, decayfree.Invariance]:
    torch.manual_seed(seed)
    make, inputs, _ = MODELS[name]
    model = make()
    return model, decayfree.find_invariant(model, inputs)


def trainer_of(folder: Path, model: nn.Module, callbacks: list, **settings: Any) -> Any:
    is_text = any(isinstance(module, nn.Embedding) for module in model.modules())
    data = [
        {"input_ids": words, "labels": words} if is_text else {"pixel_values": image, "labels": label}
        for words, image, label in zip(TOKENS, IMAGES, LABELS, strict=True)
    ]

    def loss_of(outputs, labels, num_items_in_batch=None):
        scores = outputs["logits"] if "logits" in outputs else outputs["last_hidden_state"].mean(1)
        return functional.cross_entropy(scores.flatten(0, -2), labels.flatten())

    return transformers.Trainer(
        model,
        transformers.TrainingArguments(
            **{
                "output_dir": str(folder),
                "per_device_train_batch_size": 4,
                "max_steps": 6,
                "learning_rate": 0.01,
                "use_cpu": True,
                "report_to": [],
                "label_names": ["labels"],
                "save_strategy": "no",
                "disable_tqdm": True,
                "logging_strategy": "no",
            }
            | settings
        ),
        train_dataset=data,
        compute_loss_func=loss_of,
        callbacks=callbacks,
    )


@pytest.mark.parametrize("name", MODELS)
def test_what_has_no_scale_is_found_and_held(tmp_path, name):
    model, found = made(name)
    expected = MODELS[name][2]
    n_blocks = {end: sum(one.blocks.n_blocks for one in found if one.name.endswith(end)) for end in expected}
    assert n_blocks == expected
    assert sum(one.blocks.n_blocks for one in found) == sum(expected.values())
    callback = integration.WeightRescalingCallback(found)
    trainer = trainer_of(tmp_path, model, [callback], weight_decay=0.1, max_steps=3)
    trainer.create_optimizer()
    assert len(decayfree.exempt_(trainer.optimizer, found)) == len(found)
    if not expected:
        with pytest.raises(decayfree.MismatchError, match="no scale-invariant weight was found in the model"):
            trainer.train()
        return
    trainer.train()
    assert callback.attached.check().problems == ()
    assert (callback.attached.n_steps, callback.attached.check().largest < 1e-6) == (3, True)


def test_decay_on_what_is_held_is_refused_with_the_cure(tmp_path):
    model, found = made("Qwen3")
    trainer = trainer_of(tmp_path, model, [integration.WeightRescalingCallback(found)], weight_decay=0.1)
    with pytest.raises(decayfree.WeightDecayError, match="exempt_"):
        trainer.train()


@pytest.mark.parametrize(("radius", "rebuilt"), [(1.0, False), ("init", False), ("init", True)])
def test_a_run_that_is_resumed_is_bitwise_the_one_that_went_on(tmp_path, radius, rebuilt):
    def run(name, seed, resume=None, **own):
        model, found = made("ResNet", seed)
        callbacks = [
            integration.WeightRescalingCallback(found, radius=radius, every=4),
            integration.RecorderCallback(found, every=2),
        ]
        settings = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 3} | own
        trainer = trainer_of(tmp_path / name, model, callbacks, **settings)
        trainer.create_optimizer()
        decayfree.exempt_(trainer.optimizer, found)
        trainer.train(resume_from_checkpoint=resume)
        kinds = (integration.WeightRescalingCallback, integration.RecorderCallback)
        known = trainer.callback_handler.callbacks
        return model, *(next(one.attached for one in known if isinstance(one, kind)) for kind in kinds)

    whole, wrs, recorder = run("whole", 0)
    half = str(tmp_path / "whole" / "checkpoint-3")
    own = {"restore_callback_states_from_checkpoint": rebuilt}
    resumed, again, going_on = run("resumed", 1, half, **own)
    assert all(torch.equal(one, resumed.state_dict()[name]) for name, one in whole.state_dict().items())
    assert all(again.radii[name].equal(radii) for name, radii in wrs.radii.items())
    assert (again.n_steps, again.every) == (6, 4)
    assert (going_on.run, going_on.n_steps) == (recorder.run, 6)
    samples = decayfree.dynamics.read_jsonl(tmp_path / "resumed" / "dynamics.jsonl")
    assert [sample.step for sample in samples] == [4, 6]


def test_all_matrices_are_recorded_where_they_are_watched(tmp_path):
    model, found = made("Qwen3")
    callback = integration.RecorderCallback(decayfree.watch(model, found), every=2)
    trainer_of(tmp_path, model, [callback], max_steps=2).train()
    (sample,) = decayfree.dynamics.read_jsonl(tmp_path / "dynamics.jsonl")
    matrices = {name for name, one in model.named_parameters() if one.ndim > 1}
    assert sample.weights.keys() == matrices > {weight.name for weight in found}
    again = integration.RecorderCallback(**json.loads(json.dumps(callback.state()["args"])))
    assert again.found["weights"] == json.loads(json.dumps(callback.found.to_dict()["weights"]))


def test_samples_go_where_the_trainer_logs(tmp_path):
    model, found = made("Qwen3")
    callback = integration.RecorderCallback(found, every=2, sink=lambda sample: trainer.log(sample.brief()))
    own = {"logging_strategy": "steps", "logging_steps": 1, "max_steps": 4}
    trainer = trainer_of(tmp_path, model, [callback], **own)
    trainer.train()
    history = trainer.state.log_history
    assert sum("norm/extreme" in row for row in history) == 2
    assert sum("loss" in row for row in history) == 4


def test_what_json_cannot_hold_is_refused_where_callbacks_are_rebuilt(tmp_path):
    model, found = made("Qwen3")
    callback = integration.RecorderCallback(found, every=2, sink=print)
    rebuilt = integration.RecorderCallback(**json.loads(json.dumps(callback.state()["args"])))
    rebuilt.lost = callback.state()["attributes"]["lost"]
    with pytest.raises(decayfree.InvalidInputError, match="cannot hold sink: leave it off"):
        trainer_of(tmp_path, model, [rebuilt]).train()
    with pytest.raises(decayfree.InvalidInputError, match="found must come from"):
        integration.WeightRescalingCallback(model)
    with pytest.raises(TypeError, match="unexpected keyword argument 'radios'"):
        integration.WeightRescalingCallback(found, radios=2.0)
    twice = [integration.RecorderCallback(found), integration.RecorderCallback(found)]
    with pytest.raises(decayfree.InvalidInputError, match="takes one RecorderCallback, got 2"):
        trainer_of(tmp_path, model, twice).train()


def test_a_second_training_goes_on_and_turning_knows_the_epochs(tmp_path):
    model, found = made("Qwen3")
    callback = integration.TurningCallback(found, memory_epochs=2)
    trainer = trainer_of(tmp_path, model, [callback], gradient_accumulation_steps=2, optim="sgd", max_steps=2)
    trainer.train()
    # What is to be forgotten in 2 epochs of 3 steps, at the rates of the default schedule: 1 and 1/2.
    assert callback.attached.forgotten == pytest.approx(1.5 / 6)
    trainer.train()
    assert callback.attached.n_steps == 4
    assert callback.attached.check().problems == ()


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_ranks_collect_the_state_of_turning_before_the_first_alone_is_asked(tmp_path, monkeypatch, strategy):
    model, found = made("Qwen3")
    callback, collected, asked = integration.TurningCallback(found), [], []
    collect = integration.Turning.state_dict
    monkeypatch.setattr(
        integration.Turning, "state_dict", lambda it: collected.append(it.n_steps) or collect(it)
    )
    monkeypatch.setattr(callback, "state", lambda: asked.append(list(collected)) or {})
    saved = {"save_strategy": strategy, "save_steps": 2, "max_steps": 6}
    trainer_of(tmp_path, model, [callback], **saved).train()
    assert [one[-1] for one in asked if one] == ([2, 4, 6] if strategy == "steps" else [6])


def train_on_rank(rank: int, folder: Path) -> None:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # of the tests before
    model, found = made("ResNet", seed=rank)
    callback = integration.WeightRescalingCallback(found, radius="init")
    trainer = trainer_of(folder, model, [callback], ddp_backend="gloo", max_steps=3)
    trainer.train()
    assert isinstance(trainer.model_wrapped, nn.parallel.DistributedDataParallel)
    assert (callback.attached.n_steps, callback.attached.check().problems) == (3, ())
    torch.save(model.state_dict(), folder / f"{rank}.pt")


def test_ranks_stay_equal_in_ddp(tmp_path):
    in_processes(train_on_rank, 2, tmp_path, meet=False)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    kept = [name for name in first if not name.endswith(("running_mean", "running_var"))]
    assert len(kept) < len(first)
    assert all(torch.equal(first[name], second[name]) for name in kept)


@pytest.mark.parametrize("first", ["attached", "prepared"])
def test_accelerate_takes_a_prepared_optimizer_and_keeps_the_state(tmp_path, first):
    def run(seed, n_steps, folder=None):
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model, found = made("ResNet", seed)
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        decayfree.exempt_(optimizer, found)
        if first == "prepared":
            model, optimizer = accelerator.prepare(model, optimizer)
        wrs = decayfree.WeightRescaling(optimizer, found, radius="init", every=2)
        if first == "attached":
            model, optimizer = accelerator.prepare(model, optimizer)
        accelerator.register_for_checkpointing(wrs)
        if folder:
            accelerator.load_state(folder)
        for step in range(wrs.n_steps, n_steps):
            for half in IMAGES[4 * step : 4 * step + 4].split(2):
                with accelerator.accumulate(model):
                    accelerator.backward(model(pixel_values=half).logits.square().mean())
                    optimizer.step()
                    optimizer.zero_grad()
        return accelerator, model, wrs

    accelerator, _, wrs = run(0, 3)
    accelerator.save_state(tmp_path)
    _, expected, _ = run(0, 5)
    _, resumed, again = run(1, 5, tmp_path)
    assert (wrs.n_steps, again.n_steps) == (3, 5)
    assert all(torch.equal(one, resumed.state_dict()[name]) for name, one in expected.state_dict().items())
    assert again.check().problems == ()
