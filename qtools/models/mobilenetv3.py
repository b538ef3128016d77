"""MobileNetV3 (Howard et al., ICCV 2019, arXiv 1905.02244) and MobileNetV4 (Qin et al., ECCV 2024, arXiv 2404.10518).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at; it was read
before MobileNetV4 was in it, and the paper's accuracy is that of other weights. Parameters and multiply-accumulates:
counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="mobilenetv3",
    level="converted",
    paper="https://arxiv.org/abs/1905.02244",
    cards=(
        hub_card("mobilenetv3_small_050", 1.593, 0.02419, LICENCE, {"lamb_in1k": 57.91}),
        hub_card("mobilenetv3_small_075", 2.042, 0.0434, LICENCE, {"lamb_in1k": 65.234}),
        hub_card("mobilenetv3_small_100", 2.543, 0.05651, LICENCE, {"lamb_in1k": 67.656}, ("mobilenetv3_small",)),
        hub_card(
            "mobilenetv3_large_100",
            5.483,
            0.2166,
            LICENCE,
            {"ra_in1k": 75.766, "miil_in21k_ft_in1k": 77.918, "ra4_e3600_r224_in1k": None, "miil_in21k": None},
            ("mobilenetv3_large",),
        ),
        hub_card(
            "mobilenetv4_conv_small",
            3.774,
            0.186,
            LICENCE,
            {"e2400_r224_in1k": None, "e1200_r224_in1k": None, "e3600_r256_in1k": None},
            ("mobilenetv4_conv_s",),
        ),
        hub_card(
            "mobilenetv4_conv_medium",
            9.716,
            1.08,
            LICENCE,
            {
                "e500_r256_in1k": None,
                "e250_r384_in12k_ft_in1k": None,
                "e500_r224_in1k": None,
                "e180_ad_r384_in12k": None,
                "e180_r384_in12k": None,
                "e250_r384_in12k": None,
            },
            ("mobilenetv4_conv_m",),
        ),
        hub_card(
            "mobilenetv4_conv_large",
            32.59,
            6.376,
            LICENCE,
            {"e600_r384_in1k": None, "e500_r256_in1k": None},
            ("mobilenetv4_conv_l",),
        ),
        hub_card(
            "mobilenetv4_hybrid_medium",
            11.07,
            1.271,
            LICENCE,
            {
                "e200_r256_in12k_ft_in1k": None,
                "e500_r224_in1k": None,
                "ix_e550_r256_in1k": None,
                "ix_e550_r384_in1k": None,
                "e200_r256_in12k": None,
            },
            ("mobilenetv4_hybrid_m",),
        ),
        hub_card(
            "mobilenetv4_hybrid_large",
            37.76,
            7.712,
            LICENCE,
            {"ix_e600_r384_in1k": None, "e600_r384_in1k": None},
            ("mobilenetv4_hybrid_l",),
        ),
    ),
)
