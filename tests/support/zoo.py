"""For which models is the answer known?

All of the zoo in one tuple, from the files zoo_*.py; each entry (see zoo_entry.py) gives its answer and the
reason. The answers are held against finite scaling in test_zoo.py, without the package.
"""

from support.zoo_behaviours import ZOO_BEHAVIOURS
from support.zoo_entry import ZooModel
from support.zoo_layouts import ZOO_LAYOUTS
from support.zoo_networks import ZOO_NETWORKS
from support.zoo_norms import ZOO_NORMS
from support.zoo_traps import ZOO_TRAPS

ZOO: tuple[ZooModel, ...] = (*ZOO_NORMS, *ZOO_LAYOUTS, *ZOO_TRAPS, *ZOO_NETWORKS, *ZOO_BEHAVIOURS)
BY_NAME = {entry.name: entry for entry in ZOO}
