"""What does somebody see who waits for a long search?

A line on stderr every five seconds. Nothing before the first five are over.
"""

import sys
import time

EVERY_S = 5.0


class Progress:
    """Tells how long a search has been going on and how often it has run the model."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()
        self._n_runs = 0

    def begin_run(self) -> None:
        """To be called before each run of the model."""
        now = time.monotonic()
        if now - self._told >= EVERY_S:
            self._told = now
            sys.stderr.write(
                f"decayfree: looking for scale-invariant weights, run {self._n_runs + 1} of the model after "
                f"{now - self._began:.0f} s\n"
            )
        self._n_runs += 1
