"""Flax NNX and optax: a network on scanned digits, AdamW without decay on what has no scale, its norms held.

Needs scikit-learn, jax, flax and optax; takes seconds.
"""

import jax
import numpy as np
import optax
from flax import nnx
from jax import numpy as jnp
from sklearn.datasets import load_digits

from decayfree.integrations.flax import find_invariant, rescale
from decayfree.integrations.optax import decay_mask, hold_norms

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16
n_epochs, batch_size, n_train = 15, 50, 900


class Digits(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv1, self.norm1 = (
            nnx.Conv(1, 16, (3, 3), rngs=rngs),
            nnx.BatchNorm(16, rngs=rngs, momentum=0.9),
        )
        self.conv2, self.norm2 = nnx.Conv(16, 32, (3, 3), rngs=rngs), nnx.GroupNorm(32, 8, rngs=rngs)
        self.last = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.norm1(self.conv1(x))), (2, 2), (2, 2))
        return self.last(nnx.relu(self.norm2(self.conv2(x))).mean((1, 2)))


model = nnx.jit(Digits)()
found = find_invariant(model, images[:8])
print(found)
model = rescale(model, found)  # running statistics follow
rate = optax.cosine_decay_schedule(0.03, n_epochs * n_train // batch_size)
chain = optax.chain(
    optax.adamw(rate, weight_decay=0.01, mask=decay_mask(found)),
    hold_norms(found),  # last: puts every block back on its norm
)
optimizer = nnx.Optimizer(model, chain, wrt=nnx.Param)


@nnx.jit
def step(model: Digits, optimizer: nnx.Optimizer, batch: jax.Array, targets: jax.Array) -> None:
    def loss(model: Digits) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(batch), targets).mean()

    optimizer.update(model, nnx.grad(loss)(model))


random = np.random.default_rng(0)
for _ in range(n_epochs):
    for chosen in random.permutation(n_train).reshape(-1, batch_size):
        step(model, optimizer, images[chosen], labels[chosen])

model.eval()
right = model(jnp.asarray(images[n_train:])).argmax(1) == labels[n_train:]
print(f"test accuracy {right.mean():.1%}")
norms = jnp.linalg.norm(model.conv1.kernel[...].reshape(-1, 16), axis=0)
print(f"kernels of conv1 have norms {norms.min():.6f} to {norms.max():.6f}")
