"""Android: a Gradle build in Kotlin, of which one module runs on any JVM; LiteRT runs the artifact."""

from __future__ import annotations

from functools import partial

from qtools.pipeline.bundles import _templates
from qtools.pipeline.bundles._bundle import VECTORS, Bundle

BUNDLE = Bundle(
    title="Android",
    formats=("tflite",),
    place=partial(_templates.place, "android"),
    how="gradle :core:test replays the vectors' tensors on any JVM, gradle :vision:connectedAndroidTest all of them on "
    "a device; an app depends on the module vision",
    assets="vision/src/main/assets",
    vectors=f"vision/src/androidTest/assets/{VECTORS}",  # of the test's APK: an app does not carry them
    systems={"Android": "7.0"},
    tools={"gradle": "builds the modules and runs their tests", "adb": "reaches the device that replays the vectors"},
)
