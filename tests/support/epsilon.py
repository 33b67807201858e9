"""How far ε may move outputs: networks of torchvision, radii and bounds, as docs/limits.md says them."""

MODELS = ["resnet18", "densenet121", "mobilenet_v2", "vgg11_bn"]
RADII, SMALL_RADII = [1.0, 2.0, 4.0], [0.3, 0.1]
MOST, LEAST_AT_SMALL_RADII = 3e-4, 1e-4
