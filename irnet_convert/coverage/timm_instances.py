"""The table of timm's families: module → architecture, side of its images, another side, arguments.

The architecture is the one with the fewest weights that the module defines (of timm 1.0.31), save one that
takes large images alone (byoanet). The other side is None where the architecture takes one size alone. Heads
have ten classes, save where the architecture has none.
"""

from __future__ import annotations

from typing import Any

_DROP = {"drop_rate": 0.1, "drop_path_rate": 0.1}
_DROPOUT = {"drop_rate": 0.1}
_HEADLESS = {**_DROP, "num_classes": 0}

TIMM: dict[str, tuple[str, int, int | None, dict[str, Any]]] = {
    "beit": (
        "beit_base_patch16_224", 64, None,
        {**_DROP, "img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3},
    ),
    "byoanet": ("botnet26t_256", 64, None, {**_DROP, "img_size": 64, "width_factor": 0.25}),
    "byobnet": ("test_byobnet", 64, 96, _DROP),
    "cait": (
        "cait_xxs24_224", 64, None,
        {**_DROP, "img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3},
    ),
    "coat": (
        "coat_tiny", 64, None,
        {**_DROP, "img_size": 64, "embed_dims": [48, 48, 48, 48], "parallel_depth": 2},
    ),
    "convit": (
        "convit_tiny", 64, None,
        {**_DROP, "img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3},
    ),
    "convmixer": ("convmixer_768_32", 64, 96, {}),
    "convnext": ("test_convnext", 64, 96, _DROP),
    "cpubone": ("cpubone_nano", 64, 96, _DROP),
    "crossvit": (
        "crossvit_tiny_240", 64, 96,
        {**_DROP, "depth": [[1, 2, 0], [1, 2, 0]], "embed_dim": [48, 96]},
    ),
    "csatv2": ("csatv2", 64, 96, {**_DROP, "dims": [32, 48, 64, 96]}),
    "cspnet": ("cs3darknet_focus_s", 64, 96, _DROP),
    "cspnext": ("cspnext_tiny", 64, 96, _DROP),
    "davit": (
        "davit_tiny", 64, 96,
        {**_DROP, "depths": [1, 2], "embed_dims": [24, 48], "num_heads": [2, 4]},
    ),
    "deepseek_vit": (
        "deepseek_vit_412m", 224, None,
        {**_HEADLESS, "depth": 3, "embed_dim": 48, "num_heads": 3},
    ),
    "deit": (
        "deit_tiny_patch16_224", 64, None,
        {**_DROP, "img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3},
    ),
    "densenet": (
        "densenet121", 64, 96,
        {**_DROPOUT, "block_config": [2, 2, 2, 2], "growth_rate": 8},
    ),
    "dla": ("dla46x_c", 64, 96, _DROPOUT),
    "dpn": (
        "dpn48b", 64, 96,
        {**_DROPOUT, "k_sec": [2, 2, 1, 1], "k_r": 32, "groups": 8, "inc_sec": [8, 16, 16, 32]},
    ),
    "edgenext": ("edgenext_xx_small", 64, 96, _DROP),
    "efficientformer": (
        "efficientformer_l1", 224, None,
        {**_DROP, "depths": [1, 2, 1, 1], "embed_dims": [32, 48, 64, 96]},
    ),
    "efficientformer_v2": (
        "efficientformerv2_s0", 64, None,
        {**_DROP, "img_size": 64, "depths": [1, 2, 1, 1], "embed_dims": [32, 48, 64, 96]},
    ),
    "efficientnet": ("test_efficientnet", 64, 96, _DROP),
    "efficientvim": (
        "efficientvim_m1", 64, 96,
        {**_DROP, "depths": [1, 2, 1], "embed_dim": [32, 48, 64]},
    ),
    "efficientvit_mit": ("efficientvit_b0", 64, 96, {**_DROPOUT, "depths": [1, 1, 2]}),
    "efficientvit_msra": (
        "efficientvit_m0", 64, 96,
        {
            **_DROPOUT, "embed_dim": [32, 48, 64], "num_heads": [2, 2, 2], "kernels": [5, 5],
            "key_dim": [8, 8, 8],
        },
    ),
    "eva": (
        "vit_tiny_patch16_dinov3_qkvb", 64, 96,
        {**_HEADLESS, "depth": 3, "embed_dim": 48, "num_heads": 3},
    ),
    "fasternet": ("fasternet_t0", 64, 96, {**_DROP, "depths": [1, 1, 2]}),
    "fastvit": ("fastvit_t8", 64, 96, {**_DROP, "layers": [1, 2, 1, 1]}),
    "focalnet": ("focalnet_tiny_srf", 64, 96, {}),
    "gcvit": ("gcvit_xxtiny", 64, None, {}),
    "gemma4_vit": ("gemma4_vit_167m", 64, 96, {**_HEADLESS, "depth": 3, "embed_dim": 48, "num_heads": 3}),
    "ghostnet": ("ghostnet_050", 64, 96, _DROPOUT),
    "hardcorenas": ("hardcorenas_b", 64, 96, _DROP),
    "hgnet": ("hgnetv2_b0", 64, 96, _DROP),
    "hiera": ("hiera_tiny_224", 64, None, {**_DROP, "img_size": 64, "embed_dim": 24, "num_heads": 3}),
    "hieradet_sam2": ("sam2_hiera_tiny", 64, 96, {**_HEADLESS, "embed_dim": 24, "num_heads": 3}),
    "hrnet": ("hrnet_w18_small", 64, 96, _DROPOUT),
    "iformer": ("iformer_t", 64, 96, _DROP),
    "inception_next": (
        "inception_next_atto", 64, 96,
        {**_DROP, "depths": [1, 1, 2], "dims": [32, 48, 64, 96]},
    ),
    "inception_resnet_v2": ("inception_resnet_v2", 96, 128, _DROPOUT),
    "inception_v3": ("inception_v3", 96, 128, _DROPOUT),
    "inception_v4": ("inception_v4", 96, 128, _DROPOUT),
    "lcnetv2": ("lcnetv2_small", 64, 96, {**_DROPOUT, "depths": [1, 2, 1, 1]}),
    "levit": ("levit_128s", 64, None, {**_DROP, "img_size": 64, "depth": [1, 1, 2]}),
    "lowformer": ("lowformer_b0", 64, 96, _DROP),
    "mambaout": ("test_mambaout", 64, 96, _DROP),
    "maxxvit": ("test_coatnet", 64, None, {**_DROP, "img_size": 64}),
    "metaformer": ("poolformerv2_s12", 64, 96, _DROP),
    "mlp_mixer": ("gmlp_ti16_224", 64, None, {**_DROP, "img_size": 64}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, 96, _DROP),
    "mobilenetv5": ("mobilenetv5_base", 64, 96, {**_DROP, "channel_multiplier": 0.125, "num_features": 256}),
    "mobilevit": ("mobilevit_xxs", 64, 96, _DROP),
    "mvitv2": ("mvitv2_tiny", 64, 96, {}),
    "naflexvit": (
        "naflexvit_base_patch16_parfac_gap", 64, 96,
        {**_DROP, "depth": 3, "embed_dim": 48, "num_heads": 3},
    ),
    "nasnet": ("nasnetalarge", 64, 96, {}),
    "nest": ("nest_tiny", 64, None, {}),
    "nextvit": ("nextvit_small", 64, 96, {**_DROP, "depths": [2, 2, 5, 2]}),
    "nfnet": ("test_nfnet", 64, 96, _DROP),
    "pit": ("pit_ti_224", 64, None, {**_DROP, "img_size": 64, "depth": [1, 1, 2]}),
    "pnasnet": ("pnasnet5large", 64, 96, {}),
    "pvt_v2": ("pvt_v2_b0", 64, 96, {**_DROP, "depths": [1, 2, 1, 1]}),
    "qwen3_vit": ("qwen3_vit_88m", 64, 96, {**_HEADLESS, "depth": 3, "embed_dim": 48, "num_heads": 3}),
    "rdnet": (
        "rdnet_tiny", 64, 96,
        {
            **_DROP, "num_init_features": 16, "growth_rates": [16, 16, 24, 24, 32],
            "num_blocks_list": [2, 2, 2, 2, 2],
            "is_downsample_block": [None, True, True, False, True],
            "block_type": ["Block", "Block", "BlockESE", "BlockESE", "BlockESE"],
        },
    ),
    "regnet": ("regnetx_002", 64, 96, _DROP),
    "repghost": ("repghostnet_050", 64, 96, _DROPOUT),
    "repvit": ("repvit_m1", 64, 96, {**_DROPOUT, "depth": [1, 2, 1, 1]}),
    "res2net": ("res2next50", 64, 96, {**_DROP, "layers": [1, 2, 1, 1], "channels": [16, 32, 48, 64]}),
    "resnest": ("resnest14d", 64, 96, {**_DROP, "channels": [16, 32, 48, 64]}),
    "resnet": ("test_resnet", 64, 96, _DROP),
    "resnetv2": ("resnetv2_18", 64, 96, {**_DROP, "layers": [1, 2, 1, 1], "channels": [16, 32, 48, 64]}),
    "rexnet": ("rexnet_100", 64, 96, {**_DROP, "width_mult": 0.5, "depth_mult": 0.51}),
    "selecsls": ("selecsls42", 64, 96, _DROPOUT),
    "senet": ("legacy_seresnet18", 64, 96, {**_DROPOUT, "layers": [1, 2, 1, 1]}),
    "sequencer": ("sequencer2d_s", 64, 96, {**_DROP, "layers": [1, 2, 1, 1], "embed_dims": [32, 48, 64, 96]}),
    "shvit": ("shvit_s1", 64, 96, {**_DROPOUT, "depth": [1, 2, 1, 1]}),
    "sknet": ("skresnet18", 64, 96, {**_DROP, "layers": [1, 2, 1, 1], "channels": [16, 32, 48, 64]}),
    "starnet": ("starnet_s050", 64, 96, _DROP),
    "swiftformer": (
        "swiftformer_xs", 64, 96,
        {**_DROP, "layers": [1, 2, 1, 1], "embed_dims": [32, 48, 64, 96]},
    ),
    "swin_transformer": (
        "swin_tiny_patch4_window7_224", 64, None,
        {**_DROP, "img_size": 64, "depths": [1, 1, 2], "embed_dim": 48},
    ),
    "swin_transformer_v2": (
        "swinv2_tiny_window8_256", 64, None,
        {**_DROP, "img_size": 64, "depths": [1, 1, 2], "embed_dim": 48},
    ),
    "swin_transformer_v2_cr": (
        "swinv2_cr_tiny_224", 64, None,
        {**_DROP, "img_size": 64, "depths": [1, 1, 2], "embed_dim": 48},
    ),
    "tiny_vit": ("tiny_vit_5m_224", 64, 96, {**_DROP, "depths": [1, 2, 1, 1]}),
    "tnt": ("tnt_s_legacy_patch16_224", 64, None, {**_DROP, "img_size": 64, "depth": 3, "embed_dim": 48}),
    "tresnet": ("tresnet_m", 64, 96, {**_DROP, "layers": [1, 2, 1, 1], "width_factor": 0.25}),
    "twins": ("twins_svt_small", 64, 96, {**_DROP, "depths": [1, 2, 1, 1], "embed_dims": [32, 48, 64, 96]}),
    "vgg": ("vgg11", 64, 96, {**_DROPOUT, "mlp_ratio": 0.0625}),
    "visformer": (
        "visformer_tiny", 64, None,
        {**_DROP, "img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3},
    ),
    "vision_transformer": ("test_vit", 64, 96, _DROP),
    "vision_transformer_hybrid": (
        "vit_tiny_r_s16_p8_224", 64, 80,
        {**_DROP, "img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3},
    ),
    "vision_transformer_relpos": ("test_vit_relpos", 64, None, {**_DROP, "img_size": 64}),
    "vision_transformer_sam": ("samvit_base_patch16_224", 64, 96, {**_DROP, "depth": 3, "embed_dim": 48}),
    "vitamin": ("vitamin_small_224", 64, None, {**_DROP, "img_size": 64, "depth": 3}),
    "volo": ("volo_d1_224", 64, None, {}),
    "vovnet": ("ese_vovnet19b_slim_dw", 64, 96, _DROP),
    "xception": ("legacy_xception", 64, 96, _DROPOUT),
    "xception_aligned": ("xception41p", 64, 96, _DROP),
    "xcit": ("xcit_nano_12_p8_224", 64, 96, {**_DROP, "depth": 3, "embed_dim": 48, "num_heads": 3}),
}  # fmt: skip

#: Families of timm whose factories take no widths → how numbers of channels are divided.
NARROW: dict[str, dict[str, Any]] = {
    "cspnext": {"factor": 2},
    "dla": {"factor": 2},
    "ghostnet": {"factor": 2},
    "hardcorenas": {"factor": 4},
    "hgnet": {"factor": 4},
    "hrnet": {"factor": 2},
    "inception_resnet_v2": {"factor": 8},
    "inception_v3": {"factor": 8},
    "inception_v4": {"factor": 8},
    "nextvit": {"factor": 4, "widths": ("head_dim",)},
    "pnasnet": {"factor": 6},
    "selecsls": {"factor": 4},
    "regnet": {"factor": 2},
    "senet": {"factor": 4},
    "vgg": {"factor": 8},
    "vovnet": {"factor": 4},
    "xception": {"factor": 4},
    "xception_aligned": {"factor": 4},
}
