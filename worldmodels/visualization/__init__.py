"""Pictures and clips of what a model imagines and a planner plans. Curves of scores are in evaluation/."""
