"""What runs measured: evaluations, learning curves, scores, aggregates and pictures of them."""
