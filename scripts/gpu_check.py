"""`worldmodels gpu_check` from a checkout; `--help` says what it takes."""

if __name__ == "__main__":  # workers are spawned, which imports this file again: everything heavy waits until here
    from worldmodels.commands.console import script

    script("gpu_check")
