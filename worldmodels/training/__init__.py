"""From a configuration to a trained run: setup, module, losses, callbacks, checkpoints. No algorithm lives here."""
