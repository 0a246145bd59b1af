"""What the algorithms share: the Boltzmann law of a critic, the policy and the training loop."""
