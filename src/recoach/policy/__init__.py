"""The softmax policy over the catalogue and the mathematics of GRPO."""
