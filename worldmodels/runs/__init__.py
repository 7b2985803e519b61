"""Run folders: what a training leaves behind, loading it, its configuration with words on top. Nothing is trained."""
