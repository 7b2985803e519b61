"""`worldmodels doctor` from a checkout: whether this machine can train from pixels, and what to install if not."""

import sys

if __name__ == "__main__":  # workers are spawned, which imports this file again: everything heavy waits until here
    try:
        from worldmodels.commands.console import script

        script("doctor")
    except ModuleNotFoundError as error:
        sys.stderr.write(f"The Python package {error.name} is missing: run `make setup`, or install it with pip.\n")
        sys.exit(1)
