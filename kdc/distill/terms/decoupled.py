"""Terms that take the teacher's distribution apart: DKD by target and non-target classes, DIST by correlations."""
