"""What learning planners share: policies, critics, returns, hindsight. Each planner is a file above."""
