"""Policies: which layers become binary. Pure data and matching; nothing here touches a model.

A policy is an ordered list of rules, and the first rule that matches a layer decides. Rules match by
what the recording found out about a layer (:class:`LayerInfo`), not by its class alone.
"""

from irnet_convert.policy.policy import PRESETS, Policy
from irnet_convert.policy.rule import POSITIONS, ROLES, LayerInfo, Rule

__all__ = ["POSITIONS", "PRESETS", "ROLES", "LayerInfo", "Policy", "Rule"]
