"""What was found: the scale-invariant weights of a model, their blocks, and a verdict on every parameter.

Prints as a table and goes through JSON. Measures nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from decayfree.arguments.stored import is_flat_parameter, packed_weights
from decayfree.arguments.wrappers import model_faults, plain
from decayfree.blocks import Part, faults_of_shape
from decayfree.display.notebook import titled
from decayfree.display.paper import PAGE
from decayfree.errors import (
    InvalidInputError,
    MismatchError,
    UnsupportedWeightError,
    closest,
    faults_of,
    raise_all,
)
from decayfree.invariance.by_request import By, requested
from decayfree.invariance.running_statistics import UNKNOWN_SHIFT, NormLayer
from decayfree.invariance.verdict import ScaleInvariantWeight, Verdict
from decayfree.invariance.words import head_of, rows_of, table_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Invariance(Sequence[ScaleInvariantWeight]):
    """The scale-invariant weights of a model, in the model's order, with a verdict on every parameter.

    Printing it shows a table.

    Args:
        model: The model that was probed.
        weights: The scale-invariant weights that were not left out.
        verdicts: One for every parameter.
        dtype: The precision in which the probe ran.
        confirmed_to: Relative movement of the outputs when all blocks were scaled at once by random factors.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Iterable[ScaleInvariantWeight],
        verdicts: Mapping[str, Verdict],
        *,
        dtype: torch.dtype,
        confirmed_to: float,
    ) -> None:
        self.model = model
        self.verdicts = dict(verdicts)
        self.dtype = dtype
        self.confirmed_to = confirmed_to
        self._weights = {weight.name: weight for weight in weights}

    @overload
    def __getitem__(self, key: int | str) -> ScaleInvariantWeight: ...
    @overload
    def __getitem__(self, key: slice) -> list[ScaleInvariantWeight]: ...
    def __getitem__(self, key: int | str | slice) -> ScaleInvariantWeight | list[ScaleInvariantWeight]:
        if not isinstance(key, str):
            return list(self._weights.values())[key]
        if key in self._weights:
            return self._weights[key]
        verdict = self.verdicts.get(key)
        raise MismatchError(
            f"{key!r} is {verdict.verdict}: {verdict.reason}"
            if verdict
            else f"the model has no parameter {key!r}{closest(key, self.verdicts)}"
        )

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[ScaleInvariantWeight]:
        return iter(self._weights.values())

    def holds(self, name: str) -> bool:
        """Whether a weight of this name is among them; ``name in found`` for type checkers."""
        return isinstance(name, str) and name in self._weights

    def __contains__(self, key: object) -> bool:
        return key in self._weights if isinstance(key, str) else key in self._weights.values()

    def parts(self, model: nn.Module | None = None) -> dict[str, Part]:
        """The parameters in their blocks, by name; of ``model``, a copy for instance, instead of its own."""
        raise_all(faults_of(InvalidInputError, [] if model is None else model_faults(model)))
        parameters = dict((self.model if model is None else model).named_parameters())
        return {weight.name: weight.part(parameters) for weight in self}

    def by_request(self, by: Mapping[str, By]) -> "Invariance":
        """The same with further weights, which have a scale: to hold them changes what the model can learn.

        Hyperball and nGPT hold all matrices of a transformer so, and a rescale of one side only
        (``at_most=True``) is MaxNorm. The table marks them. :class:`decayfree.WeightRescaling` holds them at
        the norms that it meets, unless ``radius`` names them in a pattern; :func:`decayfree.rescale_`, which
        moves no outputs, leaves them alone.

        Args:
            by: From glob patterns over names to the blocks: ``"row"``, ``"whole"``, or a number of equal
                blocks of rows (attention heads). Only trained parameters of two and more dimensions are
                matched, each by its first pattern, and what is in the result already stays as it is.

        Raises:
            InvalidInputError: If a pattern matches no matrix, or the rows of one cannot be divided so.
            MismatchError: If the model has got others since it was probed.

        Example:
            >>> from decayfree import find_invariant
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            >>> found = find_invariant(model, torch.randn(16, 4)).by_request({"0.*": "row", "2.*": "whole"})
            >>> [(weight.name, weight.blocks.n_blocks) for weight in found]
            [('0.weight', 8), ('2.weight', 1)]
        """
        more = {name: one for name, one in requested(self.model, by).items() if name not in self._weights}
        unknown = [
            f"{name} was not in the model that was probed" for name in more if name not in self.verdicts
        ]
        raise_all(faults_of(MismatchError, unknown))
        weights = self._weights | more
        return Invariance(
            self.model,
            [weights[name] for name in self.verdicts if name in weights],
            self.verdicts,
            dtype=self.dtype,
            confirmed_to=self.confirmed_to,
        )

    def __repr__(self) -> str:
        return self.table()

    def table(self, *, everything: bool = False) -> str:
        """The table of scale-invariant weights, then what is not among them, each reason once.

        Args:
            everything: All weights, names and vectors, and no name of a normalization cut; without it lines
                have 110 characters and long lists end early.
        """
        return table_of(
            list(self), self.verdicts, self.model, self.dtype, self.confirmed_to, everything=everything
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the weights, and how many parameters are not among them."""
        head = head_of(list(self), self.verdicts, self.dtype, self.confirmed_to)
        held = {name for weight in self for name in weight.names}
        others = Counter(one.verdict for one in self.verdicts.values() if one.name not in held)
        said = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in others.items())
        note = f"{'The rest: ' if held else ''}{said}; print(found) says why." if said else ""
        return titled(head[0], rows_of(list(self), self.verdicts, self.model), note)

    def plot(self, *, width: float = PAGE) -> "Figure":
        """A picture of the model: its weights in their order, by verdict, with blocks and normalizations.

        Vectors (gains and biases) are drawn in small models and counted in others; ``print`` tells of all.

        Args:
            width: In inches. 3.25 is a column of two, 5.5 the text of a page, 6.75 both columns.

        Returns:
            A figure of matplotlib; ``.savefig("model.pdf")`` keeps it.

        Raises:
            InvalidInputError: If no figure is so wide.
            MissingExtraError: If matplotlib is not installed.
        """
        from decayfree.invariance.picture import picture_of  # few draw

        title = head_of(list(self), self.verdicts, self.dtype, self.confirmed_to)[0]
        return picture_of(list(self), self.verdicts, self.model, title, width)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model, in types that JSON knows."""
        return {
            "weights": [asdict(weight) for weight in self],
            "verdicts": [asdict(verdict) for verdict in self.verdicts.values()],
            "dtype": str(self.dtype).removeprefix("torch."),
            "confirmed_to": self.confirmed_to,
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], model: nn.Module) -> "Invariance":
        """Put back what :meth:`to_dict` made, for the same model or a copy of it.

        Raises:
            MismatchError: If a weight, its shape or a normalization is not in ``model``, or this was made by
                something else.
        """
        about = "this was not made by Invariance.to_dict"
        wanted = {"weights", "verdicts", "dtype", "confirmed_to"}
        missing = sorted(wanted - d.keys()) if isinstance(d, Mapping) else sorted(wanted)
        if missing:
            raise MismatchError(f"{about}: it has no {', '.join(missing)}")
        raise_all(faults_of(InvalidInputError, model_faults(model)))
        model = plain(model)
        try:
            weights = [_weight_from(entry) for entry in d["weights"]]
            verdicts = [Verdict(**{**entry, "shape": tuple(entry["shape"])}) for entry in d["verdicts"]]
            found = cls(
                model,
                weights,
                {verdict.name: verdict for verdict in verdicts},
                dtype=getattr(torch, d["dtype"]),
                confirmed_to=d["confirmed_to"],
            )
            lacking = [weight.name for weight in weights if weight.name not in found.verdicts]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise MismatchError(f"{about}: {type(error).__name__}: {error}") from error
        if lacking:
            raise MismatchError(f"{about}: it has no verdict on {', '.join(lacking[:4])}")
        found.check_fits(model)
        return found

    def check_fits(self, model: nn.Module) -> None:
        """Raise a :class:`MismatchError` that lists everything here that ``model`` does not have.

        Where weights are packed (flattened by FSDP1, quantized), an :class:`UnsupportedWeightError`.
        """
        faults = self.misfits(model)
        looked_at = {
            name: one for name, one in model.named_parameters() if is_flat_parameter(one) or self.holds(name)
        }
        raise_all(faults_of(UnsupportedWeightError, packed_weights(looked_at)[:4]))
        if faults:
            parameters = dict(model.named_parameters())
            wrapper = next(
                (name for name in ("_orig_mod", "module") if f"{name}.{self[0].name}" in parameters), None
            )
            cure = f"; pass the model inside the wrapper, model.{wrapper}" if wrapper else ""
            raise MismatchError(
                "these scale-invariant weights belong to another model: " + "; ".join(faults[:6]) + cure
            )

    def misfits(self, model: nn.Module) -> list[str]:
        """Everything here that ``model`` does not have."""
        raise_all(faults_of(InvalidInputError, model_faults(model)))
        parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
        faults = []
        for weight in self:
            shape = tuple(parameters[weight.name].shape) if weight.name in parameters else None
            if (
                shape is None
                or shape != self.verdicts[weight.name].shape
                or faults_of_shape(shape, weight.blocks)
            ):
                faults.append(
                    f"{weight.name} {self.verdicts[weight.name].shape}: the model has "
                    f"{shape or 'no such parameter'}"
                )
            faults += [f"{bias}: no such bias" for bias in [weight.bias] if bias and bias not in parameters]
            faults += layer_faults(weight, parameters, modules)
        return faults


def layer_faults(
    weight: ScaleInvariantWeight, parameters: Mapping[str, Tensor], modules: Mapping[str, nn.Module]
) -> Iterator[str]:
    """Normalizations behind a weight that the model does not have, or that lose what must follow it."""
    for layer in weight.norm_layers:
        if layer.name not in modules:
            yield f"{layer.name}: no such module"
            continue
        buffers = dict(modules[layer.name].named_buffers(recurse=False))  # of a script, too
        var = buffers.get("running_var")
        if layer.blocks and (
            buffers.get("running_mean") is None or var is None or var.numel() <= max(layer.channels)
        ):
            yield (
                f"{layer.name}: {type(modules[layer.name]).__name__} keeps no running statistics of "
                f"{max(layer.channels) + 1} channels"
            )
        if layer.shift not in (None, UNKNOWN_SHIFT) and layer.shift not in parameters:
            yield f"{layer.shift}: no such bias"


def _weight_from(entry: Mapping[str, Any]) -> ScaleInvariantWeight:
    layers = tuple(_norm_layer_from(layer) for layer in entry["norm_layers"])
    return ScaleInvariantWeight(
        **{
            **entry,
            "block_sizes": tuple(entry["block_sizes"]),
            "starts": tuple(entry.get("starts", ())),
            "norm_layers": layers,
        }
    )


def _norm_layer_from(entry: Mapping[str, Any]) -> NormLayer:
    channels, blocks, rows = (tuple(entry[key]) for key in ("channels", "blocks", "shift_rows"))
    return NormLayer(entry["name"], channels, blocks, entry["shift"], rows)
