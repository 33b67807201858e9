"""Bounds that tests hold and pages repeat, float64 before float32 where there are two."""

STAYS = (1e-14, 2e-6)
DECAYS = (1e-14, 9e-6)
TWO_TERMS = (5e-14, 9e-6)
"""The recursion itself rounds to 3e-14."""
SHRINKS_WITH_THE_NORM = (1e-13, 2e-6)
"""How far off-span parts and shares are from their laws, of the part or share at the start."""
CLEANED = (1e-13, 1e-6)
"""How far outputs move by `remove_off_span_`."""
LEAVERS_LEAVE = 0.05
"""At least so much of what elementwise optimizers moved is off the span."""
IN_SPAN_NOTICES = 1e-12
"""At most so much of an in-span part depends on the off-span part, without rescaling."""
UNCENTERED_IN_A_GRADIENT = 0.1
"""At least so much of a gradient without BatchNorm lies off the centered span."""
OTHER_BATCHES_OFF, OTHER_BATCHES_IN = 0.1, 1e-13
"""How much of a gradient of other batches lies off the span of batches, at least, and off that of samples."""

LEAST_HELD, MOST_HELD = 0.93, 0.97
"""How often intervals of 95 % hold the truth in simulations."""
N_SIMULATIONS = 600
"""Of scores of whole sets."""
SHRUNK_ERROR = 0.97
"""At most so much is the mean squared error of shrunk differences of the groups' own."""

PREDICTED, WITHOUT_DECAY = 0.05, 0.1
"""How far angles of a training are from those predicted, and without decay from those with it; shares."""
LEARNED_LABELS = 0.05
"""The second where no label is random and decay is weak, at least in one layer."""
LAGGING, AT_THE_END, UNCHANGED = 0.04, 1.0, 0.15
"""How far angles are from those of decay on a cosine: of what follows the norm at most, of the root and of
the cosine itself at least; shares."""
TIME_CONSTANTS = 3.6
"""So many of them that cosine is long, for SGD with momentum."""

ON_MESHES = 1e-12
"""How far weights and statistics on several processes, or stepped in backward, are from the usual ones."""
IN_ANOTHER_ORDER = 1e-6
"""The same in float32, where one process goes on from four."""

AFTER_AVERAGING = 0.005
"""How far outputs after a fit with averages are from those with recomputed statistics; a share."""
BFLOAT16 = 2**-8
"""How far off their radius weights of bfloat16 stay."""
ARC_COSINE, OF_DISTANCE = 0.01, 0.1
"""How wrong, at least, two other formulas for small angles are in float32, at 1e-3 and at 1e-7 radians."""
