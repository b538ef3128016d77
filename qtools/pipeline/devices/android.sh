#!/bin/sh
# Times the artifacts beside this script on an Android device with TFLite's benchmark_model, over adb.
#
#   sh run.sh [benchmark_model] > output.txt      then: qtools bench --parse output.txt
#
# benchmark_model is TensorFlow's program for the device's processor; without a path it has to be in $FOLDER on the
# device already. Several devices: ANDROID_SERIAL says which.
set -u
FOLDER=/data
FOLDER=$FOLDER/local/tmp/qtools-bench
cd "$(dirname "$0")" || exit 2

property() {
    adb shell getprop "$1" </dev/null | tr -d '\r"\\'
}

timed() { # name, mark, flags
    printf 'qtools-bench: %s\n' "$2"
    # shellcheck disable=SC2086 -- flags are several words
    adb shell "$FOLDER/benchmark_model" --graph="$FOLDER/$1" $3 </dev/null 2>&1
    printf '\n'
}

adb shell mkdir -p "$FOLDER" </dev/null || exit 3
if [ $# -gt 0 ]; then
    adb push "$1" "$FOLDER/benchmark_model" >&2 </dev/null || exit 3
    adb shell chmod 755 "$FOLDER/benchmark_model" </dev/null || exit 3
fi
printf 'qtools-bench: {"device": "android", "name": "%s %s", "system": "Android %s", "chip": "%s"}\n' \
    "$(property ro.product.manufacturer)" "$(property ro.product.model)" "$(property ro.build.version.release)" \
    "$(property ro.soc.model)"

