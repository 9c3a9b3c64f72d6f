"""Many runs: tasks, algorithms and seeds as a grid, and its leaderboard."""
