"""Layers of each kind, and what their rows are multiplied with: cut out by hand, averaged in one line.

Takes nothing from the package but the class that is tested.
"""

import itertools

import torch
from torch import nn

from decayfree.span.input_span import InputSpan

# A layer of each kind, with the shape of one input. Each group has two channels or more, of which the second
# follows the first.
LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear with leading dimensions": (lambda: nn.Linear(5, 3), (2, 3, 5)),
    "1d, groups and stride": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 9)),
    "2d": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 5)),
    "2d, everything": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 3), groups=2),
        (4, 7, 6),
    ),
    "2d, one by one": (lambda: nn.Conv2d(4, 3, 1), (4, 4, 4)),
    "2d, circular": (lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), (2, 5, 4)),
    "2d, reflect": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=2, padding_mode="reflect"), (2, 5, 4)),
    "2d, replicate": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 4, 4)),
    "2d, same": (lambda: nn.Conv2d(2, 3, 3, padding="same", dilation=(1, 2)), (2, 5, 6)),
    "2d, same and reflect": (
        lambda: nn.Conv2d(2, 3, (4, 3), padding="same", padding_mode="reflect"),
        (2, 5, 6),
    ),
    "2d, valid": (lambda: nn.Conv2d(2, 3, (3, 2), padding="valid"), (2, 4, 4)),
    "3d": (lambda: nn.Conv3d(2, 3, (2, 1, 3), stride=(1, 2, 1), padding=(0, 1, 1)), (2, 3, 3, 4)),
    "1d, transposed": (lambda: nn.ConvTranspose1d(2, 3, 4, stride=3, padding=1), (2, 5)),
    "2d, transposed, everything": (
        lambda: nn.ConvTranspose2d(
            4, 6, (3, 2), stride=(2, 3), padding=(1, 2), output_padding=(1, 2), dilation=(1, 3), groups=2
        ),
        (4, 3, 4),
    ),
    "2d, transposed with gaps": (lambda: nn.ConvTranspose2d(2, 3, (1, 2), stride=3), (2, 3, 3)),
    "3d, transposed": (lambda: nn.ConvTranspose3d(2, 3, (2, 1, 3), stride=(1, 2, 1)), (2, 2, 2, 3)),
}


def layer_and_batches(kind, seed, sizes=(5, 3)):
    """In float64, with batches of different means, in which every second channel is twice the one before."""
    torch.manual_seed(seed)
    make, shape = LAYERS[kind]
    layer = make().double()
    batches = [torch.randn(size, *shape, dtype=torch.float64) + size for size in sizes]
    for batch in batches:
        channels = channels_of(layer, batch)
        n_pairs = channels.shape[1] // 2
        channels[:, 1 : 2 * n_pairs : 2] = 2 * channels[:, 0 : 2 * n_pairs : 2]
    return layer, batches


def channels_of(layer, batch):
    """A view in which channels, or features, are the second dimension."""
    return batch.movedim(-1, 1) if isinstance(layer, nn.Linear) else batch


def seen_by_hand(layer, inputs):
    """(groups, n_samples, d): what a row is multiplied with at each input and output position, by look-up."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, inputs.shape[-1])
    n_dims = len(layer.kernel_size)
    sizes, kernel = inputs.shape[2:], [range(size) for size in layer.kernel_size]
    samples = []
    for position in itertools.product(*(range(size) for size in layer(inputs).shape[2:])):
        columns = []
        for tap in itertools.product(*kernel):
            at = [source(layer, dim, position[dim], tap[dim], sizes[dim]) for dim in range(n_dims)]
            empty = torch.zeros_like(inputs[(slice(None), slice(None), *[0] * n_dims)])
            columns.append(empty if None in at else inputs[(slice(None), slice(None), *at)])
        samples.append(torch.stack(columns, dim=2))  # (n_inputs, channels, taps)
    samples = torch.cat(samples)
    return samples.reshape(len(samples), layer.groups, -1).transpose(0, 1)


def source(layer, dim, position, tap, size):
    """The input position that a tap of the kernel reads for an output position; None where it is a zero."""
    stride, dilation = layer.stride[dim], layer.dilation[dim]
    if layer.padding == "same":
        padding = dilation * (layer.kernel_size[dim] - 1) // 2
    else:
        padding = 0 if layer.padding == "valid" else layer.padding[dim]
    if layer.transposed:
        at, rest = divmod(position + padding - tap * dilation, stride)
        return at if rest == 0 and 0 <= at < size else None
    at = position * stride - padding + tap * dilation
    if layer.padding_mode == "circular":
        return at % size
    if layer.padding_mode == "replicate":
        return min(max(at, 0), size - 1)
    if layer.padding_mode == "reflect":
        return size - 1 - abs(size - 1 - abs(at))
    return at if 0 <= at < size else None


def moment_by_hand(parts, centered):
    """The mean of outer products, (groups, d, d), each vector around the mean that ``centered`` says."""
    everything = torch.cat(parts, dim=1)
    around = {
        True: lambda part: part.mean(dim=1, keepdim=True),
        "overall": lambda part: everything.mean(dim=1, keepdim=True),
        False: lambda part: torch.zeros(()),
    }[centered]
    shifted = torch.cat([part - around(part) for part in parts], dim=1)
    return torch.einsum("gni,gnj->gij", shifted, shifted) / everything.shape[1]


def watch(model, batches, found=None, **settings):
    with InputSpan(model, found, **settings) as span:
        for batch in batches:
            model(batch)
    return span
