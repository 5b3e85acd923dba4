"""Learning by acting in a Gymnasium environment: policies, rollouts, algorithms, trainer."""
