"""Fine-tuning on Accelerate: recipes walked to results, checkpoints, evaluation."""
