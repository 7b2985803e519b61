"""Planning by denoising trajectories: planner.py and its parts, one file each. Scheduler mathematics is diffusers'."""
