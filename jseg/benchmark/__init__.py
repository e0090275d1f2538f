"""How fast jseg is: work by formula, timed workloads, comparison with other programs."""
