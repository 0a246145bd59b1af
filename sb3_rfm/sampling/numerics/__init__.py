"""What estimators compute with: weights, quasi-random points, truncated normals, least squares."""
