"""``python -m decayfree`` and the ``decayfree`` script: the command line, or what to install for it.

It defines no command; see `cli/app.py`.
"""

import sys


def main() -> None:
    """Run the command line."""
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
