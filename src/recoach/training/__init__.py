"""Supervised training and GRPO fine-tuning."""
