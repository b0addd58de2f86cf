"""Fine-tuning on Accelerate: recipes walked to results, checkpoints, evaluation."""

from irnet_convert.train.evaluate import evaluate
from irnet_convert.train.run import Result, finetune
from irnet_convert.train.saved import evaluate_run, load

__all__ = ["Result", "evaluate", "evaluate_run", "finetune", "load"]
