"""Train with sharded weights (FSDP2, fully_shard), layers in bfloat16, and without weight decay.

`torchrun --standalone --nproc-per-node 2 examples/train_fsdp.py`; on scanned digits (scikit-learn).
"""

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional

import decayfree

dist.init_process_group("gloo")
rank, n_ranks = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
train, test = slice(0, 1200), slice(1200, None)

model = nn.Sequential(
    nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(),
    nn.Linear(128, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 10),
)  # fmt: skip
found = decayfree.find_invariant(model, images[:8])  # before anything is sharded
bfloat16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
for layer in model:
    if isinstance(layer, nn.Linear):  # normalizations stay in float32
        fully_shard(layer, mp_policy=bfloat16)
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
wrs = decayfree.WeightRescaling(optimizer, found)  # norms in float32, of the sharded weights

for epoch in range(8):
    for batch in torch.randperm(1200, generator=torch.Generator().manual_seed(epoch)).split(100):
        mine = batch[rank::n_ranks]
        optimizer.zero_grad()
        functional.cross_entropy(model(images[train][mine]).float(), labels[train][mine]).backward()
        optimizer.step()

deviation = wrs.check()  # on every rank: what each has is added up
accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
states = get_state_dict(model, optimizer)
dcp.save({"model": states[0], "optimizer": states[1], "wrs": wrs.state_dict()}, checkpoint_id="train_fsdp")
if rank == 0:
    shapes = f"{tuple(model[0].weight.shape)}, {tuple(model[0].weight.to_local().shape)} of it on this rank"
    print(f"{len(found)} weights held on {n_ranks} ranks; the first is {shapes}")
    print(f"test accuracy {accuracy:.1%}; problems: {list(deviation.problems)}")
dist.destroy_process_group()
