"""What does each image add to a score that is not a mean over images?

Knows no score: whoever has one computes it without each image.
"""

import torch
from torch import Tensor


def pseudo_values(whole: float, left_out: Tensor) -> Tensor:
    """n·s − (n − 1)·s₋ᵢ for each image, (n,), float64.

    Their mean is the score less its jackknife bias, of the order of 1/n, and their standard deviation over
    √n is its standard error. Of a mean over images they are the images' own values.

    Args:
        whole: The score of all n images, s.
        left_out: (n,), the score of all images but one, s₋ᵢ; of a single image it is not looked at. NaN where
            nothing is left to score, as where one image has all the boxes: its pseudo-value is NaN too.

    References:
        Tukey, "Bias and Confidence in Not-Quite Large Samples", 1958. Efron & Stein, "The Jackknife Estimate
        of Variance", 1981.

    Example:
        Of the mean of 1, 2 and 6:

        >>> pseudo_values(3.0, torch.tensor([4.0, 3.5, 1.5]))
        tensor([1., 2., 6.], dtype=torch.float64)
    """
    n = len(left_out)
    if n == 1:
        return torch.tensor([whole], dtype=torch.float64)
    return n * whole - (n - 1) * left_out.double()
