"""Recipes: the schema, loading by name or path, overrides, dumping."""

from irnet_convert.recipe.find import FoundRecipe, bundled_recipes, find_recipe
from irnet_convert.recipe.inputs import CropSpec, DataSpec, MixupSpec, ModelSpec, TransformSpec
from irnet_convert.recipe.schema import Recipe
from irnet_convert.recipe.training import (
    BatchNormSpec,
    CheckpointSpec,
    DistillSpec,
    EdeSpec,
    EmaSpec,
    ExpectSpec,
    FeatureSpec,
    LatentSpec,
    OptimizerSpec,
    ScheduleSpec,
    StageSpec,
)

__all__ = [
    "BatchNormSpec",
    "CheckpointSpec",
    "CropSpec",
    "DataSpec",
    "DistillSpec",
    "EdeSpec",
    "EmaSpec",
    "ExpectSpec",
    "FeatureSpec",
    "FoundRecipe",
    "LatentSpec",
    "MixupSpec",
    "ModelSpec",
    "OptimizerSpec",
    "Recipe",
    "ScheduleSpec",
    "StageSpec",
    "TransformSpec",
    "bundled_recipes",
    "find_recipe",
]
