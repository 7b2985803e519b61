"""Leaves that several packages need: seeds, batches, frames, files, precision, timing. Nothing here learns or acts."""
