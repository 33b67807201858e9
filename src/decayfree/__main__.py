"""``python -m decayfree`` and the ``decayfree`` script: the command line, or what to install for it.

It defines no command; see `cli/app.py`.
"""

import signal
import sys
import threading
from typing import NoReturn

INTERRUPTED = 130


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback, wherever it is."""
    is_interrupted = False

    def interrupt(*_: object) -> NoReturn:
        nonlocal is_interrupted
        is_interrupted = True
        raise KeyboardInterrupt

    # Where it is ignored, as in a job in the background, it stays so.
    is_ours = threading.current_thread() is threading.main_thread()
    if is_ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        _run()
    except (Exception, KeyboardInterrupt):  # what is interrupted while it is imported may say anything
        if not is_interrupted:
            raise
        sys.exit(INTERRUPTED)


def _run() -> None:
    try:
        from decayfree.cli.app import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        sys.exit(
            f"The command line needs {error.name}, which is not installed: pip install 'decayfree[study]'"
        )
    run()


if __name__ == "__main__":
    main()
