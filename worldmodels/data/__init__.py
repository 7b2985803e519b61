"""Collecting, replay, windows and, in readers/, recorded formats. Nothing here is scored or drawn."""
