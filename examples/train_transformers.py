"""transformers: a tiny Qwen3 learns to add without weight decay on queries and keys, and is resumed half-way.

Needs transformers and accelerate; takes seconds, and downloads nothing.
"""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments

import decayfree
from decayfree.dynamics import read_jsonl
from decayfree.integrations.transformers import RecorderCallback, WeightRescalingCallback

# a, b and (a + b) mod 10, one token each; of the loss only the last counts.
pairs = torch.cartesian_prod(torch.arange(10), torch.arange(10))
tokens = torch.cat([pairs, pairs.sum(1, keepdim=True) % 10], 1)
answers = tokens.clone()
answers[:, :2] = -100
data = [{"input_ids": one, "labels": answer} for one, answer in zip(tokens, answers, strict=True)] * 4


def trainer_with(seed: int) -> Trainer:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=10, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    # Without the cache of keys and values, which would be outputs too.
    found = decayfree.find_invariant(model, {"input_ids": tokens[:8], "use_cache": False})
    arguments = TrainingArguments(
        "out",
        per_device_train_batch_size=40,
        num_train_epochs=20,
        learning_rate=1e-2,
        weight_decay=0.1,
        save_steps=100,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    callbacks = [WeightRescalingCallback(found, radius="init"), RecorderCallback(found, every=50)]
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=callbacks)
    trainer.create_optimizer()
    decayfree.exempt_(trainer.optimizer, found)  # the rest keeps its decay
    return trainer


whole = trainer_with(seed=0)
whole.train()
resumed = trainer_with(seed=1)
resumed.train(resume_from_checkpoint="out/checkpoint-100")
states = whole.model.state_dict(), resumed.model.state_dict()
is_same = all(torch.equal(value, states[1][name]) for name, value in states[0].items())
print(f"resumed after 100 steps: {'bitwise the same' if is_same else 'another model'}")

logits = resumed.model(tokens[:, :2]).logits[:, -1]
print(f"sums that are right {(logits.argmax(1) == tokens[:, 2]).float().mean().item():.0%}")
print(f"{len(read_jsonl('out/dynamics.jsonl'))} samples in out/dynamics.jsonl")
