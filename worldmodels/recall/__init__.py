"""`experiment=memory`: what each backbone remembers of a room it has seen. General training is in training/."""
