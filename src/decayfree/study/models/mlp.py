"""A multilayer perceptron with BatchNorm: the smallest network with scale-invariant weights, no convolution.

Is nobody's published network.
"""

from torch import Tensor, nn

from decayfree.study.models.sizes import Sizes


class MlpBN(nn.Module):
    """Pixels in a row, three linear layers of 512 with BatchNorm and ReLU, and one without.

    Linear layers in front of a BatchNorm have no bias, since it would remove it.

    References:
        Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
        Covariate Shift", 2015, arXiv 1502.03167, Section 4.1 trains three hidden layers on digits; theirs are
        100 wide and have sigmoids.
    """

    def __init__(self, sizes: Sizes, *, width: int = 512, n_hidden: int = 3) -> None:
        super().__init__()
        height, breadth = sizes.image_size
        n_in, n_out = sizes.n_channels * height * breadth, sizes.scaled(width)
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(n_hidden):
            layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
            n_in = n_out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(n_in, sizes.n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width), of the size it was built for, to logits (n, n_classes)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits
