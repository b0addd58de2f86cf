"""What training a binarized network costs beside full precision: time of a step, memory kept for backward."""

from irnet_convert.cost.run import Case, Request, measure
from irnet_convert.cost.table import Cost, Row

__all__ = ["Case", "Cost", "Request", "Row", "measure"]
