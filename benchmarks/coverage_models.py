"""The networks of ``benchmarks/coverage.py``: by name, what builds each, with random weights, and its example inputs.

One of an architecture: other sizes of it say nothing new. They come from the zoo and from what PyPI has:
``transformers`` (by config, shrunken), ``pytorchcv``, ``monai``, ``efficientnet_pytorch``, ``timm`` and
``segmentation_models_pytorch``. The last two import torchvision for reading images and for pretrained encoders; where
it is not installed an empty stand-in takes its place, which their networks do not use. Of
every other package nothing is replaced.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

Built = tuple[Any, tuple[Any, ...]]
MODELS: dict[str, Callable[[], Built]] = {}


def images(channels: int, size: int, batch: int = 2) -> tuple[Any, ...]:
    """One batch of random square images."""
    import torch

    return (torch.randn(batch, channels, size, size),)


# The zoo

_SIZES = {"inception_v3": 96, "densenet121": 64, "unet": 64, "hourglass": 64, "googlenet": 64}


def _zoo(name: str) -> Callable[[], Built]:
    def build() -> Built:
        from netgraft import zoo

        channels, size, _ = zoo.entry(name).input_shape
        return zoo.build(name, width=0.25), images(channels, _SIZES.get(name, min(size, 64)))

    return build


def _zoo_names() -> tuple[str, ...]:
    from netgraft import zoo

    return zoo.names()


MODELS.update({f"zoo/{name}": _zoo(name) for name in _zoo_names()})


# transformers

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_VIT = {**_SMALL, "image_size": 32, "patch_size": 8}
_DETR = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 8},
}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48]}


def _resnet_config(**options: Any) -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], **options)


def _backbone(**options: Any) -> dict[str, Any]:
    return {"backbone_config": _resnet_config(**options), "use_timm_backbone": False, "use_pretrained_backbone": False}


def _convnext_backbone() -> Any:
    from transformers import ConvNextConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    return ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[16, 24, 32, 48], out_features=stages)


_ALL_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_UVDOC = {"model_type": "uvdoc_backbone", "out_features": [f"stage{n}" for n in range(1, 7)]}

# name: (class, config class, options or a function that gives them, image size)
_TRANSFORMERS: dict[str, tuple[str, str, Any, int]] = {
    "resnet": ("ResNetForImageClassification", "ResNetConfig", {"embedding_size": 16, **_STAGES}, 64),
    "regnet": (
        "RegNetForImageClassification",
        "RegNetConfig",
        {"embedding_size": 16, "groups_width": 8, **_STAGES},
        64,
    ),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", "MobileNetV1Config", {"depth_multiplier": 0.25}, 64),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.35}, 64),
    "mobilenet_v2_segmentation": (
        "MobileNetV2ForSemanticSegmentation",
        "MobileNetV2Config",
        {"depth_multiplier": 0.35},
        64,
    ),
    "efficientnet": (
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        {"width_coefficient": 0.5, "hidden_dim": 640},
        64,
    ),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", _STAGES, 64),
    "convnextv2": ("ConvNextV2ForImageClassification", "ConvNextV2Config", _STAGES, 64),
    "segformer": (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32},
        64,
    ),
    "segformer_classifier": ("SegformerForImageClassification", "SegformerConfig", {}, 64),
    "vit": ("ViTForImageClassification", "ViTConfig", _VIT, 32),
    "deit": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", _VIT, 32),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 2},
        32,
    ),
    "swinv2": (
        "Swinv2ForImageClassification",
        "Swinv2Config",
        {"image_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 2},
        32,
    ),
    "swin2sr": (
        "Swin2SRForImageSuperResolution",
        "Swin2SRConfig",
        {"image_size": 16, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "upscale": 2},
        16,
    ),
    "dpt": (
        "DPTForDepthEstimation",
        "DPTConfig",
        {
            **{**_VIT, "num_hidden_layers": 4, "image_size": 64, "patch_size": 16},
            **{"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 16, 16], "fusion_hidden_size": 16},
        },
        64,
    ),
    "mobilevit": (
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64]},
        64,
    ),
    "mobilevit_segmentation": ("MobileViTForSemanticSegmentation", "MobileViTConfig", {"image_size": 64}, 64),
    "mobilevitv2": ("MobileViTV2ForImageClassification", "MobileViTV2Config", {"width_multiplier": 0.5}, 64),
    "beit": ("BeitForImageClassification", "BeitConfig", {**_VIT, "use_relative_position_bias": True}, 32),
    "data2vec_vision": ("Data2VecVisionForImageClassification", "Data2VecVisionConfig", _VIT, 32),
    "pvt": (
        "PvtForImageClassification",
        "PvtConfig",
        {"image_size": 64, "hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1]},
        64,
    ),
    "pvt_v2": (
        "PvtV2ForImageClassification",
        "PvtV2Config",
        {"image_size": 64, "hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1]},
        64,
    ),
    "poolformer": (
        "PoolFormerForImageClassification",
        "PoolFormerConfig",
        {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]},
        64,
    ),
    "levit": ("LevitForImageClassificationWithTeacher", "LevitConfig", {"image_size": 64}, 64),
    "cvt": (
        "CvtForImageClassification",
        "CvtConfig",
        {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
        64,
    ),
    "upernet": (
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        lambda: {"backbone_config": _convnext_backbone(), "hidden_size": 32, "auxiliary_in_channels": 32},
        64,
    ),
    "detr": ("DetrForObjectDetection", "DetrConfig", lambda: {**_DETR, **_backbone(out_features=["stage4"])}, 64),
    "conditional_detr": (
        "ConditionalDetrForObjectDetection",
        "ConditionalDetrConfig",
        lambda: {**_DETR, **_backbone(out_features=["stage4"])},
        64,
    ),
    "table_transformer": (
        "TableTransformerForObjectDetection",
        "TableTransformerConfig",
        lambda: {**_DETR, **_backbone(out_features=["stage4"])},
        64,
    ),
    "deformable_detr": (
        "DeformableDetrForObjectDetection",
        "DeformableDetrConfig",
        lambda: {**_DETR, **_backbone(out_features=["stage2", "stage3", "stage4"]), "num_feature_levels": 4},
        128,
    ),
    "yolos": (
        "YolosForObjectDetection",
        "YolosConfig",
        {**_VIT, "image_size": [32, 32], "num_detection_tokens": 6, "use_mid_position_embeddings": False},
        32,
    ),
    "glpn": (
        "GLPNForDepthEstimation",
        "GLPNConfig",
        {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16},
        64,
    ),
    "focalnet": (
        "FocalNetForImageClassification",
        "FocalNetConfig",
        {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 128]},
        64,
    ),
    "bit": (
        "BitForImageClassification",
        "BitConfig",
        {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "num_groups": 8},
        64,
    ),
    "swiftformer": (
        "SwiftFormerForImageClassification",
        "SwiftFormerConfig",
        {"image_size": 64, "embed_dims": [16, 24, 32, 48], "depths": [1, 1, 1, 1]},
        64,
    ),
    "hiera": (
        "HieraForImageClassification",
        "HieraConfig",
        {"image_size": [64, 64], "embed_dim": 16, "num_heads": [1, 2, 4, 8], "depths": [1, 1, 2, 1]},
        64,
    ),
    "textnet": ("TextNetForImageClassification", "TextNetConfig", {}, 64),
    "hgnet_v2": ("HGNetV2ForImageClassification", "HGNetV2Config", {}, 64),
    "superpoint": ("SuperPointForKeypointDetection", "SuperPointConfig", {}, 64),
    "rt_detr_backbone": (
        "RTDetrResNetBackbone",
        "RTDetrResNetConfig",
        {"embedding_size": 16, "out_features": _ALL_STAGES, **_STAGES},
        64,
    ),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", _VIT, 32),
    "dinov2_registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        {**_VIT, "num_register_tokens": 2},
        32,
    ),
    "dinov3_vit": ("DINOv3ViTModel", "DINOv3ViTConfig", _VIT, 32),
    "dinov3_convnext": ("DINOv3ConvNextModel", "DINOv3ConvNextConfig", _STAGES, 64),
    "clip_vision": ("CLIPVisionModel", "CLIPVisionConfig", _VIT, 32),
    "siglip_vision": ("SiglipVisionModel", "SiglipVisionConfig", _VIT, 32),
    "vit_msn": ("ViTMSNForImageClassification", "ViTMSNConfig", _VIT, 32),
    "vitdet": ("VitDetBackbone", "VitDetConfig", {**_SMALL, "image_size": 64, "patch_size": 16}, 64),
    "ijepa": ("IJepaForImageClassification", "IJepaConfig", _VIT, 32),
    "depth_anything": ("DepthAnythingForDepthEstimation", "DepthAnythingConfig", lambda: _depth_anything(), 56),
    "maskformer_swin": ("MaskFormerSwinBackbone", "MaskFormerSwinConfig", {"image_size": 64, "embed_dim": 24}, 64),
    "sam_vision": (
        "SamVisionModel",
        "SamVisionConfig",
        {**_SMALL, "image_size": 64, "patch_size": 16, "output_channels": 16, "window_size": 2},
        64,
    ),
    "vitpose": ("VitPoseBackbone", "VitPoseBackboneConfig", {**_SMALL, "image_size": [64, 64]}, 64),
    "pp_lcnet": ("PPLCNetForImageClassification", "PPLCNetConfig", {}, 64),
    "uvdoc": ("UVDocModel", "UVDocConfig", {"backbone_config": _UVDOC}, 64),
}


def _depth_anything() -> dict[str, Any]:
    from transformers import Dinov2Config

    backbone = Dinov2Config(
        **{**_SMALL, "num_hidden_layers": 4, "image_size": 56, "patch_size": 14},
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return {
        **{"backbone_config": backbone, "reassemble_hidden_size": 32, "patch_size": 14, "fusion_hidden_size": 16},
        **{"neck_hidden_sizes": [16, 16, 16, 16]},
    }


def _transformers(cls: str, config: str, options: Any, size: int) -> Callable[[], Built]:
    def build() -> Built:
        import transformers

        given = options() if callable(options) else options
        made = getattr(transformers, config)(**given)
        module = getattr(transformers, cls)(made)
        return module, images(1 if cls == "SuperPoint" else 3, size)

    return build


MODELS.update({f"transformers/{name}": _transformers(*spec) for name, spec in _TRANSFORMERS.items()})


# pytorchcv: (module, builder, image size)

_PYTORCHCV = {
    "alexnet": ("alexnet", 128),
    "zfnet": ("zfnet", 128),
    "vgg": ("bn_vgg11", 64),
    "bninception": ("bninception", 64),
    "resnet": ("resnet10", 64),
    "preresnet": ("preresnet10", 64),
    "resnext": ("resnext14_16x4d", 64),
    "senet": ("senet16", 64),
    "ibnresnet": ("ibn_resnet50", 64),
    "airnet": ("airnet50_1x64d_r2", 64),
    "bamresnet": ("bam_resnet18", 64),
    "cbamresnet": ("cbam_resnet18", 64),
    "resattnet": ("resattnet56", 64),
    "sknet": ("sknet50", 64),
    "diaresnet": ("diaresnet10", 64),
    "pyramidnet": ("pyramidnet101_a360", 32),
    "diracnetv2": ("diracnet18v2", 64),
    "densenet": ("densenet121", 64),
    "condensenet": ("condensenet74_c4_g4", 64),
    "sparsenet": ("sparsenet121", 64),
    "peleenet": ("peleenet", 64),
    "drn": ("drnc26", 64),
    "dpn": ("dpn68", 64),
    "darknet": ("darknet_ref", 64),
    "darknet53": ("darknet53", 64),
    "bagnet": ("bagnet9", 64),
    "dla": ("dla34", 64),
    "fishnet": ("fishnet99", 64),
    "espnetv2": ("espnetv2_wd2", 64),
    "dicenet": ("dicenet_wd2", 224),
    "hrnet": ("hrnet_w18_small_v1", 224),
    "vovnet": ("vovnet27s", 64),
    "selecsls": ("selecsls42b", 64),
    "hardnet": ("hardnet39ds", 64),
    "xdensenet": ("xdensenet121_2", 64),
    "squeezenet": ("squeezenet_v1_1", 64),
    "squeezenext": ("sqnxt23_w1", 64),
    "shufflenet": ("shufflenet_g3_wd4", 64),
    "shufflenetv2": ("shufflenetv2_wd2", 64),
    "menet": ("menet108_8x1_g3", 64),
    "mobilenet": ("mobilenet_wd4", 64),
    "mobilenetv2": ("mobilenetv2_wd4", 64),
    "mobilenetv3": ("mobilenetv3_small_wd2", 64),
    "igcv3": ("igcv3_wd4", 64),
    "ghostnet": ("ghostnet", 64),
    "mnasnet": ("mnasnet_small", 64),
    "proxylessnas": ("proxylessnas_cpu", 64),
    "fbnet": ("fbnet_cb", 64),
    "xception": ("xception", 128),
    "inceptionv3": ("inceptionv3", 128),
    "inceptionv4": ("inceptionv4", 128),
    "inceptionresnetv2": ("inceptionresnetv2", 128),
    "polynet": ("polynet", 128),
    "nasnet": ("nasnet_4a1056", 64),
    "pnasnet": ("pnasnet5large", 96),
    "efficientnet": ("efficientnet_b0", 64),
    "efficientnetedge": ("efficientnet_edge_small_b", 64),
    "mixnet": ("mixnet_s", 64),
    "resnesta": ("resnestabc14", 64),
    "rir_cifar": ("rir_cifar10", 32),
    "nin_cifar": ("nin_cifar10", 32),
    "resnet_cifar": ("resnet542bn_cifar10", 32),  # one of about 1,500 operations
    "shakeshakeresnet_cifar": ("shakeshakeresnet20_2x16d_cifar10", 32),
    "resdropresnet_cifar": ("resdropresnet20_cifar10", 32),
    "wrn1bit_cifar": ("wrn20_10_1bit_cifar10", 32),
    "pspnet": ("pspnet_resnetd50b_voc", 96),
    "deeplabv3": ("deeplabv3_resnetd50b_voc", 96),
    "icnet": ("icnet_resnetd50b_cityscapes", 128),
    "fastscnn": ("fastscnn_cityscapes", 128),
    "cgnet": ("cgnet_cityscapes", 64),
    "dabnet": ("dabnet_cityscapes", 64),
    "bisenet": ("bisenet_resnet18_celebamaskhq", 64),
    "lwopenpose_cmupan": ("lwopenpose2d_mobilenet_cmupan_coco", 64),
    "alphapose_coco": ("alphapose_fastseresnet101b_coco", 64),
    "simplepose_coco": ("simplepose_resnet18_coco", 64),
    "centernet": ("centernet_resnet18_voc", 64),
    "danet": ("danet_resnetd50b_cityscapes", 96),
    "msdnet": ("msdnet22", 64),
    "octresnet": ("octresnet10_ad2", 64),
    "revnet": ("revnet38", 64),
    "isqrtcovresnet": ("isqrtcovresnet18", 64),
    "channelnet": ("channelnet", 64),
    "lffd": ("lffd20x5s320v2_widerface", 64),
    "ibppose_coco": ("ibppose_coco", 128),
    "linknet": ("linknet_cityscapes", 64),
    "lednet": ("lednet_cityscapes", 64),
    "enet": ("enet_cityscapes", 64),
    "erfnet": ("erfnet_cityscapes", 64),
    "fpenet": ("fpenet_cityscapes", 64),
    "sinet": ("sinet_cityscapes", 256),
    "unet": ("unet_cityscapes", 64),
}
_IN_SIZE = ("cityscapes", "voc", "celebamaskhq", "coco", "sinet")


def _pytorchcv(module: str, builder: str, size: int) -> Callable[[], Built]:
    def build() -> Built:
        import inspect

        found = getattr(importlib.import_module(f"pytorchcv.models.{module}"), builder)
        options: dict[str, Any] = {"pretrained": False}
        if "pretrained_backbone" in inspect.signature(found).parameters:
            options["pretrained_backbone"] = False
        if any(word in builder for word in _IN_SIZE) or module == "hrnet":
            options["in_size"] = (size, size)
        try:
            built = found(**options)
        except TypeError:
            options.pop("in_size", None)
            built = found(**options)
        return built, images(3, _taken(built, size))

    return build


def _taken(module: Any, size: int) -> int:
    """``size`` where the network takes images of it, otherwise the size that it says it is for."""
    import torch

    try:
        with torch.no_grad():
            module.eval()(*images(3, size))
    except RuntimeError:
        return int(module.in_size[0])
    return size


MODELS.update({f"pytorchcv/{name}": _pytorchcv(name, *spec) for name, spec in _PYTORCHCV.items()})


# monai (two dimensions unless said)

_2D = {"spatial_dims": 2, "in_channels": 1}
_UNET = {"channels": (8, 16, 32), "strides": (2, 2), "out_channels": 2}
_CODES = {**_UNET, "strides": (2, 2, 2)}
_MONAI: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "UNet": ("UNet", {**_2D, **_UNET, "num_res_units": 2}, (1, 32, 32)),
    "UNet_1d": ("UNet", {"spatial_dims": 1, "in_channels": 1, **_UNET}, (1, 64)),
    "UNet_3d": ("UNet", {"spatial_dims": 3, "in_channels": 1, **_UNET}, (1, 16, 16, 16)),
    "BasicUNet": ("BasicUNet", {**_2D, "features": (8, 8, 16, 16, 32, 8)}, (1, 32, 32)),
    "BasicUNetPlusPlus": ("BasicUNetPlusPlus", {**_2D, "features": (8, 8, 16, 16, 32, 8)}, (1, 32, 32)),
    "AttentionUnet": ("AttentionUnet", {**_2D, **_UNET}, (1, 32, 32)),
    "SegResNet": ("SegResNet", {**_2D, "init_filters": 8}, (1, 32, 32)),
    "SegResNetVAE": ("SegResNetVAE", {**_2D, "init_filters": 8, "input_image_size": (32, 32)}, (1, 32, 32)),
    "DynUNet": (
        "DynUNet",
        {
            **{**_2D, "out_channels": 2, "kernel_size": (3, 3, 3), "strides": (1, 2, 2)},
            **{"upsample_kernel_size": (2, 2), "filters": (8, 16, 32)},
        },
        (1, 32, 32),
    ),
    "VNet": ("VNet", {**_2D}, (1, 32, 32)),
    "HighResNet": ("HighResNet", {**_2D}, (1, 32, 32)),
    "DenseNet121": ("DenseNet121", {**_2D, "out_channels": 3}, (1, 64, 64)),
    "EfficientNetBN": ("EfficientNetBN", {"model_name": "efficientnet-b0", "pretrained": False}, (3, 64, 64)),
    "SENet154": ("SEResNet50", {**_2D, "num_classes": 3}, (1, 64, 64)),
    "ResNet": ("resnet18", {"spatial_dims": 2, "n_input_channels": 1, "num_classes": 3}, (1, 64, 64)),
    "Regressor": (
        "Regressor",
        {"in_shape": (1, 32, 32), "out_shape": 1, "channels": (8, 16), "strides": (2, 2)},
        (1, 32, 32),
    ),
    "Classifier": (
        "Classifier",
        {"in_shape": (1, 32, 32), "classes": 3, "channels": (8, 16), "strides": (2, 2)},
        (1, 32, 32),
    ),
    "AutoEncoder": ("AutoEncoder", {**_2D, **_CODES}, (1, 32, 32)),
    "VarAutoEncoder": (
        "VarAutoEncoder",
        {"spatial_dims": 2, "in_shape": (1, 32, 32), "latent_size": 4, **_CODES},
        (1, 32, 32),
    ),
    "ViT": (
        "ViT",
        {
            **{"in_channels": 1, "img_size": (32, 32), "patch_size": (8, 8), "spatial_dims": 2, "hidden_size": 32},
            **{"mlp_dim": 64, "num_layers": 2, "num_heads": 2, "classification": True},
        },
        (1, 32, 32),
    ),
    "UNETR": (
        "UNETR",
        {
            **{"in_channels": 1, "out_channels": 2, "img_size": (32, 32), "feature_size": 8, "hidden_size": 48},
            **{"mlp_dim": 96, "num_heads": 4, "spatial_dims": 2},
        },
        (1, 32, 32),
    ),
    "SwinUNETR": ("SwinUNETR", {**_2D, "out_channels": 2, "feature_size": 12}, (1, 64, 64)),
    "FlexibleUNet": (
        "FlexibleUNet",
        {**_2D, "in_channels": 3, "out_channels": 2, "backbone": "efficientnet-b0"},
        (3, 64, 64),
    ),
    "Generator": (
        "Generator",
        {"latent_shape": (16,), "start_shape": (8, 4, 4), "channels": (8, 4), "strides": (2, 2)},
        (16,),
    ),
    "Discriminator": ("Discriminator", {"in_shape": (1, 32, 32), "channels": (8, 16), "strides": (2, 2)}, (1, 32, 32)),
    "CaraNet_HoVerNet": ("HoVerNet", {"mode": "fast", "out_classes": 3}, (3, 256, 256)),
    "DiNTS_MedNeXt": ("MedNeXt", {**_2D, "init_filters": 8}, (1, 64, 64)),
    "QuickNAT": ("Quicknat", {"num_classes": 3, "num_filters": 8, "num_channels": 1}, (1, 64, 64)),
}


def _monai(cls: str, options: dict[str, Any], shape: tuple[int, ...]) -> Callable[[], Built]:
    def build() -> Built:
        import torch
        from monai.networks import nets

        return getattr(nets, cls)(**options), (torch.randn(2, *shape),)

    return build


MODELS.update({f"monai/{name}": _monai(*spec) for name, spec in _MONAI.items()})


# efficientnet_pytorch


def _efficientnet_pytorch(name: str) -> Callable[[], Built]:
    def build() -> Built:
        from efficientnet_pytorch import EfficientNet

        return EfficientNet.from_name(name), images(3, 64)

    return build


for _version in ("b0", "b2"):
    MODELS[f"efficientnet_pytorch/{_version}"] = _efficientnet_pytorch(f"efficientnet-{_version}")


# timm and segmentation_models_pytorch


class _Empty(type):
    """A class without contents, whose every attribute is its name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Stand(types.ModuleType):
    """An empty package: every name in it is an empty class."""

    __path__: list[str] = []  # noqa: RUF012  # what makes a module a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        return _Stand(spec.name)

    def exec_module(self, module: Any) -> None:
        """Nothing to do."""


def _stand_in_for_torchvision() -> None:
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, _StandIns())


# By image size; 0 is the size that the network was made for.
_TIMM_NAMES = {
    64: (
        "resnet18 resnet26d resnetv2_50 seresnet18 skresnet18 ecaresnet26t resnest14d res2net50_14w_8s "
        "resnext26ts gcresnet33ts dpn48b regnetx_002 regnety_002 regnetz_b16 "
        "efficientnet_b0 efficientnetv2_rw_t tf_efficientnet_b0 "
        "tf_mobilenetv3_small_100 mobilenetv3_small_050 mobilenetv4_conv_small "
        "mobileone_s0 tinynet_e lcnet_050 ghostnetv2_100 "
        "repvgg_a0 repghostnet_050 ese_vovnet19b_dw cspresnet50 "
        "cspdarknet53 convmixer_768_32 inception_next_atto convnextv2_atto "
        "caformer_s18 convformer_s18 fastvit_t8 repvit_m0_9 edgenext_xx_small "
    ),
    96: ("xception41 legacy_senet154 hrnet_w18_small nfnet_f0 eca_nfnet_l0 rexnet_100 "),
    224: (
        "efficientvit_b0 efficientvit_m0 efficientformer_l1 efficientformerv2_s0 vit_tiny_patch16_224 cait_xxs24_224 "
    ),
    0: (
        "swinv2_tiny_window8_256 mixer_s32_224 gmlp_ti16_224 resmlp_12_224 "
        "pit_ti_224 levit_128s convit_tiny coat_lite_tiny crossvit_tiny_240 twins_pcpvt_small "
        "visformer_tiny xcit_nano_12_p16_224 mvitv2_tiny maxvit_rmlp_pico_rw_256 "
        "coatnet_pico_rw_224 davit_tiny volo_d1_224 "
        "nest_tiny sequencer2d_s tnt_s_patch16_224 botnet26t_256 halonet26t "
        "lambda_resnet26t eva02_tiny_patch14_224 tiny_vit_5m_224 starnet_s1 mambaout_femto rdnet_tiny "
        "shvit_s1 csatv2 "
    ),
}
_TIMM = {name: size for size, names in _TIMM_NAMES.items() for name in names.split()}


def _timm(name: str, size: int) -> Callable[[], Built]:
    def build() -> Built:
        _stand_in_for_torchvision()
        import timm

        if name not in timm.list_models():
            raise ImportError(f"timm {timm.__version__} has no {name}")
        module = timm.create_model(name, pretrained=False)
        return module, images(3, size or module.default_cfg["input_size"][-1])

    return build


MODELS.update({f"timm/{name}": _timm(name, size) for name, size in _TIMM.items()})

_SMP = ("Unet", "UnetPlusPlus", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "MAnet", "UPerNet")


def _smp(name: str) -> Callable[[], Built]:
    def build() -> Built:
        _stand_in_for_torchvision()
        import segmentation_models_pytorch as smp

        size = 128 if name == "PAN" else 64  # it pools its smallest map three times
        return getattr(smp, name)("tu-resnet18", encoder_weights=None, classes=3), images(3, size)

    return build


MODELS.update({f"segmentation_models_pytorch/{name}": _smp(name) for name in _SMP})
