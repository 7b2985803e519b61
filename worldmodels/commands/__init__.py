"""One module a command, which `worldmodels <command>` and scripts/ call alike; what a command does lives elsewhere."""
