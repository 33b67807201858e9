"""Which normalizations cancel the scale of each weight that has none?

Looks at the running statistics that follow when weights are scaled, all at once and, where several weights
act on one normalization, without the others; and at where the graph leads.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch

from decayfree.invariance.finding import Finding
from decayfree.invariance.followers import TwoRuns, apart
from decayfree.invariance.labels import factors_for_one
from decayfree.invariance.norm_places import places
from decayfree.invariance.probe import Probe, Ran
from decayfree.invariance.running_statistics import NormLayer, put_in
from decayfree.invariance.seen import Confirmation, Seen, candidates, scaled_candidate
from decayfree.invariance.trials import Trials


@dataclass(frozen=True)
class Cancelling:
    """What cancels each candidate.

    Args:
        trials: At the point of the newest probe.
        seen: With the findings that were confirmed.
        confirmation: Of these findings.
    """

    trials: Trials
    seen: Seen
    confirmation: Confirmation

    @property
    def _probe(self) -> Probe:
        return self.trials.probe

    def findings(self) -> dict[str, Finding]:
        """The findings with what cancels the scale of each matrix."""
        seen = self.seen
        factors = {
            name: seen.factors[name]
            for name in candidates(seen.findings)
            if not seen.findings[name].is_vector
        }
        weights = {name: self._probe.parameters[name] for name in factors}
        places_of = places(seen.outputs, seen.calls, self.confirmation.calls, weights)
        found, unexplained = self._two_runs(self.confirmation.ran).followers(factors)
        found = self._with_unexplained(found, unexplained, places_of)
        findings = dict(seen.findings)
        for name in factors:
            layers = found[name]
            others = [] if layers else [NormLayer(place) for place in places_of[name]]
            findings[name] = replace(findings[name], norm_layers=(*layers, *others))
        return findings

    def _with_unexplained(
        self,
        found: Mapping[str, list[NormLayer]],
        unexplained: list[str],
        places_of: Mapping[str, Collection[str]],
    ) -> dict[str, list[NormLayer]]:
        """The normalizations of each weight with those on which several weights act.

        Each weight is scaled without the others that act on the same ones. Weights that the graph leads to
        different ones share a run, and are scaled alone only where something else follows them.
        """
        layers_of = {
            name: [layer for layer in unexplained if layer in places_of[name] or not places_of[name]]
            for name in found
        }
        complete = {name: list(layers) for name, layers in found.items()}
        for together in apart(layers_of):
            for name, layers in self._followers_apart(together, layers_of, unexplained).items():
                complete[name] += layers
        return complete

    def _followers_apart(
        self, names: list[str], layers_of: Mapping[str, list[str]], unexplained: list[str]
    ) -> dict[str, list[NormLayer]]:
        """Scale some weights that act on different modules, nothing else, and see which follow each."""
        factors = {name: factors_for_one(len(self.seen.factors[name]), self._probe.seed) for name in names}
        changes = [
            scaled_candidate(name, self.seen.findings[name], values) for name, values in factors.items()
        ]
        runs = self._two_runs(self.trials.run(*changes))
        if len(names) == 1:
            return {name: runs.followers_of_one(unexplained, factors[name]) for name in names}
        others = set(unexplained).difference(*(layers_of[name] for name in names))
        if runs.followers_of_one(others, factors[names[0]]):
            alone = [self._followers_apart([name], layers_of, unexplained) for name in names]
            return {name: layers for one in alone for name, layers in one.items()}
        return {name: runs.followers_of_one(layers_of[name], factors[name]) for name in names}

    def _two_runs(self, scaled: Ran) -> TwoRuns:
        vectors = {
            name: parameter.detach().double().cpu()
            for name, parameter in self._probe.parameters.items()
            if parameter.ndim == 1 and not parameter.is_complex()
        }
        after = put_in(scaled.start, scaled.statistics, self.seen.kept)
        return TwoRuns(self.seen.statistics, after, vectors, self._probe.dtype == torch.float64)
