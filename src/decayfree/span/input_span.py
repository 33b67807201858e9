"""Where a weight lives: in the span of its layer's inputs, which its gradients cannot leave, or off it.

Watches forward passes and hands out one `LayerSpan` a weight, whose algebra is in layer_span.py. Changes no
weight; cleaning.py does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from decayfree.arguments.wrappers import model_faults, plain
from decayfree.columns import aligned
from decayfree.errors import (
    AlreadyAttachedError,
    InvalidInputError,
    MismatchError,
    closest,
    faults_of,
    raise_all,
    whole_number_faults,
)
from decayfree.span.layer_span import LayerSpan
from decayfree.span.patches import patches_of
from decayfree.span.second_moment import AROUND, Centering, MomentSum, state_fault
from decayfree.span.watchable import first_names, watchable_weights


class Named(Protocol):
    """Anything with the name of a parameter, such as a :class:`decayfree.ScaleInvariantWeight`."""

    @property
    def name(self) -> str:
        """Of the parameter."""


class InputSpan:
    """Watches forward passes and keeps the second moment of what each weight's rows are multiplied with.

    For linear layers these are the inputs, at all leading positions; for convolutions, plain and transposed,
    the patches of the padded input, for each group at the layer's stride, padding and dilation. The gradient
    of a row is a sum of these vectors. With a BatchNorm (or InstanceNorm) right behind the layer it is a sum
    of the vectors minus their mean over the batch.

    Args:
        model: Watched inside the ``with`` block, where forward passes are to be run as usual: under
            `torch.no_grad` or not, in train or in eval mode. Nothing in it changes but for hooks, which are
            gone afterwards. A compiled model may skip hooks: run the model itself.
        found: The weights to watch, as from :func:`decayfree.find_invariant`, or names of parameters. None:
            all that can be.
        centered: Around what inputs are centered. True: around the mean of their own batch, that is of one
            call of the layer; gradients of these batches before a BatchNorm lie in this span. ``"overall"``:
            around the mean of all that was watched; gradients of any batches of the same samples lie in this
            one. False: not at all; for layers with something between them and the normalization, with one
            that does not center over the batch (GroupNorm, LayerNorm, RMSNorm), or without one.
        max_features: Weights with longer rows are left out. d features take 8·groups·d² bytes while they are
            watched (134 MB at the default), thrice that once they are looked at, which takes d³ operations.

    Raises:
        InvalidInputError: If an argument is not what it should be.
        MismatchError: If the model does not have a weight of ``found``.

    References:
        Liu, Cui, Wan, Mao, Chan, "The Implicit Biases of Stochastic Gradient Descent on Deep Neural Networks
        with Batch Normalization", 2021, arXiv 2102.03497v1: updates stay in the span of the input features.

    Example:
        Two inputs that differ along the first feature only.

        >>> model = nn.Linear(2, 1)
        >>> with InputSpan(model) as span:
        ...     _ = model(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> span["weight"].second_moment
        tensor([[[1., 0.],
                 [0., 0.]]], dtype=torch.float64)
        >>> span["weight"].rank()
        tensor([1])
    """

    def __init__(
        self,
        model: nn.Module,
        found: Iterable[Named | str] | None = None,
        *,
        centered: Centering = True,
        max_features: int = 4096,
    ) -> None:
        _check_settings(model, found, centered, max_features)
        self.model = model
        self.centered: Centering = centered
        self.max_features = max_features
        inner = plain(model)  # so that names are the model's own
        self._first_names = first_names(inner)
        chosen = None if found is None else _chosen(self._first_names, found)
        self._watched, self._left_out = watchable_weights(inner, chosen, max_features)
        self._moments: dict[str, MomentSum] = {}
        self._spans: dict[str, LayerSpan] = {}
        self._handles: list[RemovableHandle] = []

    @property
    def left_out(self) -> dict[str, str]:
        """Weights not in here, with the reason; those that no input reached, once others were reached."""
        silent = [name for name in self._watched if name not in self._moments] if self._moments else []
        return self._left_out | dict.fromkeys(silent, "no forward pass called its layer while it was watched")

    @property
    def is_watching(self) -> bool:
        """Whether its hooks are on the model."""
        return bool(self._handles)

    def __enter__(self) -> "InputSpan":
        if self.is_watching:
            raise AlreadyAttachedError("this InputSpan is watching already: leave its with block first")
        for name, (_, modules) in self._watched.items():
            hook = self._hook(name, modules)
            self._handles += [
                module.register_forward_hook(hook, with_kwargs=True, prepend=True) for module in modules
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __getitem__(self, name: str) -> LayerSpan:
        """The span of the inputs of one weight, of all that was watched so far."""
        name = self._first_names.get(name, name)
        if name not in self._moments:
            raise MismatchError(f"{name}: {self._why_not(name)}")
        if name not in self._spans:
            moment = self._moments[name]
            self._spans[name] = LayerSpan(
                name,
                self._watched[name][0],
                moment.average(),
                moment.mean,
                n_samples=moment.n_samples,
                n_batches=moment.n_batches,
                centered=self.centered,
            )
        return self._spans[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the weights whose inputs were seen, in the model's order."""
        return (name for name in self._watched if name in self._moments)

    def __len__(self) -> int:
        return len(self._moments)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._first_names.get(name, name) in self._moments

    def merge_(self, other: "InputSpan | Mapping[str, Any]") -> None:
        """Add what another worker has seen, as if its batches had been seen here.

        Args:
            other: Of the same model or a copy of it, or its :meth:`state_dict`.

        Raises:
            MismatchError: If it was centered otherwise, or has a weight that is not watched here; nothing has
                changed then.
        """
        moments = self._moments_of(other.state_dict() if isinstance(other, InputSpan) else other)
        for name, moment in moments.items():
            if name in self._moments:
                self._moments[name].merge_(moment)
            else:
                self._moments[name] = moment
        self._spans.clear()

    def state_dict(self) -> dict[str, Any]:
        """All sums, in numbers, strings and tensors: `torch.load` reads them with ``weights_only=True``."""
        return {
            "centered": self.centered,
            "moments": {name: self._moments[name].state_dict() for name in self},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave, instead of what was seen so far.

        Raises:
            MismatchError: As for :meth:`merge_`.
        """
        self._moments = self._moments_of(state)
        self._spans.clear()

    def __repr__(self) -> str:
        rows = [("weight", "shape", "features", "samples", "batches")]
        for name in self:
            layout, moment = self._watched[name][0], self._moments[name]
            features = f"{layout.n_features}" + (f" in {layout.groups} groups" if layout.groups > 1 else "")
            rows.append((name, str(layout.shape), features, f"{moment.n_samples:,}", f"{moment.n_batches:,}"))
        lines = [f"Inputs of {len(self)} weights, {AROUND[self.centered]}."]
        lines += aligned(rows) if len(self) else []
        if self.left_out:
            lines += ["", f"Left out: {len(self.left_out)}"]
            lines += [f"  {line}" for line in aligned(list(self.left_out.items()))]
        return "\n".join(lines)

    def _hook(self, name: str, modules: Sequence[nn.Module]) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            inputs = args[0] if args else kwargs["input"]
            is_own = any(module is own for own in modules)  # and no copy that took the hook along
            if is_own and inputs.numel():
                self._add_(name, module, inputs, output)

        return see

    @torch.inference_mode(False)  # what is made in inference mode cannot be changed outside of it
    @torch.no_grad()
    def _add_(self, name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        inputs = inputs.cpu() if inputs.device.type == "mps" else inputs  # which has no float64
        if name not in self._moments:
            layout = self._watched[name][0]
            self._moments[name] = MomentSum(
                layout.groups, layout.n_features, self.centered, device=inputs.device
            )
        self._moments[name].add_batch_(patches_of(module, inputs, output))
        self._spans.pop(name, None)

    def _why_not(self, name: str) -> str:
        if name in self._watched and not self._moments:
            return (
                "no input was watched yet; run the model, uncompiled, inside `with InputSpan(model) as span:`"
            )
        asked = "it was not asked for" if name in self._first_names else "the model has no such parameter"
        return self.left_out.get(name, asked)

    def _moments_of(self, state: Mapping[str, Any]) -> dict[str, MomentSum]:
        if not isinstance(state, Mapping) or not {"centered", "moments"} <= state.keys():
            raise MismatchError(
                "this was not made by InputSpan.state_dict: it has no 'centered' or no 'moments'"
            )
        faults = []
        if not isinstance(state["moments"], Mapping):
            raise MismatchError(f"moments must be a table, got {type(state['moments']).__name__}")
        if state["centered"] != self.centered:
            faults.append(f"one has centered={state['centered']!r}, the other centered={self.centered!r}")
        for name, moment in state["moments"].items():
            if name not in self._watched:
                faults.append(f"{name}: {self._why_not(name)}")
                continue
            fault = state_fault(moment)
            if fault is not None:
                faults.append(f"{name}: {fault}")
                continue
            layout, size = self._watched[name][0], tuple(moment["mean"].shape)
            if size != (layout.groups, layout.n_features):
                faults.append(
                    f"{name}: {size} groups and features instead of {(layout.groups, layout.n_features)}"
                )
        raise_all(faults_of(MismatchError, faults), about="these spans do not go together: ")
        return {
            name: MomentSum.from_state(moment, self.centered) for name, moment in state["moments"].items()
        }


def _check_settings(model: object, found: object, centered: object, max_features: object) -> None:
    faults = model_faults(model)
    if isinstance(found, str) or not (found is None or isinstance(found, Iterable)):
        faults.append(f"found must be what find_invariant returned, a list of names, or None, got {found!r}")
    if not (isinstance(centered, bool) or centered == "overall"):
        faults.append(f'centered must be True, False or "overall", got {centered!r}')
    faults += whole_number_faults("max_features", max_features)
    raise_all(faults_of(InvalidInputError, faults))


def _chosen(names: Mapping[str, str], found: Iterable[Named | str]) -> set[str]:
    """First names of the parameters that were asked for."""
    entries = list(found)
    wrong = [entry for entry in entries if not isinstance(getattr(entry, "name", entry), str)]
    if wrong:
        raise InvalidInputError(f"found must hold weights or names of parameters, got {wrong[0]!r}")
    asked = [entry if isinstance(entry, str) else entry.name for entry in entries]
    unknown = [name for name in asked if name not in names]
    if unknown:
        listed = ", ".join(unknown[:6]) + (", …" if len(unknown) > 6 else "")
        meant = closest(unknown[0], names) if len(unknown) == 1 else ""
        raise MismatchError(f"the model has no parameter of these names: {listed}{meant}")
    return {names[name] for name in asked}
