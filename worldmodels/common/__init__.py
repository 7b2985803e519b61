"""Leaves that several rooms need: seeds, batches, frames, files, precision, timing. Nothing here learns or acts."""
