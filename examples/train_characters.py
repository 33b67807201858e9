"""A tiny character model under AdamW: with decay, with QK-norm's weights held, with all its matrices held.

The text, Python's language reference, ships with Python. Takes minutes; with 30 for its argument, seconds.
"""

import sys
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import decayfree
from decayfree import equilibrium

CONTEXT, WIDTH, N_HEADS, RATE, DECAY = 64, 64, 4, 3e-3, 0.1
BY_REQUEST = {"decay": {}, "QK-norm held": {}, "all matrices held": {"blocks.*": "whole"}}
text = "\n".join(topics[key] for key in sorted(topics))
letters = sorted(set(text))
training, validation = torch.tensor([letters.index(one) for one in text]).tensor_split([len(text) * 9 // 10])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(F.rms_norm(x, (WIDTH,))).unflatten(-1, (3, N_HEADS, -1)).transpose(1, 3).unbind(2)
        q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(F.rms_norm(x, (WIDTH,)))))


class CharacterModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(len(letters), WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(WIDTH, len(letters))

    def forward(self, windows: Tensor) -> Tensor:
        x = F.rms_norm(self.blocks(self.letters(windows[:, :-1]) + self.places.weight), (WIDTH,))
        return F.cross_entropy(self.head(x).flatten(0, 1), windows[:, 1:].flatten())


def windows(of: Tensor, n: int) -> Tensor:
    return of[torch.randint(len(of) - CONTEXT, (n, 1)) + torch.arange(CONTEXT + 1)]


def train(arm: str, n_steps: int) -> tuple[float, list[decayfree.dynamics.Sample]]:
    torch.manual_seed(0)
    model, samples = CharacterModel(), []
    found = decayfree.find_invariant(model, windows(training, 2)).by_request(BY_REQUEST[arm])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    if arm != "decay":
        decayfree.exempt_(optimizer, found)
        decayfree.WeightRescaling(optimizer, found, radius="init", schedule="follow")
    watched = decayfree.watch(model, found, by={"blocks.*": "whole"})
    decayfree.Recorder(optimizer, watched, every=n_steps // 2, sink=samples.append)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        optimizer.zero_grad()
        model(windows(training, 32)).backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return float(torch.stack([model(windows(validation, 100)) for _ in range(20)]).mean()), samples


n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
goal = equilibrium.adamw(RATE / 2, DECAY).angle_rad
print(f"decay at balance turns a matrix by {goal:.4f} rad a step at half time")
for arm in BY_REQUEST:
    loss, samples = train(arm, n_steps)
    angles = {name: seen["angular_update_rad"]["mean"] for name, seen in samples[0].weights.items()}
    told = ", ".join(f"{name[9:-7]} {angle:.4f}" for name, angle in angles.items() if "blocks.1." in name)
    print(f"{arm:17} validation {loss:.3f} nats a letter; {told}", flush=True)
