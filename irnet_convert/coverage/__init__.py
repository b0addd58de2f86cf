"""Proof that every timm and torchvision architecture converts: ``irnet-convert coverage``.

Names are checked in worker processes (``runner``); one check (``check``) builds a model, converts it, and
asks of it the properties of ``structure``, ``flow`` and ``values``, each by other means than those that made
the plan. Rows go to a CSV (``rows``) and are summed up on a page (``page``).
"""
