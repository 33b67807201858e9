"""What a span does with inputs on a device that has no float64, on a stand-in for one."""

from __future__ import annotations

import torch
from torch import nn

from decayfree.span.input_span import InputSpan
from support.elsewhere import Elsewhere, elsewhere, put_elsewhere_


def test_inputs_on_a_device_without_float64_are_summed_on_the_host(seed: int) -> None:
    model, inputs = nn.Linear(3, 2), torch.randn(8, 3)
    with InputSpan(model) as here:
        model(inputs)
    put_elsewhere_(model)
    with elsewhere("mps"), InputSpan(model) as there:
        model(inputs.as_subclass(Elsewhere))
    moments = [span.state_dict()["moments"]["weight"] for span in (here, there)]
    for key, value in moments[0].items():
        if isinstance(value, torch.Tensor):
            assert type(moments[1][key]) is torch.Tensor
            assert torch.equal(moments[1][key], value)
