"""What searching planners share: shooting, proposals, receding horizon, guidance. Each planner is a file above."""
