"""Recording, replay and the alternation of collecting and learning."""
