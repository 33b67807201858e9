"""What does every gradient of one probe say, before it makes room for the next?

Looks at gradients during the backward pass and frees them: all at once would need as much memory as the copy.
Draws no conclusion.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from decayfree.invariance.evidence import Evidence
from decayfree.invariance.exact_arithmetic import outside_of_modes
from decayfree.invariance.norm_places import reversed_graph
from decayfree.invariance.probe import Probe, as_real, in_real_terms


def with_gradients(
    probe: Probe, outputs: list[Tensor], evidence: Mapping[str, Evidence], biases: Mapping[str, str | None]
) -> tuple[dict[str, Evidence], set[str]]:
    """The evidence with one probe more, and the names of all parameters that reach the outputs.

    Args:
        probe: Runs backward.
        outputs: Of its newest run, with their graph.
        evidence: By parameter, of those to look at.
        biases: By parameter its bias, or None.
    """
    gathering = _Gathering(probe, evidence, biases)
    # A reentrant checkpoint gives gradients of its own, which may be parts.
    is_in_parts = any("CheckpointFunction" in type(node).__name__ for node in reversed_graph(outputs)[0])
    handles = [output.register_hook(gathering.on_output) for output in outputs if output.requires_grad]
    handles += [
        parameter.register_hook(partial(gathering.on_gradient, name))
        for name, parameter in probe.parameters.items()
        if parameter.requires_grad and not is_in_parts
    ]
    try:
        gradients = probe.gradients(outputs)
    finally:
        for handle in handles:
            handle.remove()
    probe.check_repetition()
    for name, gradient in gradients.items():
        gathering.here.setdefault(name, gradient)
    for name in gradients:
        gathering.take(name)
    return gathering.evidence, set(gradients)


class _Gathering:
    """The evidence so far, and the gradients that are kept until their bias's is there or for a weight's."""

    def __init__(
        self, probe: Probe, evidence: Mapping[str, Evidence], biases: Mapping[str, str | None]
    ) -> None:
        self.evidence = dict(evidence)
        self.here: dict[str, Tensor] = {}
        self._probe = probe
        self._biases = biases
        self._weights_of: dict[str, list[str]] = {}
        for weight, bias in biases.items():
            self._weights_of.setdefault(bias or "", []).append(weight)
        self._taken: set[str] = set()
        self._backward: int | None = None  # the pass that is ours

    def on_output(self, _: Tensor) -> None:
        self._backward = torch._C._current_graph_task_id()

    def on_gradient(self, name: str, gradient: Tensor) -> Tensor | None:
        """Take what is complete; of a matrix that was taken nothing but its shape is left.

        A backward of one's own that differentiates, such as an adjoint method, gets its parts as they are.
        """
        if torch._C._current_graph_task_id() != self._backward:
            return None
        is_sparse = gradient.layout != torch.strided
        gradient = gradient.to_dense() if is_sparse else gradient
        self.here.setdefault(name, gradient)
        for other in (name, *self._weights_of.get(name, ())):
            bias = self._biases[other]
            if other in self.here and self.here[other].ndim > 1 and (bias is None or bias in self.here):
                self.take(other)
        is_matrix = gradient.ndim > 1 and not is_sparse
        return gradient.new_zeros(()).expand(gradient.shape) if is_matrix else None

    @torch.no_grad()
    def take(self, name: str) -> None:
        """Look at one gradient, once, and forget it if it is not a vector, which may be somebody's bias."""
        if name in self._taken:
            return
        self._taken.add(name)
        parameter, bias = self._probe.parameters[name], self._biases[name] or ""
        gradient = self.here[name] if parameter.ndim < 2 else self.here.pop(name)
        if name not in self.evidence or not is_measured(parameter):
            return
        vector: Tensor | None = self._probe.parameters.get(bias)
        slopes = self.here.get(bias)
        if vector is not None and slopes is not None:
            vector, slopes = in_real_terms(vector, slopes)
        with outside_of_modes([parameter, gradient, *(one for one in (vector, slopes) if one is not None)]):
            self.evidence[name] = self.evidence[name].with_probe(
                as_real(parameter), as_real(gradient), vector, slopes
            )


def is_measured(parameter: Tensor) -> bool:
    """Whether it holds floating or complex numbers; others are not measured."""
    return (parameter.is_floating_point() or parameter.is_complex()) and parameter.numel() > 0
